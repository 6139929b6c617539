"""The benchmarks of the simulator: all implementations train the same model, and the page is what
the stored figures give. `make bench` takes the times; nothing here does.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
import torch
from browser import ROOT

import fedlab_helpers as fl

sys.path.insert(0, str(ROOT / "benchmarks" / "speed"))
import implementations
import limit
import parts
import report
import workloads
from implementations import fused, naive, ours, plain, plain_recommender
from workloads import WORKLOADS, Taste, Workload, even, likes, plan

needs_compiler = pytest.mark.skipif(not limit.available(), reason="there is no C++ compiler")
same = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(autouse=True)
def threads():
    """The loops set how many threads torch has."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def ragged() -> fl.Federation:
    """Five clients with 3 to 47 rows."""
    data, sizes = even(5, 47, features=6), torch.tensor([3, 47, 20, 8, 41])
    rows = torch.cat([torch.arange(n) + 47 * k for k, n in enumerate(sizes)])
    return replace(data, train=data.train.take(rows, sizes))


def tiny(hidden: int, fraction: float = 1.0, **work) -> Workload:
    build = (lambda: fl.mlp(6, hidden, outputs=10)) if hidden else (lambda: fl.linear(6, 10))
    algorithm = fl.FedAvg(fl.SGD(0.1), batch_size=8, **work)
    return Workload("tiny", ragged, build, algorithm, fraction, hidden=hidden)


# --- the same model ------------------------------------------------------------------------------


@pytest.mark.parametrize("work", [{"steps": 7}, {"epochs": 2}], ids=["steps", "epochs"])
@pytest.mark.parametrize("hidden", [0, 5, 20, 40, 100])
@pytest.mark.parametrize("fraction", [1.0, 0.6])
@needs_compiler
def test_the_kernel_trains_the_model_of_the_package_and_of_the_plain_loop(hidden, fraction, work):
    workload, data = tiny(hidden, fraction, **work), ragged()
    w = ours(workload, data, 1)[1].groups[0].server
    torch.testing.assert_close(plain(workload, data, 1, planned=True)[1], w, **same)
    for threads in (1, 2):
        torch.testing.assert_close(
            fused(workload, data, 1, planned=True, threads=threads)[1], w, **same
        )
    assert (w - workload.model().init(0)).abs().max() > 0.1


@needs_compiler
def test_the_kernel_shuffles_every_epoch():
    """Without labels that can be learnt from order: an epoch visits every row exactly once."""
    w = torch.zeros(20)
    for seed in range(3):  # with one step on all rows, the order is no matter
        x, y = torch.eye(9, 1).repeat(1, 1), torch.arange(9) % 10
        w.zero_()
        numbers = [torch.tensor([v]) for v in (0, 9, 1)]
        limit.fedavg_round(w, x, y, (1, 0, 10), *numbers, batch=9, lr=1.0, seed=seed)
        expected = torch.full((10,), 0.1) - torch.bincount(y, minlength=10) / 9
        torch.testing.assert_close(w[10:], -expected)
    seen = []
    for seed in range(3):  # row by row, it is not
        w.zero_()
        numbers = [torch.tensor([v]) for v in (0, 9, 9)]
        limit.fedavg_round(w, x, y, (1, 0, 10), *numbers, batch=1, lr=1.0, seed=seed)
        seen.append(w.clone())
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


def test_the_loops_without_a_plan_learn_as_much():
    workload, data = tiny(0, epochs=2), ragged()
    scores = [
        implementations.score(workload, data, run(workload, data, 20)[1])
        for run in (ours, plain, naive)
    ]
    assert max(scores) - min(scores) < 0.1


def test_the_recommender_in_a_loop_is_that_of_the_package():
    data = likes(6, 400)
    workload = replace(WORKLOADS["W4"], network=lambda: Taste(400))
    _, history = ours(workload, data, 1)
    _, outcome = plain_recommender(workload, data, 1, planned=True)
    (table, shared), users = history.groups[0].server, history.groups[0].clients
    for one, other in zip((users, table, shared), outcome, strict=True):
        torch.testing.assert_close(one, other, **same)
    scores = [implementations.score(workload, data, v) for v in (history, outcome)]
    assert scores[0] == pytest.approx(scores[1])


