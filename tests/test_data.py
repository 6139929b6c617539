"""The data of a federation: what belongs to whom, and in which order it is visited."""

from dataclasses import replace

import pytest
import torch
from toys import SIZES, classification, close, equal

from fedlab_helpers import Batch, Examples, Federation, LocalData

NAN = float("nan")


def numbered(sizes=SIZES):
    """Examples whose x and y are their row number."""
    rows = torch.arange(sum(sizes))
    return Examples(rows[:, None].double(), rows.double(), sizes)


def by_size(sizes=SIZES):
    return torch.tensor(sizes).argsort(descending=True)


def local(clients, sizes=SIZES, batch_size=4, epochs=1, steps=None, key=(0, 0)):
    clients = torch.as_tensor(clients)
    return LocalData(numbered(sizes), clients, batch_size, epochs, steps, key)


def visits(data):
    """The rows that every client really visits, {client: [rows of step 0, rows of step 1, ...]}."""
    seen = {int(k): [] for k in data.clients}
    for batch in data.batches():
        mask = torch.ones_like(batch.y, dtype=torch.bool) if batch.mask is None else batch.mask
        for k, rows, real in zip(data.clients[: len(mask)], batch.y, mask, strict=True):
            seen[int(k)].append(rows[real].tolist())
    return seen


def flat(steps):
    return [row for step in steps for row in step]


# Examples ---------------------------------------------------------------------------------------


def test_a_client_gets_its_own_rows():
    x, y = numbered((2, 3, 1))[1]
    assert y.tolist() == [2, 3, 4]
    assert x[:, 0].tolist() == [2, 3, 4]


def test_the_last_client_is_minus_one_and_there_is_none_beyond():
    assert numbered((2, 3))[-1][1].tolist() == [2, 3, 4]
    with pytest.raises(IndexError, match="clients 0 to 1, but not 2"):
        numbered((2, 3))[2]


def test_stacking_clients_and_taking_them_apart_are_inverse():
    clients = [numbered((2, 3, 1))[k] for k in range(3)]
    again = Examples.stack(clients)
    assert [[v.tolist() for v in again[k]] for k in range(3)] == [
        [v.tolist() for v in client] for client in clients
    ]


def test_a_batch_of_all_examples_is_padded_with_real_ones_under_a_false_mask():
    batch = numbered((3, 1)).batch()
    assert batch.y.tolist() == [[0, 1, 2], [3, 3, 3]]
    assert batch.mask.tolist() == [[True, True, True], [True, False, False]]


def test_clients_of_one_size_need_no_mask():
    assert numbered((2, 2)).batch().mask is None


def test_some_clients_in_the_order_asked_for():
    assert numbered((2, 1, 1)).batch(torch.tensor([2, 1])).y.tolist() == [[3], [2]]
    assert numbered((2, 1, 1)).select([2, 0]).y.tolist() == [3, 0, 1]


def test_halves_are_every_other_example():
    support, query = numbered((4, 3)).batch().halves()
    assert support.y.tolist() == [[0, 2], [4, 6]]
    assert query.y.tolist() == [[1, 3], [5, 4]]
    assert query.mask.tolist() == [[True, True], [True, False]]


def test_another_precision_leaves_labels_whole():
    examples = classification().train.astype(torch.float32)
    assert (examples.x.dtype, examples.y.dtype) == (torch.float32, torch.int64)


@pytest.mark.parametrize("sizes", [(2, 0, 1), (2, -1, 2)])
def test_an_empty_client_is_refused(sizes):
    with pytest.raises(ValueError, match="clients 1 have none; leave such clients out"):
        Examples(torch.ones(3, 1), torch.ones(3), sizes)


def test_no_clients_at_all_are_refused():
    with pytest.raises(ValueError, match="there are no clients"):
        Examples(torch.ones(0, 1), torch.ones(0), [])
    with pytest.raises(ValueError, match="there are no clients"):
        numbered().select([])


@pytest.mark.parametrize(("x", "y", "sizes"), [(4, 3, (1, 2)), (3, 4, (1, 2)), (3, 3, (1, 3))])
def test_sizes_that_do_not_fit_the_table_are_refused(x, y, sizes):
    with pytest.raises(ValueError, match=f"x has {x} rows, y has {y}, and the sizes add up to"):
        Examples(torch.ones(x, 1), torch.ones(y), sizes)


def test_a_missing_number_is_refused_by_row_client_and_column():
    x = torch.ones(5, 3)
    x[4, 2] = NAN
    with pytest.raises(ValueError, match=r"x holds nan in row 1 of client 1, column \(2,\)"):
        Examples(x, torch.ones(5), (3, 2))


