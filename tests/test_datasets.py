"""Ready federations: what is in them, what never leaks, and what happens where files are missing.

Tests of real data sets are skipped by name where the files are not on this machine.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pooch
import pytest
import torch

from fedlab_helpers import datasets, partition
from fedlab_helpers.data import Federation
from fedlab_helpers.datasets import CorruptData, DataUnavailable, File, Source

REAL = [name for name, source in datasets.SOURCES.items() if source.files]


def real(name: str):
    return pytest.mark.skipif(
        not datasets.available(name),
        reason=f"the data set {name} is not here: set FEDLAB_DATA, or load it once with a network",
    )


exam, people, hearts, writers, movies, weather = (
    real(name)
    for name in (
        "exam_schools",
        "wisdm",
        "heart_disease",
        "qmnist_writers",
        "movielens",
        "new_york_weather",
    )
)
every_loader = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=real(n)) for n in datasets.SOURCES]
)


@cache
def load(name: str, **how) -> Federation:
    """By its own name; read once for all tests, which must not change it."""
    return getattr(datasets, name)(**how)


def clients(federation: Federation) -> Iterator[tuple[np.ndarray, ...]]:
    """Of one client after the other: training x and y, test x and y."""
    for k in range(len(federation)):
        yield tuple(v.double().numpy() for v in (*federation.train[k], *federation.test[k]))


def raw(name: str, number: int = 0, **how) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(datasets._content(name, number)), **how)


# What holds for each of them


@every_loader
def test_it_says_what_it_is(name):
    federation, source = load(name), datasets.SOURCES[name]
    assert source.licence in federation.about
    assert source.citation in federation.about
    assert federation.name == name.replace("_", " ")
    assert len(federation.features) == federation.train.x[0].numel()
    assert len(set(federation.clients)) == len(federation)
    assert federation.train.x.dtype in (torch.get_default_dtype(), torch.long)
    assert federation.train.y.dtype == (torch.long if federation.classes else torch.float32)


@every_loader
def test_it_is_the_same_every_time(name):
    first, again = load(name), getattr(datasets, name)()
    for part in ("train", "test"):
        assert torch.equal(getattr(first, part).x, getattr(again, part).x)
        assert torch.equal(getattr(first, part).y, getattr(again, part).y)


@every_loader
def test_no_row_is_both_in_training_and_in_the_test(name, monkeypatch):
    """Followed by their numbers, which take the place of the features."""
    seen = []
    assemble = partition.assemble

    def spy(x, y, train, test, **described):
        seen.append((len(x), train, test))
        return assemble(x, y, train, test, **described)

    monkeypatch.setattr(partition, "assemble", spy)
    federation = getattr(datasets, name)()
    ((rows, train, test),) = seen
    train, test = np.concatenate(train), np.concatenate(test)
    assert not set(train) & set(test)
    assert len({*train, *test}) == len(train) + len(test) <= rows
    assert len(train) == len(federation.train.y)


@every_loader
def test_what_is_standardised_is_standardised_by_training_rows(name):
    federation = load(name)
    if "standardised by" not in federation.about:
        return
    parts = [federation.train.x]
    if "its own" in federation.about:
        parts = [federation.train[k][0] for k in range(len(federation))]
    for x in parts:
        torch.testing.assert_close(x.mean(0), torch.zeros_like(x[0]), atol=1e-4, rtol=0)
        assert all(s == pytest.approx(1, abs=1e-3) or s < 1e-5 for s in x.std(0).tolist())


@pytest.mark.parametrize(
    "name", ["diabetes", "digits", "synthetic", pytest.param("wisdm", marks=people)]
)
def test_another_seed_is_another_split(name):
    assert not torch.equal(load(name).test.y[:50], load(name, seed=1).test.y[:50])


def test_double_precision_is_a_matter_of_torchs_default():
    torch.set_default_dtype(torch.float64)
    try:
        assert datasets.diabetes().train.x.dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


# Bundled with scikit-learn, or generated


def test_diabetes_is_cut_into_groups_of_patients():
    federation = load("diabetes", per=None)
    assert federation.train.x.shape[1] == 10
    age = [(x[:, 0].min(), x[:, 0].max()) for x, *_ in clients(federation)]
    assert all(before[1] < after[0] for before, after in pairwise(age))
    scores = torch.cat([federation.train.y, federation.test.y]) * 100 + 150
    assert len(scores) == 442
    assert (float(scores.min()), float(scores.max())) == pytest.approx((25, 346), abs=1e-3)
    assert load("diabetes", by="sex", clients=2).clients == ("sex 1", "sex 2")
    with pytest.raises(ValueError, match=r"age, sex, bmi.*but got 'height'"):
        datasets.diabetes(by="height")
    with pytest.raises(ValueError, match="write fewer clients"):
        datasets.diabetes(by="sex", clients=3)


def test_diabetes_does_not_use_the_scaled_version_that_leaks():
    """scikit-learn's own scaling holds the mean of all patients, so that all columns sum to 0."""
    federation = load("diabetes")
    everyone = torch.cat([federation.train.x, federation.test.x])
    assert everyone.mean(0).abs().max() > 0.01


