"""Lists of recommendations: what they are worth, and data of which only the likes are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import close, equal

from fedlab_helpers import (
    SGD,
    Examples,
    Federation,
    PFedRec,
    binary_cross_entropy,
    datasets,
    ranking,
    simulate,
)
from fedlab_helpers.model import Model


def ratings(users=4, items=30, least=3):
    """User u has rated items u, u + 1, ...; the last of them is the test."""
    rated = [torch.arange(u, u + least + u)[:, None] for u in range(users)]
    return Federation(
        Examples.stack([(x[:-1], x[:-1, 0].double()) for x in rated]),
        Examples.stack([(x[-1:], torch.ones(1).double()) for x in rated]),
        name="toy",
    ), items


def test_regret_is_what_the_best_items_are_better_by():
    output = torch.tensor([[0.1, 0.9, 0.5, 0.7]])
    y = torch.tensor([[4.0, 1.0, 2.0, 3.0]])
    close(ranking.regret(1)(output, y), torch.tensor([4.0 - 1.0]))
    close(ranking.regret(2)(output, y), torch.tensor([3.5 - 2.0]))
    assert ranking.regret(2)(y, y) == 0
    assert not ranking.regret(2).higher_is_better


def test_rows_that_fill_up_are_recommended_to_nobody():
    output, y = torch.tensor([[0.1, 0.9, 0.5, 9.0]]), torch.tensor([[4.0, 1.0, 2.0, 99.0]])
    mask = torch.tensor([[True, True, True, False]])
    equal(ranking.regret(1)(output, y, mask), ranking.regret(1)(output[:, :3], y[:, :3]))
    with pytest.raises(ValueError, match="lists of at least 4 items, but one has 3"):
        ranking.regret(4)(output, y, mask)


def test_the_right_item_comes_last_among_equals():
    scores = torch.tensor([[0.3, 0.9, 0.3, 0.1], [1.0, 0.0, 0.0, 0.0]])
    right = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 0]])
    assert ranking.places(scores, right).tolist() == [3, 1]
    assert ranking.place(scores, right.double()).tolist() == [3, 1]


def test_hit_rate_and_ndcg_of_one_right_item():
    places = torch.tensor([1, 3, 10, 11])
    assert ranking.hit_rate(places).tolist() == [1, 1, 1, 0]
    assert ranking.hit_rate(places, 1).tolist() == [1, 0, 0, 0]
    assert ranking.ndcg(places).tolist() == pytest.approx([1, 0.5, 1 / np.log2(11), 0])


def test_negatives_are_items_that_the_client_has_not_chosen():
    data, items = ratings()
    likes = ranking.leave_one_out(data, items, others=20, negatives=3)
    for k in range(len(likes)):
        chosen = set(likes.train[k][0][:, 0].tolist())
        mine = set(data.train[k][0][:, 0].tolist()) | set(data.test[k][0][:, 0].tolist())
        x, y = likes.local(torch.tensor([k]), None, 1, 0, 1).all[:2]
        x, y = x[0, :, 0], y[0]
        assert set(x[y == 1].tolist()) == chosen
        assert mine.isdisjoint(x[y == 0].tolist())
        assert len(y) == 4 * len(chosen)


def test_fresh_negatives_are_drawn_in_every_round_and_others_once():
    data, items = ratings()
    for fresh in (True, False):
        likes = ranking.leave_one_out(data, items, others=20, fresh=fresh)
        first, again, later, other = (
            likes.local(torch.arange(4), None, 1, seed, round).all.x
            for seed, round in ((0, 1), (0, 1), (0, 2), (1, 1))
        )
        equal(first, again)
        assert torch.equal(first, later) is not fresh
        assert not torch.equal(first, other)


def test_a_list_has_the_test_item_first_and_only_unrated_ones_after_it():
    data, items = ratings()
    likes = ranking.leave_one_out(data, items, others=20)
    for k in range(4):
        x, y = likes.test[k]
        assert x[0, 0] == data.test[k][0][0, 0]
        assert y.tolist() == [1] + [0] * 20
        assert len(x.unique()) == 21
        assert set(data.train[k][0][:, 0].tolist()).isdisjoint(x[1:, 0].tolist())


def test_tuning_looks_at_choices_of_the_training_data_only():
    data, items = ratings()
    likes = ranking.leave_one_out(data, items, others=20).select([1, 3])
    tuning = likes.for_tuning()
    assert tuning.sizes.tolist() == [n - 1 for n in likes.sizes.tolist()]
    for k in range(2):
        held_out = int(tuning.test[k][0][0, 0])
        assert held_out in likes.train[k][0][:, 0]
        assert held_out not in tuning.train[k][0][:, 0]
        assert likes.test[k][0][0, 0] not in tuning.test[k][0]


def test_what_cannot_be_ranked_is_refused():
    data, items = ratings()
    with pytest.raises(ValueError, match="expected one test item a client"):
        ranking.leave_one_out(Federation(data.test, data.train), items)
    with pytest.raises(ValueError, match="expected at least 99 unrated items, but client 0 has 27"):
        ranking.leave_one_out(data, items)
    single = replace(data, train=data.test)
    with pytest.raises(ValueError, match="at least two training examples a client"):
        ranking.leave_one_out(single, items, others=20).for_tuning()


def test_made_up_users_choose_what_they_like_and_rate_it_with_noise():
    world = datasets.preferences(users=60, items=50, ratings=(10, 20), choice=2.0, noise=0.3)
    assert len(world) == 60
    assert (int(world.sizes.min()), int(world.sizes.max())) == (10, 20)
    assert (world.sizes + world.test.sizes == 50).all(), "rated or in the test, each item once"
    chosen, rest = (e.y.mean() for e in (world.train, world.test))
    assert chosen > rest + 0.5
    equal(world.test.y, datasets.preferences(
        users=60, items=50, ratings=(10, 20), choice=2.0, noise=0.0).test.y)  # fmt: skip
    quiet = datasets.preferences(users=60, items=50, ratings=(10, 20), choice=2.0, noise=0.0)
    assert float((world.train.y - quiet.train.y).std()) == pytest.approx(0.3, abs=0.03)
    indifferent = datasets.preferences(users=60, items=50, ratings=(10, 20), choice=0.0)
    assert abs(float(indifferent.train.y.mean() - indifferent.test.y.mean())) < 0.2


def test_a_world_in_which_everybody_rates_everything_is_refused():
    with pytest.raises(ValueError, match=r"ratings\[1\] < items"):
        datasets.preferences(items=20, ratings=(10, 20))


def test_per_item_moves_an_item_by_the_mean_over_those_who_have_it():
    """Three users; item 0 is known to two of them, item 1 to one, item 2 to none."""
    table, shared = torch.zeros(3, 2), torch.zeros(1)
    rows = torch.tensor([[0, 0], [0, 1], [1, 1]])  # the last user's move of item 1 is nothing
    moves = torch.zeros(3, 2, 2)
    moves[0, 0], moves[1, 0], moves[1, 1] = 1.0, 3.0, 5.0
    uploads = rows, moves, torch.ones(3, 1)
    for per_item, wanted in ((True, [2.0, 5.0, 0.0]), (False, [4 / 3, 5 / 3, 0.0])):
        algorithm = PFedRec(per_item=per_item)
        new, other = algorithm.aggregate(None, (table, shared), uploads, None)
        close(new, torch.tensor(wanted)[:, None].expand(-1, 2))
        assert other == 1


def test_an_implicit_federation_runs_and_its_places_are_counted():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.items, self.score = torch.nn.Embedding(30, 2), torch.nn.Linear(2, 1)

        def forward(self, x):
            return self.score(self.items(x).flatten(1))

    data, items = ratings()
    likes = ranking.leave_one_out(data, items, others=20)
    model = Model(Net, binary_cross_entropy, ranking.place)
    history = simulate(
        PFedRec(optimiser=SGD(0.1)), model, likes, rounds=2, progress=False, threads=1
    )
    assert ((history.after[-1] >= 1) & (history.after[-1] <= 21)).all()