def test_an_infinite_target_is_refused():
    with pytest.raises(ValueError, match="y holds -inf in row 0 of client 1;"):
        Examples(torch.ones(2, 1), torch.tensor([1.0, -torch.inf]), (1, 1))


# Federation -------------------------------------------------------------------------------------


def test_training_and_test_have_the_same_clients():
    with pytest.raises(ValueError, match="2 train and 1 test"):
        Federation(numbered((1, 1)), numbered((2,)))


def test_there_is_one_name_for_every_client():
    with pytest.raises(ValueError, match="2 client names, got 1"):
        Federation(numbered((1, 1)), numbered((1, 1)), clients=("anna",))


@pytest.mark.parametrize("label", [2, -1])
def test_a_label_outside_the_classes_is_refused(label):
    good = Examples(torch.ones(2, 1), torch.tensor([0, 1]), (1, 1))
    bad = Examples(torch.ones(2, 1), torch.tensor([0, label]), (1, 1))
    with pytest.raises(ValueError, match=f"labels 0 to 1 for the 2 classes.*a label {label}"):
        Federation(good, bad, classes=("no", "yes"))


def test_it_prints_what_a_reader_asks_first():
    assert repr(classification()) == (
        "toys: 6 clients with 3 to 12 training examples\n"
        "40 training and 24 test examples, features (3,), 3 classes"
    )


def test_labels_are_counted_by_client():
    y = torch.tensor([0, 0, 1, 1, 1])
    examples = Examples(torch.ones(5, 1), y, (3, 2))
    federation = Federation(examples, examples, classes=("no", "yes", "maybe"))
    assert federation.label_counts().tolist() == [[2, 1, 0], [0, 2, 0]]


def test_selected_clients_keep_their_names_and_rows():
    some = replace(classification(), clients=tuple("abcdef")).select([4, 1])
    assert some.clients == ("e", "b")
    equal(some.train[0][0], classification().train[4][0])
    equal(some.test[1][0], classification().test[1][0])


def test_a_pool_is_one_client_with_every_example():
    pool = classification().pool()
    assert len(pool) == 1
    equal(pool.train[0][0], classification().train.x)
    equal(pool.test[0][1], classification().test.y)


def test_tuning_divides_the_training_rows_of_every_client():
    federation = classification()
    tuning = federation.for_tuning(0.25)
    assert tuning.test.sizes.tolist() == [1, 2, 1, 3, 2, 1]
    for k in range(len(federation)):
        both = torch.cat([tuning.train[k][0], tuning.test[k][0]])
        assert sorted(both.tolist()) == sorted(federation.train[k][0].tolist())


def test_tuning_never_touches_the_test_rows():
    federation = classification()
    poisoned = replace(federation, test=Examples(1e9 * torch.ones(24, 3), torch.zeros(24), [4] * 6))
    one, other = federation.for_tuning(), poisoned.for_tuning()
    for part in ("train", "test"):
        equal(getattr(one, part).x, getattr(other, part).x)


def test_tuning_leaves_a_row_to_train_on_and_differs_by_seed():
    federation = classification()
    assert federation.for_tuning(0.99).sizes.tolist() == [1] * 6
    assert (federation.for_tuning(seed=0).test.x != federation.for_tuning(seed=1).test.x).any()


def test_tuning_needs_two_rows_a_client():
    with pytest.raises(ValueError, match="but client 1 has one"):
        classification((3, 1, 2)).for_tuning()


# Mini-batches -----------------------------------------------------------------------------------