def test_malignant_is_0_and_sits_where_the_tumours_are_large():
    federation = load("breast_cancer")
    assert federation.classes == ("malignant", "benign")
    labels = torch.cat([federation.train.y, federation.test.y])
    assert torch.bincount(labels).tolist() == [212, 357]
    malignant = federation.label_counts()[:, 0] / federation.sizes
    assert malignant[0] == 0
    assert malignant[-1] == 1
    skewed = load("breast_cancer", by="diagnosis", alpha=0.1).label_counts()
    assert (skewed.min(1).values == 0).any()
    with pytest.raises(ValueError, match="diagnosis, iid, but got 'colour'"):
        datasets.breast_cancer(by="colour")


def test_digits_come_flat_or_as_images_and_from_0_to_1():
    flat, images = load("digits"), load("digits", images=True)
    assert images.train.x.shape[1:] == (1, 8, 8)
    assert torch.equal(images.train.x.flatten(1), flat.train.x)
    assert (float(flat.train.x.min()), float(flat.train.x.max())) == (0, 1)
    assert len(flat.train.y) + len(flat.test.y) == 1797


def test_alpha_makes_digits_differ_between_clients():
    most = [
        (c / c.sum(1, keepdim=True)).max(1).values.mean()
        for c in (load("digits", alpha=a).label_counts().double() for a in (0.1, 1.0, None))
    ]
    assert most[0] > most[1] > most[2]


def test_rotations_go_round_the_clients():
    upright = load("digits", images=True)
    turned = load("digits", images=True, rotations=(0, 90))
    assert torch.allclose(turned.train[2][0], upright.train[2][0], atol=1e-6)
    quarter = torch.rot90(upright.test[3][0], 1, (2, 3))
    assert torch.allclose(turned.test[3][0], quarter, atol=1e-5)


def test_synthetic_is_li_and_others_generator():
    """The sizes, the spread of inputs, and which numbers alpha and beta move."""
    sizes = np.array([len(x) + len(z) for x, _, z, _ in clients(load("synthetic", clients=200))])
    assert sizes.min() >= 50
    logs = np.log(sizes - 50 + 0.5)
    assert logs.mean() == pytest.approx(4, abs=0.5)
    assert logs.std() == pytest.approx(2, abs=0.4)
    many = load("synthetic", alpha=0.0, beta=3.0, clients=100, rows=400)
    x = np.stack([x for x, *_ in clients(many)])
    assert x.shape == (100, 360, 60)
    spread = (x - x.mean(1, keepdims=True)).std((0, 1))
    assert spread == pytest.approx(np.arange(1, 61) ** -0.6, rel=0.05)
    centres = x.mean(1)
    assert centres.mean(1).std() == pytest.approx(3, abs=0.6), "beta is a standard deviation"
    assert (centres - centres.mean(1, keepdims=True)).std() == pytest.approx(1, abs=0.05)


