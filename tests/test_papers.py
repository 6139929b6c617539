"""The published numbers: the page is what the stored results give, and the scripts do what it says.

`make papers` runs the experiments themselves.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from browser import ROOT
from toys import classification, network

import fedlab_helpers as fl
from fedlab_helpers.data import Federation

sys.path.insert(0, str(ROOT / "benchmarks" / "papers"))
import ditto
import heart
import published
import recommender
import synthetic

# --- the page ------------------------------------------------------------------------------------


def test_the_page_is_what_the_results_give():
    assert published.PAGE.read_text(encoding="utf-8") == published.page(published.load())


def test_every_experiment_was_run_with_all_its_seeds():
    stored = published.load()
    seeds = {"heart": heart.SEEDS, "synthetic": synthetic.SEEDS, "ditto": ditto.SEEDS}
    assert list(stored) == list(published.EXPERIMENTS)
    for name, wanted in seeds.items():
        lengths = {len(v) for m in stored[name]["results"].values() for v in m.values()}
        assert lengths == {len(wanted)}


def test_every_difference_is_within_its_error_or_has_a_reason():
    assert "Not explained" not in published.PAGE.read_text(encoding="utf-8")


def test_results_are_stored_one_series_a_line(monkeypatch, tmp_path):
    monkeypatch.setattr(published, "RESULTS", tmp_path / "results.json")
    stored = {"heart": {"minutes": 1.0, "results": {"Local": {"VA": [0.1, 0.2], "AUROC": [1.0]}}}}
    published.store(stored)
    assert published.load() == stored
    assert '"VA": [0.1, 0.2]' in (tmp_path / "results.json").read_text()


def test_the_error_is_two_standard_errors_of_the_difference():
    ours = [0.1, 0.2, 0.6]
    claim = published.Claim("a", "b", 0.3, sd=0.5, runs=4)
    pooled = np.sqrt((3 * 0.25 + 2 * np.var(ours, ddof=1)) / 5)
    assert claim.error(ours) == pytest.approx(2 * pooled * np.sqrt(1 / 4 + 1 / 3))
    exact = published.Claim("a", "b", 0.3, exact=True)
    assert exact.error(ours) == pytest.approx(2 * np.std(ours, ddof=1) / np.sqrt(3))
    assert published.Claim("a", "b", 0.3, tolerance=0.07).error(ours) == 0.07


def test_a_difference_beyond_its_error_shows_its_reason():
    claims = [published.Claim("a", "b", 0.3, tolerance=0.1, why="Because.")]
    reasons: list[str] = []
    (*_, row) = published._table(claims, {"a": {"b": [0.5, 0.5]}}, 2, reasons)
    assert row == "| a | b | 0.30 | 0.50 ± 0.00 | +0.20 | 0.10 | **no** (1) |"
    assert reasons == ["Because."]


# --- the experiments -----------------------------------------------------------------------------


def test_scaffold_weighted_by_size_is_scaffold_where_sizes_are_equal():
    even = Federation(*[fl.Examples(torch.randn(12, 3), torch.arange(12) % 2, [4] * 3)] * 2)
    model = fl.Model(lambda: fl.linear(3, 2))
    servers = [
        fl.simulate(a(steps=2, batch_size=2), model, even, rounds=3, progress=False)
        .groups[0]
        .server
        for a in (fl.SCAFFOLD, heart.SizedSCAFFOLD)
    ]
    for v, w in zip(*servers, strict=True):
        torch.testing.assert_close(v, w)


def test_the_synthetic_data_are_those_of_the_published_generator():
    data = synthetic.federation()
    sizes = data.train.sizes + data.test.sizes
    assert (int(sizes.min()), int(sizes.max()), len(data)) == (250, 25_810, 100)
    rng = np.random.RandomState(0)
    assert sizes.tolist() == ((rng.lognormal(4, 2, 100).astype(int) + 50) * 5).tolist()


def test_users_of_pfedme_who_all_train_keep_nothing_of_earlier_rounds():
    data, model = classification(), fl.Model(network)
    for published_w in (False, True):
        algorithm = synthetic.AllTrain(steps=2, batch_size=4, published=published_w)
        (group,) = fl.simulate(algorithm, model, data, rounds=2, progress=False).groups
        clients = data.sizes.argsort(descending=True)
        local = data.local(clients, 4, 1, 0, 3, steps=2)
        server = group.server.expand(len(data), -1)
        w, theta = fl.PFedMe(steps=2, batch_size=4).client_update(model, server, server, local)
        mine = algorithm.personalise(model, server, (), local)
        torch.testing.assert_close(mine, w if published_w else theta)


def test_the_best_lambda_of_ditto_in_closed_form():
    assert [round(ditto.best_lambda(*case), 4) for case in ditto.CASES.values()] == [2.1333, 1.1852]


def test_the_best_lambda_of_ditto_in_a_small_simulation(monkeypatch):
    monkeypatch.setattr(ditto, "WORLDS", 2000)
    for case in ditto.CASES.values():
        assert ditto.simulated_lambda(0, *case) == pytest.approx(ditto.best_lambda(*case), rel=0.1)


@pytest.fixture
def films() -> pd.DataFrame:
    """Four users, 250 films; user k rates 3 + k of them, the latest last."""
    rated = [(k, 10 * k + i, i) for k in range(4) for i in range(3 + k)] + [(0, 249, -1)]
    return pd.DataFrame(rated, columns=["userId", "movieId", "time"])


def test_negatives_are_films_that_the_user_has_not_rated(films):
    data, candidates = recommender.federation(films, 0)
    everyone = torch.arange(4).flip(0)
    batches = [data.local(everyone, None, 1, 0, round).all for round in (1, 1, 2)]
    torch.testing.assert_close(batches[0].x, batches[1].x)
    assert not torch.equal(batches[0].x, batches[2].x)
    for row, k in enumerate(everyone.tolist()):
        rated = set(films.movieId[films.userId == k])
        n, x = int(data.sizes[k]), batches[0].x[row, :, 0]
        assert set(x[:n].tolist()) == rated - set(candidates[k, :, 0].tolist())
        assert rated.isdisjoint(x[n : 5 * n].tolist())
        assert rated.isdisjoint(candidates[k, :, 1:].flatten().tolist())


def test_the_right_film_is_ranked_last_among_equals(films):
    data, candidates = recommender.federation(films, 0)
    model = fl.Model(lambda: recommender.Scores(250), fl.binary_cross_entropy, fl.binary_accuracy)
    history = fl.simulate(recommender.OwnItems(), model, data, rounds=1, progress=False)
    (group,) = history.groups
    group.server = fl.states.tree(torch.zeros_like, group.server)
    assert (recommender.ranks(history, candidates, own_items=False) == 100).all()
    group.server[0][candidates[0, 1, 0], 0] = 1.0
    group.kept[0][group.place[0]] = model.split(model.init(0), "score.*")[1].abs()
    assert recommender.ranks(history, candidates, own_items=False)[1, 0] == 1


def test_stored_results_are_numbers_and_nothing_else():
    text = published.RESULTS.read_text(encoding="utf-8")
    assert json.loads(text) == published.load()
    assert "/" not in text