def test_every_example_is_visited_once_in_every_epoch():
    for k, steps in visits(local(by_size(), epochs=3)).items():
        rows = numbered()[k][1].tolist()
        per_epoch = -(-len(rows) // 4)
        for epoch in range(3):
            visited = flat(steps[epoch * per_epoch : (epoch + 1) * per_epoch])
            assert sorted(visited) == rows


def test_only_the_last_mini_batch_of_an_epoch_is_short():
    steps = visits(local([3, 1], epochs=2))[1]
    assert [len(step) for step in steps] == [4, 4, 1, 4, 4, 1]


def test_a_short_mini_batch_is_filled_up_by_its_own_rows():
    for batch in local([1]).batches():
        if batch.mask is not None:
            assert set(batch.y[~batch.mask].tolist()) <= set(batch.y[batch.mask].tolist())


def test_the_mask_is_left_out_where_all_is_real():
    assert [batch.mask for batch in local([3], batch_size=4).batches()] == [None] * 3


def test_clients_that_have_finished_are_no_longer_there():
    data = local(by_size(), epochs=2)
    assert [len(batch.x) for batch in data.batches()] == [6, 6, 4, 4, 2, 2]
    assert data.counts.tolist() == [6, 6, 4, 4, 2, 2]


def test_steps_are_the_same_number_for_every_client():
    data = local([3, 1, 2], steps=5)
    assert data.counts.tolist() == [5, 5, 5]
    assert all(len(steps) == 5 for steps in visits(data).values())


def test_steps_go_through_the_same_epochs():
    rows = visits(local([3, 1], steps=7))[3]
    assert rows == visits(local([3, 1], epochs=3))[3][:7]


def test_no_batch_size_is_all_examples_at_once():
    data = local(by_size(), batch_size=None, epochs=2)
    for k, steps in visits(data).items():
        assert [sorted(step) for step in steps] == [numbered()[k][1].tolist()] * 2


def test_a_batch_size_beyond_the_data_is_all_examples_at_once():
    (step,) = visits(local([1], batch_size=100))[1]
    assert sorted(step) == numbered()[1][1].tolist()


def test_mini_batches_do_not_depend_on_who_else_is_asked_for():
    everyone = visits(local(by_size(), epochs=2))
    for k in range(len(SIZES)):
        assert visits(local([k], epochs=2))[k] == everyone[k]


def test_mini_batches_differ_between_clients():
    sizes = (9, 9)
    one, other = visits(local([0, 1], sizes)).values()
    assert [row + 9 for row in flat(one)] != flat(other)


@pytest.mark.parametrize("key", [(1, 0), (0, 1)], ids=["seed", "round"])
def test_mini_batches_differ_by(key):
    assert visits(local([3])) != visits(local([3], key=key))


def test_a_federation_deals_its_mini_batches_by_seed_and_round():
    federation = Federation(numbered(), numbered())

    def dealt(seed, round):
        return visits(federation.local(torch.tensor([3]), 4, 2, seed, round))

    assert dealt(1, 2) == visits(local([3], epochs=2, key=(1, 2)))
    assert dealt(1, 2) != dealt(2, 2)
    assert dealt(1, 2) != dealt(1, 3)


def test_during_takes_some_epochs_out_of_the_round():
    data = local([3, 1], epochs=4)
    whole, part = visits(data), visits(data.during(1, 3))
    assert part == {3: whole[3][3:9], 1: whole[1][3:9]}
    assert data.during(1, 3).counts.tolist() == [6, 6]


def test_during_needs_work_counted_in_epochs():
    with pytest.raises(ValueError, match="steps=5; write steps=None"):
        local([3], steps=5).during(0, 1)


def test_clients_with_more_mini_batches_come_first():
    with pytest.raises(ValueError, match="more mini-batches first"):
        list(local([2, 3]).batches())


def test_all_is_every_training_example():
    data = local([1, 2])
    assert isinstance(data.all, Batch)
    assert data.all.y[0].tolist() == numbered()[1][1].tolist()
    assert data.all.y[1][data.all.mask[1]].tolist() == numbered()[2][1].tolist()
    close(data.sizes, torch.tensor([9, 3]))
    assert len(data) == 2


# Numbers of things -------------------------------------------------------------------------------


def test_items_are_renumbered_by_client():
    x = torch.tensor([[7], [3], [7], [9], [3], [0]])
    rows, examples = Examples(x, torch.zeros(6), [4, 2]).renumbered
    assert rows.tolist() == [[3, 7, 9], [0, 3, 0]]
    assert examples.x.tolist() == [[1], [0], [1], [2], [1], [0]]
    owner = torch.tensor([0, 0, 0, 0, 1, 1])
    assert torch.equal(rows[owner, examples.x[:, 0]], x[:, 0])


def test_local_data_are_renumbered_in_the_order_of_their_clients():
    x = torch.tensor([5, 6, 6, 2])
    data = LocalData(Examples(x, x.double(), [1, 3]), torch.tensor([1, 0]), None, 1, None, (0, 0))
    rows, renumbered = data.renumbered()
    assert rows.tolist() == [[2, 6], [5, 5]]
    for row, numbers in enumerate(renumbered.all.x):
        real = slice(None) if renumbered.all.mask is None else renumbered.all.mask[row]
        assert rows[row, numbers][real].tolist() == renumbered.all.y[row][real].tolist()