def test_a_synthetic_client_is_the_same_in_any_crowd():
    few, many = load("synthetic", clients=3), load("synthetic", clients=10)
    for k in range(3):
        assert torch.equal(few.train[k][0], many.train[k][0])
        assert torch.equal(few.test[k][1], many.test[k][1])


def test_iid_synthetic_clients_share_one_classifier():
    """So a linear classifier that was fitted on some predicts the others."""
    from sklearn.linear_model import LogisticRegression

    scores = []
    for iid in (True, False):
        federation = load("synthetic", iid=iid, clients=10, rows=500)
        seen, new = federation.select(range(8)).pool(), federation.select([8, 9]).pool()
        model = LogisticRegression(max_iter=2000).fit(*(v.numpy() for v in seen.train[0]))
        scores.append(model.score(*(v.numpy() for v in new.train[0])))
    assert scores[0] > 0.85 > 0.5 > scores[1]


def test_negative_spread_is_refused():
    with pytest.raises(ValueError, match="alpha and beta >= 0, but got -1 and 1"):
        datasets.synthetic(-1, 1)


# Exam schools


@exam
def test_there_are_65_schools_and_4059_pupils():
    federation = load("exam_schools")
    sizes = federation.train.sizes + federation.test.sizes
    assert (len(sizes), int(sizes.sum()), int(sizes.min()), int(sizes.max())) == (65, 4059, 2, 198)
    assert int(federation.test.sizes.min()) == 1
    assert federation.clients[47] == "school 48"
    assert (sizes == 2).nonzero().item() == 47


@exam
def test_trap_the_labels_of_intake_are_reversed_so_it_is_left_out():
    table = raw("exam_schools")
    best = table.groupby("intake").standLRT.mean().idxmax()
    assert best == "bottom 25%"
    assert not {"intake", "rownames", "student", "school"} & {*load("exam_schools").features}


@exam
def test_trap_school_features_are_constant_within_a_school():
    federation = load("exam_schools", per=None)
    for x, *_ in clients(federation):
        assert (x[:, 2:].min(0) == x[:, 2:].max(0)).all()
    assert federation.train.x[:, 2:].std(0).min() > 0.1


@exam
def test_what_simple_statistics_reach_at_the_schools():
    """RMSE in standard deviations, over all test pupils, mean of four splits; least squares."""
    from sklearn.linear_model import LinearRegression

    def rmse(errors):
        return np.sqrt(np.mean(np.concatenate(errors) ** 2))

    figures = []
    for seed in range(4):
        parts = [*clients(load("exam_schools", seed=seed))]
        x, y = (np.concatenate([p[i] for p in parts]) for i in (0, 1))
        pooled, own = LinearRegression().fit(x, y), LinearRegression()
        errors = [p[3] - pooled.predict(p[2]) for p in parts]
        offsets = [
            (p[1] - pooled.predict(p[0])).sum() / (len(p[1]) + 5) for p in parts
        ]  # shrunk, as by a prior worth 5 pupils
        figures.append(
            (
                rmse(errors),
                rmse([p[3] - own.fit(p[0][:, :2], p[1]).predict(p[2][:, :2]) for p in parts]),
                rmse([e - offset for e, offset in zip(errors, offsets, strict=True)]),
            )
        )
    pooled, local, with_offsets = np.mean(figures, 0)
    assert pooled == pytest.approx(0.80, abs=0.01)
    assert local == pytest.approx(0.77, abs=0.01)
    assert with_offsets == pytest.approx(0.76, abs=0.01)


# WISDM


@people
def test_there_are_36_people_and_some_never_did_some_activities():
    federation = load("wisdm")
    counts = torch.stack(
        [torch.bincount(y.long(), minlength=6) for y in (federation.train.y, federation.test.y)]
    ).sum(0)
    assert dict(zip(federation.classes, counts.tolist(), strict=True)) == {
        "Walking": 2081,
        "Jogging": 1625,
        "Upstairs": 632,
        "Downstairs": 528,
        "Sitting": 306,
        "Standing": 246,
    }
    assert len(federation) == 36
    assert ((federation.label_counts() == 0).sum(1) > 0).sum() > 10
    assert ((federation.train.sizes + federation.test.sizes) < 100).sum() == 3