def test_a_plan_is_what_the_package_trains_on():
    data, clients = ragged(), torch.tensor([0, 1, 4])
    algorithm = fl.FedAvg(batch_size=8, epochs=2)
    rows = plan(data, algorithm, clients, round=3)
    order = data.sizes[clients].argsort(descending=True)
    first = next(iter(data.local(clients[order], 8, 2, 0, 3).batches()))
    torch.testing.assert_close(data.train.x[rows[1][0]], first.x[0])
    for k, steps in zip(clients.tolist(), rows, strict=True):
        visits = torch.cat(steps).bincount(minlength=len(data.train.y))
        own = slice(int(data.train.starts[k]), int(data.train.ends[k]))
        assert (visits[own] == 2).all()
        assert visits.sum() == 2 * data.sizes[k]


# --- what is measured ----------------------------------------------------------------------------

SMALLER = {
    "W1": {"data": lambda: even(5, 30)},
    "W1e": {"data": lambda: even(5, 30)},
    "W1p": {"data": lambda: even(20, 30)},
    "W2": {"data": lambda: even(5, 40, 64)},
    "W3": {"data": lambda: workloads.images(2, 20)},
    "W4": {"data": lambda: likes(5, 400), "network": lambda: Taste(400)},
}


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("who", implementations.IMPLEMENTATIONS)
def test_every_workload_runs(name, who):
    workload = replace(WORKLOADS[name], **SMALLER[name])
    run = implementations.implementation(who, workload)
    if run is None:
        assert (name, who) in {(w, i) for w in ("W3", "W4") for i in ("limit", "naive")} or (
            who == "limit" and not limit.available()
        )
        return
    data = workload.data()
    seconds, outcome = run(workload, data, 1)
    assert seconds > 0
    assert 0 <= implementations.score(workload, data, outcome) <= 1


def test_every_family_of_workloads_is_found_by_name():
    assert len(workloads.workload("clients:7").data()) == 7
    assert workloads.workload("width:9").hidden == 9
    assert workloads.workload("share:300").fraction == 0.01
    with pytest.raises(ValueError, match="clients:NUMBER"):
        workloads.workload("clients")


def test_the_table_of_algorithms_has_them_all():
    data = even(3, 20, 64)
    kinds = {type(a) for a in parts.every_algorithm(data)}
    family = [getattr(fl.algorithms, name) for name in fl.algorithms.__all__]
    assert kinds == {c for c in family if isinstance(c, type) and issubclass(c, fl.FedAvg)} - {
        fl.Personal
    }


def test_a_worker_answers_until_its_input_ends():
    (worker,) = parts.started("width:2", ["ours"]).values()
    timings = parts.interleaved({"ours": worker}, rounds=1, repeats=2)
    assert len(timings["ours"]["ms"]) == 2
    assert timings["ours"]["mb"] >= timings["ours"]["before"] > 50
    assert worker.process.returncode == 0


def test_a_worker_that_cannot_says_so():
    (worker,) = parts.started("width:1000", ["limit"]).values()
    assert not worker.able
    assert parts.interleaved({"limit": worker}, rounds=1, repeats=1) == {}


# --- the page ------------------------------------------------------------------------------------


def test_the_page_is_what_the_figures_give():
    assert report.PAGE.read_text(encoding="utf-8") == report.page(report.load())


def test_every_part_was_measured():
    stored = report.load()
    assert set(parts.PARTS) - {"peers"} <= set(stored)
    for name in WORKLOADS:
        assert all(len(t["ms"]) >= 5 for t in stored[name]["results"].values())


def test_results_are_stored_one_series_a_line(monkeypatch, tmp_path):
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results.json")
    stored = {"W1": {"results": {"ours": {"ms": [0.1, 0.2], "score": 0.5}}}}
    report.store(stored)
    assert report.load() == stored
    assert '"ms": [0.1, 0.2]' in (tmp_path / "results.json").read_text()


def test_what_is_not_faster_follows_from_the_figures():
    def timings(ours, plain):
        return {"ours": {"ms": [ours]}, "plain": {"ms": [plain]}}

    found = {"W1": timings(1, 30), "W3": timings(20, 22), "width": {"16": timings(1, 9)}}
    text = "\n".join(report._not_faster(found))
    assert "convolutional" in text
    assert "1.10 times" in text
    assert "softmax" not in text
    assert report._not_faster({"W1": found["W1"]}) == []


def test_numbers_have_three_digits():
    assert [report.digits(v) for v in (0.1234, 1.234, 12.34, 123.4, 12345.6)] == [
        "0.123", "1.23", "12.3", "123", "12,346",
    ]  # fmt: skip


def test_stored_figures_name_no_path():
    text = report.RESULTS.read_text(encoding="utf-8")
    assert json.loads(text) == report.load()
