"""Every use of randomness has its own stream; mini-batches depend on their client alone."""

import itertools

import numpy as np
import pytest
import torch

from fedlab_helpers.randomness import (
    PURPOSES,
    Shuffles,
    global_stream,
    stream,
    torch_stream,
)


def orders(size, epochs, client, *key):
    """The row orders of one client, (epochs, size)."""
    rows = Shuffles(np.array([size]), np.array([epochs]))(np.array([client]), *key)
    return rows.reshape(epochs, size)


def test_a_stream_repeats_itself():
    assert stream("cohorts", 3).random() == stream("cohorts", 3).random()


def test_every_purpose_and_every_key_has_its_own_stream():
    first = {stream(p, seed).random() for p in PURPOSES for seed in range(5)}
    assert len(first) == 5 * len(PURPOSES)


def test_an_unknown_purpose_is_refused():
    with pytest.raises(ValueError, match="not in tuple"):
        stream("wishes", 0)


def test_torch_streams_repeat_themselves_and_differ_by_key():
    def draw(*key):
        return torch.rand(1, generator=torch_stream("server noise", *key))

    assert draw(0, 1) == draw(0, 1)
    assert draw(0, 1) != draw(0, 2)


def test_the_global_generator_is_borrowed_and_given_back():
    torch.manual_seed(0)
    untouched = torch.rand(2)
    torch.manual_seed(0)
    first = torch.rand(1)
    with global_stream("dropout", 7):
        inside = torch.rand(1)
    assert [first, torch.rand(1)] == list(untouched[:, None])
    with global_stream("dropout", 7):
        assert torch.rand(1) == inside


def test_an_epoch_visits_every_row_once():
    for order in orders(50, 4, 2, 0, 1):
        assert sorted(order) == list(range(50))


@pytest.mark.parametrize(
    "other",
    [(50, 1, 3, 0, 1), (50, 1, 2, 1, 1), (50, 1, 2, 0, 2), (50, 1, 2, 1, 0)],
    ids=["client", "seed", "round", "seed and round swapped"],
)
def test_orders_differ_by(other):
    assert (orders(50, 1, 2, 0, 1) != orders(*other)).any()


def test_orders_differ_between_epochs():
    one, two, three = orders(50, 3, 2, 0, 1)
    assert (one != two).any()
    assert (two != three).any()


def test_more_epochs_begin_with_the_same_ones():
    assert (orders(20, 5, 1, 0, 0)[:2] == orders(20, 2, 1, 0, 0)).all()


def test_an_order_is_the_same_whoever_else_is_asked_for():
    sizes, epochs, clients = np.array([7, 4, 9]), np.array([2, 3, 1]), np.array([5, 0, 8])
    together = Shuffles(sizes, epochs)(clients, 3, 4)
    one_by_one = [orders(*one, 3, 4).ravel() for one in zip(sizes, epochs, clients, strict=True)]
    assert (together == np.concatenate(one_by_one)).all()


def test_a_client_of_one_row_has_one_order():
    assert orders(1, 3, 0, 0, 0).tolist() == [[0], [0], [0]]


def test_every_row_is_equally_often_at_every_place():
    size, draws = 6, 3000
    counts = np.zeros((size, size))
    for order in orders(size, draws, 0, 0, 0):
        counts[np.arange(size), order] += 1
    chi_square = ((counts - draws / size) ** 2 / (draws / size)).sum()
    assert chi_square < 60  # 25 degrees of freedom: beyond 60 once in ten thousand seeds


def test_all_orders_are_equally_likely_over_clients_too():
    draws = 2400
    rows = Shuffles(np.full(draws, 4), np.ones(draws, dtype=int))(np.arange(draws), 0, 0)
    seen = dict.fromkeys(itertools.permutations(range(4)), 0)
    for order in rows.reshape(draws, 4).tolist():
        seen[tuple(order)] += 1
    chi_square = sum((count - 100) ** 2 / 100 for count in seen.values())
    assert chi_square < 60  # 23 degrees of freedom