@people
def test_the_test_of_a_person_holds_each_activity_in_proportion():
    federation = load("wisdm")
    for _, y, _, z in clients(federation):
        for activity in np.unique(y):
            total = (y == activity).sum() + (z == activity).sum()
            assert abs((z == activity).sum() - 0.3 * total) <= 1


@people
def test_trap_missing_peaks_take_the_mean_of_training_rows_only():
    table = raw("wisdm", header=None, na_values="?")
    peaks = table.loc[:, 2:44].to_numpy(float)
    assert np.isnan(peaks).sum() == 615
    federation = load("wisdm", per=None)
    column = federation.features.index("XPEAK")
    values = federation.train.x[:, column].double()
    filled = values.mode().values
    known = values[values != filled]
    assert (values == filled).sum() > 200
    assert filled.item() == pytest.approx(known.mean().item(), rel=1e-4)
    assert abs(filled.item() - np.nanmean(peaks[:, column])) > 1e-3, "not of all rows"


@people
def test_trap_xavg_is_0_throughout_and_zstanddev_repeats_xstanddev():
    federation = load("wisdm", per=None)
    x = dict(zip(federation.features, federation.train.x.T, strict=True))
    assert not x["XAVG"].any()
    assert torch.equal(x["XSTANDDEV"], x["ZSTANDDEV"])
    assert not load("wisdm").train.x[:, federation.features.index("XAVG")].any()


@people
def test_one_model_for_all_people_is_worse_than_each_persons_own():
    """Accuracy of logistic regression, mean over people; features standardised per person."""
    from sklearn.linear_model import LogisticRegression

    def fit(x, y):
        if len(np.unique(y)) == 1:  # who only walks is only ever walking
            return lambda _: np.full(len(_), y[0])
        return LogisticRegression(max_iter=5000).fit(x, y).predict

    def score(federation):
        parts = [*clients(federation)]
        pooled = fit(*(np.concatenate([p[i] for p in parts]) for i in (0, 1)))
        return np.mean([(pooled(p[2]) == p[3]).mean() for p in parts]), np.mean(
            [(fit(p[0], p[1])(p[2]) == p[3]).mean() for p in parts]
        )

    pooled, _ = score(load("wisdm"))
    _, local = score(load("wisdm", per="client"))
    assert pooled == pytest.approx(0.795, abs=0.015)
    assert local == pytest.approx(0.865, abs=0.02)


# Heart disease


@hearts
def test_flambys_recipe_gives_flambys_numbers():
    federation = load("heart_disease")
    assert federation.train.sizes.tolist() == [199, 172, 30, 85]
    assert federation.test.sizes.tolist() == [104, 89, 16, 45]
    assert federation.features == (
        *("age", "sex", "trestbps", "chol", "fbs", "thalach", "exang", "oldpeak"),
        *("cp 2", "cp 3", "cp 4", "restecg 1", "restecg 2"),
    )


@hearts
def test_the_split_is_the_one_that_flamby_draws():
    """Read by hand: scikit-learn's stratified split of each hospital's complete rows, seed 43."""
    from sklearn.model_selection import train_test_split

    federation = load("heart_disease", per=None)
    for k in range(4):
        table = raw("heart_disease", k, header=None, na_values="?")
        table = table.drop(columns=[10, 11, 12]).dropna()
        sick = (table[13] > 0).astype(int)
        stratify = sick if min(sick.sum(), (1 - sick).sum()) > 2 else None
        rows, held_out = train_test_split(
            np.arange(len(table)),
            test_size=1.0 - 0.66,
            train_size=0.66,
            random_state=43,
            stratify=stratify,
        )
        for part, numbers in ((federation.train, rows), (federation.test, held_out)):
            x, y = part[k]
            of_these = table.iloc[np.sort(numbers)]
            assert x[:, 0].tolist() == of_these[0].tolist()
            assert x[:, 3].tolist() == of_these[4].tolist()
            assert y.tolist() == sick.iloc[np.sort(numbers)].tolist()


