"""Blocks of clients at the same time."""

import time

import numpy as np
import pytest
import torch
from toys import classification, classifier, equal

from fedlab_helpers import FedAvg, Model, simulate
from fedlab_helpers.closed_form import threads_for_steps
from fedlab_helpers.plan import STEP, share_out
from fedlab_helpers.workers import Workers


def dropping():
    """A network that draws while it trains."""
    data = classification().train
    features, classes = data.x.shape[1], int(data.y.max()) + 1
    linear = torch.nn.Linear(features, classes, dtype=torch.float64)
    return torch.nn.Sequential(linear, torch.nn.Dropout(0.5))


def seconds(lengths, counts, width):
    """What every block costs, in multiply-adds."""
    return [
        float(block[0] * STEP + block.sum() * width)
        for block in torch.tensor(counts).split(lengths)
    ]


def test_equal_clients_are_cut_in_the_middle():
    assert share_out(np.full(10, 20), STEP, 2) == [5, 5]
    assert share_out(np.full(12, 20), STEP, 4) == [3, 3, 3, 3]


def test_a_cohort_with_little_to_compute_stays_whole():
    assert share_out(np.full(10, 20), 1, 2) == [10]
    assert share_out(np.array([20]), STEP, 2) == [1]
    assert share_out(np.full(10, 20), STEP, 1) == [10]


def test_blocks_of_unequal_clients_cost_alike():
    counts = [150, 120, 90, 60, *[20] * 200]
    lengths = share_out(np.array(counts), STEP // 20, 2)
    assert sum(lengths) == len(counts)
    first, second = seconds(lengths, counts, STEP // 20)
    assert max(first, second) < 1.3 * min(first, second)
    assert lengths[0] < len(counts) / 2  # the larger clients come first


def test_results_come_in_order_whoever_is_done_first():
    with Workers(2, [classifier()]) as workers:
        assert workers.count == 2
        slow = {0: 0.05, 1: 0.0, 2: 0.02}
        assert list(workers.map(lambda i: time.sleep(slow[i]) or i, list(slow))) == [0, 1, 2]


def test_a_single_block_has_all_threads_for_its_steps():
    with Workers(2, [classifier()]) as workers:
        threads = lambda _: threads_for_steps.get()  # noqa: E731
        assert workers.map(threads, [0]) == [2]
        assert workers.map(threads, [0, 1]) == [1, 1]
    assert threads_for_steps.get() == 1


def test_threads_compute_without_a_graph():
    with Workers(2, [classifier()]) as workers, torch.no_grad():
        assert list(workers.map(lambda _: torch.is_grad_enabled(), [0, 1])) == [False, False]


def test_networks_that_draw_get_one_thread():
    assert Workers(2, [classifier(), Model(dropping)]).count == 1


@pytest.mark.parametrize("backend", ["stacked", "vmap", "loop"])
def test_every_thread_has_a_network_of_its_own(backend):
    """Long enough that threads would put their parameters into each other's network."""
    options = {"rounds": 3, "block": 1, "progress": False}
    many = classification().select([k % 6 for k in range(24)])
    one, two = (
        simulate(FedAvg(batch_size=2, epochs=3), classifier(backend), many, threads=t, **options)
        for t in (1, 2)
    )
    equal(one.groups[0].server, two.groups[0].server)


def test_dropout_is_the_same_in_every_run():
    histories = [
        simulate(FedAvg(), Model(dropping), classification(), 2, progress=False) for _ in "ab"
    ]
    equal(*[history.groups[0].server for history in histories])


class Drawing(FedAvg):
    def client_update(self, model, server, client, data):
        return server + torch.randn_like(server), client


def test_a_draw_that_threads_cannot_order_is_refused():
    options = {"rounds": 1, "progress": False}
    with pytest.raises(RuntimeError, match=r"draw with data.normal\(w\).*threads=1"):
        simulate(Drawing(), classifier(), classification(), **options)
    one, other = (
        simulate(Drawing(), classifier(), classification(), threads=1, **options) for _ in "ab"
    )
    equal(one.groups[0].server, other.groups[0].server)