@hearts
def test_trap_cholesterol_of_0_hides_missing_values():
    column = load("heart_disease").features.index("chol")
    zeros = [
        int((np.concatenate([x, z])[:, column] == 0).sum())
        for x, _, z, _ in clients(load("heart_disease", per=None))
    ]
    assert zeros == [0, 0, 46, 33], "all of Switzerland"
    full = load("heart_disease", recipe="full", per=None)
    chol, flag = full.features.index("chol"), full.features.index("chol missing")
    for k, (x, _, z, _) in enumerate(clients(full)):
        everyone = np.concatenate([x, z])
        missing = everyone[:, flag] == 1
        assert (everyone[:, chol] > 0).all()
        assert missing.sum() == (0, 23, 123, 56)[k]
        if 0 < missing.sum() < len(missing):
            own = np.median(x[x[:, flag] == 0, chol])
            assert np.unique(everyone[missing, chol]) == pytest.approx(own)


@hearts
def test_trap_one_pressure_of_0_and_negative_oldpeak():
    full = load("heart_disease", recipe="full", per=None)
    x = torch.cat([full.train.x, full.test.x])
    assert x[:, full.features.index("trestbps")].min() > 0
    assert (x[:, full.features.index("oldpeak")] < 0).sum() == 12, "these stay"


@hearts
def test_the_full_recipe_keeps_every_patient():
    full = load("heart_disease", recipe="full")
    assert (full.train.sizes + full.test.sizes).tolist() == [303, 294, 123, 200]
    assert set(torch.cat([full.train.y, full.test.y]).tolist()) == {0, 1}, "num is 0 to 4"
    with pytest.raises(ValueError, match="but got recipe='best'"):
        datasets.heart_disease(recipe="best")


@hearts
def test_trap_switzerland_has_one_healthy_patient_left():
    federation = load("heart_disease")
    healthy = sum(int((part[2][1] == 0).sum()) for part in (federation.train, federation.test))
    assert healthy == 1


# QMNIST


@writers
def test_52_writers_have_30_images():
    federation = load("qmnist_writers")
    sizes = federation.train.sizes + federation.test.sizes
    assert (len(federation), int(sizes.sum()), int(sizes.min())) == (52, 5136, 30)
    everyone = load("qmnist_writers", min_images=2)
    assert len(everyone) == 297
    assert int((everyone.train.sizes + everyone.test.sizes).sum()) == 10_000


@writers
def test_trap_files_are_big_endian_and_in_the_order_of_mnist():
    """Else the mean image of each digit could not tell what the test images are."""
    images = load("qmnist_writers").pool()
    (x, y), (z, digits) = images.train[0], images.test[0]
    means = torch.stack([x[y == digit].mean(0) for digit in range(10)])
    assert (torch.cdist(z, means).argmin(1) == digits).double().mean() > 0.75


@writers
def test_the_series_is_in_the_name():
    names = load("qmnist_writers", min_images=2).clients
    assert {name.split("series ")[1] for name in names} == {"0)", "4)"}


@writers
def test_images_are_averaged_down():
    large, small = (load("qmnist_writers", size=size, images=True) for size in (28, 14))
    expected = large.train.x.reshape(-1, 1, 14, 2, 14, 2).mean((3, 5))
    torch.testing.assert_close(small.train.x, expected)
    assert (float(large.train.x.min()), float(large.train.x.max())) == (0, 1)
    with pytest.raises(ValueError, match="write 7, 14 or 28"):
        datasets.qmnist_writers(size=0)
    with pytest.raises(ValueError, match="the most that one wrote is 130"):
        datasets.qmnist_writers(min_images=131)


# MovieLens


@movies
def test_610_users_and_movies_counted_without_gaps():
    federation = load("movielens")
    sizes = federation.train.sizes + federation.test.sizes
    assert (len(federation), int(sizes.sum())) == (610, 100_836)
    assert (int(sizes.min()), int(sizes.max())) == (20, 2698)
    x = torch.cat([federation.train.x, federation.test.x])
    assert torch.equal(x.unique(), torch.arange(9724)), "18 movies without a rating are left out"
    assert set(federation.train.y.unique().tolist()) == {k / 2 for k in range(1, 11)}


@movies
def test_trap_titles_hold_commas_and_accents_and_no_carriage_returns():
    titles = datasets.movie_titles()
    assert len(titles) == 9724
    assert titles[0] == "Toy Story (1995)"
    assert "American President, The (1995)" in titles
    assert any("é" in title for title in titles)
    assert not any("\r" in title for title in titles)


@movies
def test_movies_with_few_ratings_can_be_left_out():
    federation = load("movielens", min_ratings=10)
    x = torch.cat([federation.train.x, federation.test.x])[:, 0]
    assert torch.equal(x.unique(), torch.arange(2269))
    assert (len(x), int(x.bincount().min())) == (81_116, 10)
    titles = datasets.movie_titles(min_ratings=10)
    assert len(titles) == 2269
    table = raw("movielens").groupby("movieId").filter(lambda own: len(own) >= 10)
    own = table[table.userId == 1].movieId.map(raw("movielens", 1).set_index("movieId").title)
    found = [federation.train[0][0][:, 0], federation.test[0][0][:, 0]]
    assert {titles[i] for i in torch.cat(found)} == set(own)
    with pytest.raises(ValueError, match="min_ratings that leave each of the 610 users two"):
        datasets.movielens(min_ratings=300)


@movies
def test_the_test_is_each_users_latest():
    table = raw("movielens")
    for how, held_out in (({}, 0.2), ({"leave_one_out": True}, None)):
        federation = load("movielens", **how)
        for k in (0, 300, 609):
            own = table[table.userId == k + 1].sort_values("timestamp", kind="stable")
            number = 1 if held_out is None else round(held_out * len(own))
            latest = own.tail(number)
            assert sorted(federation.test[k][1].tolist()) == sorted(latest.rating)
            assert len(federation.test[k][1]) == number


# New York weather


@weather
def test_trap_hours_are_absent_so_the_target_is_found_by_the_clock():
    table = raw("new_york_weather", parse_dates=["time_hour"])
    gaps = table.groupby("origin").time_hour.diff() > pd.Timedelta(hours=1)
    assert gaps.sum() > 30
    federation = load("new_york_weather", per=None)
    assert federation.clients == ("EWR", "JFK", "LGA")
    jfk = table[table.origin == "JFK"].set_index("time_hour").temp
    x, y, *_ = [*clients(federation)][1]
    now = (x[:, 0] * 1.8 + 32).round(2)
    later = (y * 10 + 10) * 1.8 + 32
    start = jfk.index[0]
    assert (now[0], later[0]) == pytest.approx((jfk[start], jfk[start + pd.Timedelta(hours=6)]))
    complete = jfk.index.isin(jfk.index - pd.Timedelta(hours=6)) & jfk.notna()
    hours = int(federation.train.sizes[1] + federation.test.sizes[1])
    assert complete.sum() - 10 < hours < complete.sum()


@weather
def test_trap_slips_in_the_published_file_are_left_out():
    table = raw("new_york_weather")
    assert table.wind_speed.max() > 1000
    federation = load("new_york_weather", per=None)
    names = federation.features
    x = torch.cat([federation.train.x, federation.test.x])
    assert x[:, names.index("wind_speed")].max() < 100
    summer = [*clients(federation)][1][0]
    steps = np.abs(np.diff(summer[:, names.index("temp")]))
    assert steps.max() < 15, "no fall from 14 degrees to -10 and back"


@weather
def test_the_test_is_the_end_of_the_year_and_targets_do_not_overlap():
    federation = load("new_york_weather", per=None)
    for x, _, z, _ in clients(federation):
        temperature = federation.features.index("temp")
        assert z[:, temperature].mean() < x[:, temperature].mean() - 3, "autumn"
        assert len(z) == pytest.approx(len(x) / 3, abs=2)
    with pytest.raises(ValueError, match="but got hours=0"):
        datasets.new_york_weather(hours=0)


# Where files come from


def test_sources_are_a_table_with_every_loader():
    table = datasets.sources()
    assert [*table.index] == [*datasets.SOURCES]
    assert table.notna().all().all()
    assert all(callable(getattr(datasets, name)) for name in table.index)
    assert "Goldstein" in datasets.cite("exam_schools")
    assert "GPL" in datasets.cite("exam_schools")


def test_every_file_has_a_checksum_and_an_address():
    for name in REAL:
        for file in datasets.SOURCES[name].files:
            assert len(bytes.fromhex(file.sha256)) == 32
            assert file.url.startswith("https://")


def test_an_unknown_name_is_told_the_known_ones():
    with pytest.raises(ValueError, match=r"diabetes, .*but got 'femnist'"):
        datasets.available("femnist")
    assert datasets.available("digits"), "nothing to download"


CONTENT = b"a,b\n1,2\n" * 40


class Publisher:
    """A server on this machine; `answer` writes what it sends to a request."""

    def __init__(self, answer: Callable[[BaseHTTPRequestHandler], None]):
        self.requests = 0

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler):
                self.requests += 1
                answer(handler)

            def log_message(handler, *_):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/table.csv"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def sends(content: bytes, promised: int | None = None, status: int = 200):
    """The whole content, or less than was promised."""

    def answer(handler):
        handler.send_response(status)
        if promised is not False:
            handler.send_header("Content-Length", str(promised or len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty cache and no FEDLAB_DATA; returns `publish`, which registers a set named "toy"."""
    opened = []
    monkeypatch.delenv("FEDLAB_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / name)

    def publish(answer=None, unpack=None, content: bytes = CONTENT) -> Publisher | None:
        url = "http://127.0.0.1:9/table.csv"  # nobody answers at this port
        if answer is not None:
            opened.append(Publisher(answer))
            url = opened[-1].url
        file = File("table.csv", hashlib.sha256(content).hexdigest(), url, unpack)
        source = Source("Toy", "toy", "", "none", "nobody", "toys", (file,))
        monkeypatch.setitem(datasets.SOURCES, "toy", source)
        return opened[-1] if opened else None

    publish.cache = tmp_path / "fedlab" / "toys"
    publish.folder = tmp_path / "mine"
    yield publish
    for server in opened:
        server.close()


def test_a_file_is_downloaded_once_and_then_at_hand(place, capfd):
    publisher = place(sends(CONTENT))
    assert not datasets.available("toy")
    assert datasets._content("toy") == CONTENT
    assert datasets.available("toy")
    capfd.readouterr()
    assert datasets._content("toy") == CONTENT
    assert capfd.readouterr() == ("", ""), "no progress bar without a download"
    assert publisher.requests == 1


@pytest.mark.parametrize("below", ["toys/table.csv", "table.csv", "toys/table.csv.gz"])
def test_fedlab_data_comes_first_in_either_layout(place, monkeypatch, below):
    publisher = place(sends(CONTENT))
    path = place.folder / below
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(CONTENT) if path.suffix == ".gz" else CONTENT)
    monkeypatch.setenv("FEDLAB_DATA", str(place.folder))
    assert datasets.available("toy")
    assert datasets._content("toy") == CONTENT
    assert publisher.requests == 0


def test_a_wrong_file_in_fedlab_data_is_named_with_both_checksums(place, monkeypatch):
    publisher = place(sends(CONTENT))
    place.folder.mkdir()
    (place.folder / "table.csv").write_bytes(b"something else")
    monkeypatch.setenv("FEDLAB_DATA", str(place.folder))
    with pytest.raises(CorruptData) as error:
        datasets._content("toy")
    for part in (CONTENT, b"something else"):
        assert hashlib.sha256(part).hexdigest() in str(error.value)
    assert str(place.folder / "table.csv") in str(error.value)
    assert publisher.requests == 0


def test_without_folder_cache_and_network_it_says_so_at_once(place, monkeypatch):
    place()
    monkeypatch.setenv("FEDLAB_DATA", str(place.folder))
    began = time.perf_counter()
    with pytest.raises(DataUnavailable) as error:
        datasets._content("toy")
    assert time.perf_counter() - began < 5
    for word in ("toy", "table.csv", str(place.folder), str(place.cache), "http://", "network"):
        assert word in str(error.value)
    assert isinstance(error.value, FileNotFoundError)


def test_a_page_that_is_gone_counts_as_unavailable(place):
    place(sends(b"", status=404))
    with pytest.raises(DataUnavailable, match="404"):
        datasets._content("toy")


WRONG = {
    "other content": (sends(CONTENT[:-1] + b"?"), CorruptData),
    "cut off unnoticed": (sends(CONTENT[:99], promised=False), CorruptData),
    "cut off by the connection": (sends(CONTENT[:99], promised=len(CONTENT)), DataUnavailable),
}


@pytest.mark.parametrize(("answer", "error"), WRONG.values(), ids=WRONG)
def test_a_bad_download_leaves_nothing_behind(place, answer, error):
    place(answer)
    with pytest.raises(error) as raised:
        datasets._content("toy")
    assert [*place.cache.iterdir()] == []
    assert not datasets.available("toy")
    if error is CorruptData:
        assert isinstance(raised.value, ValueError)
        assert hashlib.sha256(CONTENT).hexdigest() in str(raised.value)


@pytest.mark.parametrize(("answer", "error"), WRONG.values(), ids=WRONG)
def test_a_bad_download_never_replaces_a_file(place, answer, error):
    """Here an older version of it: pooch would replace that by what the checksum promises."""
    place(answer)
    place.cache.mkdir(parents=True)
    (place.cache / "table.csv").write_bytes(b"older")
    with pytest.raises(error):
        datasets._content("toy")
    assert [path.read_bytes() for path in place.cache.iterdir()] == [b"older"]


def test_a_good_file_survives_when_the_publisher_turns_bad(place):
    place(sends(CONTENT))
    datasets._content("toy")
    publisher = place(sends(b"nonsense"))
    assert datasets._content("toy") == CONTENT
    assert publisher.requests == 0


def zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("toy-1/table.csv", content)
    return file.getvalue()


def test_a_file_is_taken_out_of_its_archive_and_then_verified(place):
    unpack = partial(datasets._member_of_zip, member="toy-1/table.csv")
    place(sends(zipped(CONTENT)), unpack)
    assert datasets._content("toy") == CONTENT
    assert [path.name for path in place.cache.iterdir()] == ["table.csv"]


@pytest.mark.parametrize("archive", [zipped(CONTENT)[:60], b"not a zip", zipped(CONTENT + b"!")])
def test_a_bad_archive_is_corrupt_data(place, archive):
    place(sends(archive), partial(datasets._member_of_zip, member="toy-1/table.csv"))
    with pytest.raises(CorruptData, match=hashlib.sha256(CONTENT).hexdigest()):
        datasets._content("toy")
    assert [*place.cache.iterdir()] == []


def test_an_archive_without_the_file_is_corrupt_data(place):
    place(sends(zipped(CONTENT)), partial(datasets._member_of_zip, member="elsewhere.csv"))
    with pytest.raises(CorruptData, match="cannot be unpacked"):
        datasets._content("toy")


def test_trap_the_head_of_wisdms_arff_is_taken_off_and_its_line_ends_restored():
    table = b"1,33,0.5,Walking\n2,33,?,Jogging\n"
    arff = b"@relation activity\n\n@attribute user\n\n@DATA\n" + table
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        member = tarfile.TarInfo("W/w.arff")
        member.size = len(arff)
        archive.addfile(member, io.BytesIO(arff))
    got = datasets._table_of_arff_in_tar(file.getvalue(), "W/w.arff")
    assert got == table.replace(b"\n", b"\r\n")


def test_importing_the_loaders_imports_nothing_heavy():
    import subprocess
    import sys

    heavy = "{'pandas', 'sklearn', 'pooch', 'requests', 'scipy'}"
    code = f"import sys, fedlab_helpers.datasets; assert not {heavy} & {{*sys.modules}}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
