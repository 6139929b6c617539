"""Ready federations by name, small enough for a laptop, standardised without a look at test rows.

Each loader returns a `Federation` whose `about` gives source, licence, citation and what was done.
The files of the real data sets are not part of the project. They are looked for in the folder that
the environment variable FEDLAB_DATA names, then in pooch's cache, then at their official address;
wherever they come from, their SHA-256 is compared.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from . import partition
from .data import Federation
from .partition import Per, Rows
from .randomness import stream

if TYPE_CHECKING:
    import pandas as pd

TIMEOUT = (5, 30)  # seconds to wait for a connection, and for the next bytes


class DataUnavailable(FileNotFoundError):
    """A data set is neither in FEDLAB_DATA, nor in the cache, nor to be had from its publisher."""


class CorruptData(ValueError):
    """A file is not the one that its SHA-256 promises."""


# Where the data come from ----------------------------------------------------------------------


def _member_of_zip(content: bytes, member: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read(member)


def _table_of_arff_in_tar(content: bytes, member: str) -> bytes:
    """What follows the line @data, with the line ends of the publisher's file."""
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        file = archive.extractfile(member)
        lines = file.read().splitlines() if file else []
    start = [line.strip().lower() for line in lines].index(b"@data") + 1
    return b"".join(line + b"\r\n" for line in lines[start:])


@dataclass(frozen=True)
class File:
    """One file of a data set.

    sha256: of its content, after `unpack` has taken it out of what the address delivers.
    """

    name: str
    sha256: str
    url: str
    unpack: Callable[[bytes], bytes] | None = None


@dataclass(frozen=True)
class Source:
    """Where a data set comes from, and on what terms. Without files, nothing is downloaded."""

    title: str
    clients: str  # who or what a client is
    page: str
    licence: str
    citation: str
    folder: str = ""
    files: tuple[File, ...] = ()


_RDATASETS = (
    "https://raw.githubusercontent.com/vincentarelbundock/Rdatasets/"
    "1dcc2bf5f955cc1224a3e1307256e1fe86b68dae/csv/"
)
_UCI_HEART = "https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease/"
_MOVIELENS = "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip"
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_QMNIST = (
    "https://raw.githubusercontent.com/facebookresearch/qmnist/"
    "94061367ec2e099ea18c553c75727ecf849ddb9b/"
)

SOURCES = {
    "diabetes": Source(
        title="Diabetes progression",
        clients="group of patients",
        page="https://www4.stat.ncsu.edu/~boos/var.select/diabetes.html",
        licence="none stated by its authors; distributed with scikit-learn",
        citation="B. Efron, T. Hastie, I. Johnstone, R. Tibshirani (2004). Least Angle Regression. "
        "Annals of Statistics 32(2):407-499",
    ),
    "breast_cancer": Source(
        title="Breast Cancer Wisconsin (Diagnostic)",
        clients="hospital (simulated)",
        page="https://archive.ics.uci.edu/dataset/17/breast+cancer+wisconsin+diagnostic",
        licence="CC BY 4.0",
        citation="W. Wolberg, O. Mangasarian, N. Street, W. Street (1993). Breast Cancer Wisconsin "
        "(Diagnostic) [Dataset]. UCI Machine Learning Repository. doi:10.24432/C5DW2B",
    ),
    "digits": Source(
        title="Handwritten digits, 8 by 8",
        clients="simulated",
        page="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        licence="CC BY 4.0",
        citation="E. Alpaydin, C. Kaynak (1998). Optical Recognition of Handwritten Digits "
        "[Dataset]. UCI Machine Learning Repository. doi:10.24432/C50P49",
    ),
    "synthetic": Source(
        title="Synthetic(alpha, beta)",
        clients="simulated",
        page="https://github.com/litian96/FedProx",
        licence="generated here",
        citation="T. Li, A. K. Sahu, M. Zaheer, M. Sanjabi, A. Talwalkar, V. Smith (2020). "
        "Federated Optimization in Heterogeneous Networks. MLSys. arXiv:1812.06127",
    ),
    "exam_schools": Source(
        title="Exam scores of 65 schools in Inner London",
        clients="school",
        page="https://www.bristol.ac.uk/cmm/learning/mmsoftware/data-rev.html",
        licence="GPL (>= 2), as part of the R package mlmRev",
        citation="H. Goldstein, J. Rasbash, M. Yang, G. Woodhouse, H. Pan, D. Nuttall, S. Thomas "
        "(1993). A multilevel analysis of school examination results. Oxford Review of Education "
        "19:425-433",
        folder="exam_schools",
        files=(
            File(
                "Exam.csv",
                "9c87dc2a85401f0589bdb1c1e95049bd86648f80ab00c73b388f6b7079e711ac",
                _RDATASETS + "mlmRev/Exam.csv",
            ),
        ),
    ),
    "wisdm": Source(
        title="WISDM activity recognition v1.1",
        clients="person",
        page="https://www.cis.fordham.edu/wisdm/dataset.php",
        licence="none stated; the publisher asks to be cited, and that its readme.txt travels with "
        "every copy",
        citation="J. R. Kwapisz, G. M. Weiss, S. A. Moore (2010). Activity Recognition using Cell "
        "Phone Accelerometers. SensorKDD",
        folder="wisdm",
        files=(
            File(
                "WISDM_ar_v1.1_transformed.data",
                "0cba57836da30d4142c574881f4dc64b93f351cdbe47057abb13e0e73e5ea4ab",
                "https://www.cis.fordham.edu/wisdm/includes/datasets/latest/WISDM_ar_latest.tar.gz",
                partial(
                    _table_of_arff_in_tar, member="WISDM_ar_v1.1/WISDM_ar_v1.1_transformed.arff"
                ),
            ),
        ),
    ),
    "heart_disease": Source(
        title="Heart disease in four hospitals",
        clients="hospital",
        page="https://archive.ics.uci.edu/dataset/45/heart+disease",
        licence="CC BY 4.0",
        citation="A. Janosi (Budapest), W. Steinbrunn (Zurich), M. Pfisterer (Basel), R. Detrano "
        "(Long Beach and Cleveland) (1989). Heart Disease [Dataset]. UCI Machine Learning "
        "Repository. doi:10.24432/C52P4X",
        folder="heart_disease",
        files=tuple(
            File(f"processed.{hospital}.data", sha256, f"{_UCI_HEART}processed.{hospital}.data")
            for hospital, sha256 in {
                "cleveland": "a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8",
                "hungarian": "d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796",
                "switzerland": "834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314",
                "va": "e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f",
            }.items()
        ),
    ),
    "qmnist_writers": Source(
        title="MNIST test digits by writer",
        clients="writer",
        page="https://github.com/facebookresearch/qmnist",
        licence="writers (QMNIST): BSD-style; images (MNIST): CC BY-SA 3.0",
        citation="C. Yadav, L. Bottou (2019). Cold Case: The Lost MNIST Digits. NeurIPS 32. "
        "Y. LeCun, L. Bottou, Y. Bengio, P. Haffner (1998). Gradient-based learning applied to "
        "document recognition. Proceedings of the IEEE 86(11)",
        folder="qmnist_writers",
        files=(
            File(
                "t10k-images-idx3-ubyte.gz",
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                _MNIST + "t10k-images-idx3-ubyte.gz",
            ),
            File(
                "qmnist-test-labels-idx2-int.gz",
                "9fbcbe594c3766fdf4f0b15c5165dc0d1e57ac604e01422608bb72c906030d06",
                _QMNIST + "qmnist-test-labels-idx2-int.gz",
            ),
        ),
    ),
    "movielens": Source(
        title="MovieLens ml-latest-small",
        clients="user",
        page="https://grouplens.org/datasets/movielens/latest/",
        licence="GroupLens usage licence: research, non-commercial; see the archive's README.txt",
        citation="F. M. Harper, J. A. Konstan (2015). The MovieLens Datasets: History and Context. "
        "ACM Transactions on Interactive Intelligent Systems 5(4):19. doi:10.1145/2827872",
        folder="movielens_latest_small",
        files=tuple(
            File(
                name, sha256, _MOVIELENS, partial(_member_of_zip, member=f"ml-latest-small/{name}")
            )
            for name, sha256 in {
                "ratings.csv": "aa289ca83157595d0df6aea1be6a4ded676ddc4385472e8313a8ed9805352646",
                "movies.csv": "5a5f32dd9bb3797b8e728a1b98958789d2b13f294a69fdfbc5727f8a9611aa07",
            }.items()
        ),
    ),
    "new_york_weather": Source(
        title="Hourly weather at three New York airports, 2013",
        clients="airport",
        page="https://github.com/tidyverse/nycflights13",
        licence="CC0",
        citation="H. Wickham. nycflights13: Flights that Departed NYC in 2013 (R package). "
        "Observations: ASOS, by way of the Iowa Environmental Mesonet",
        folder="nyc_weather",
        files=(
            File(
                "weather.csv",
                "e69580cc3c18070692b6bf2f52e890803a313507c23283b15f06dbbae86451cf",
                _RDATASETS + "nycflights13/weather.csv",
            ),
        ),
    ),
}


def sources() -> pd.DataFrame:
    """A table of all data sets: title, what a client is, licence, citation, page."""
    import pandas as pd

    columns = ("title", "clients", "licence", "citation", "page")
    return pd.DataFrame(
        {c: [getattr(s, c) for s in SOURCES.values()] for c in columns},
        index=pd.Index(SOURCES, name="loader"),
    )


def cite(name: str) -> str:
    """Source, licence and citation of a data set, as a paragraph."""
    source = _source(name)
    return f"{source.title}. {source.citation}. Licence: {source.licence}. Source: {source.page}"


def available(name: str) -> bool:
    """Whether a data set can be loaded without a network. Never downloads.

    Raises ValueError for a name that is not in `SOURCES`.
    """
    source = _source(name)
    return all(
        _in_folder(source, file) or _in_cache(source, file).exists() for file in source.files
    )


# Getting files ---------------------------------------------------------------------------------


def _source(name: str) -> Source:
    if name not in SOURCES:
        raise ValueError(f"expected one of the data sets {', '.join(SOURCES)}, but got {name!r}")
    return SOURCES[name]


def _in_folder(source: Source, file: File) -> Path | None:
    """The file below FEDLAB_DATA: with or without the data set's folder, gzipped or not."""
    if not os.environ.get("FEDLAB_DATA"):
        return None
    folder = Path(os.environ["FEDLAB_DATA"]).expanduser()
    candidates = [
        folder / below / name
        for below in (source.folder, "")
        for name in (file.name, file.name + ".gz")
    ]
    return next((path for path in candidates if path.is_file()), None)


def _in_cache(source: Source, file: File) -> Path:
    import pooch

    return Path(pooch.os_cache("fedlab")) / source.folder / file.name


def _content(name: str, number: int = 0) -> bytes:
    """The content of a data set's file, verified: from FEDLAB_DATA, the cache, or its publisher."""
    import pooch
    import requests

    source = SOURCES[name]
    file = source.files[number]
    found = _in_folder(source, file)
    if found:
        packed = found.suffix == ".gz" != Path(file.name).suffix
        return _verified(found.read_bytes(), file, str(found), gzip.decompress if packed else None)

    def download(url: str, output: str, _: Any) -> None:
        pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT)(url, output, None)
        content = _verified(Path(output).read_bytes(), file, f"the download {url}", file.unpack)
        Path(output).write_bytes(content)

    cached = _in_cache(source, file)
    try:
        path = pooch.retrieve(
            file.url, file.sha256, fname=cached.name, path=cached.parent, downloader=download
        )
    except requests.RequestException as reason:
        raise DataUnavailable(
            f"the data set {name} needs the file {file.name}, which is neither in the folder "
            f"FEDLAB_DATA ({os.environ.get('FEDLAB_DATA') or 'not set'}), nor in the cache "
            f"({cached}), nor to be had from {file.url} ({type(reason).__name__}: {reason}); "
            f"set FEDLAB_DATA to a folder that holds {source.folder}/{file.name}, "
            "or call this once with a network"
        ) from reason
    return Path(path).read_bytes()


def _verified(
    content: bytes, file: File, where: str, unpack: Callable[[bytes], bytes] | None
) -> bytes:
    """The content, unpacked, if it is the one that was promised."""
    delivered = f"{len(content)} bytes with SHA-256 {hashlib.sha256(content).hexdigest()}"
    broken = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, LookupError)
    try:
        content = unpack(content) if unpack else content
        got = f"SHA-256 {hashlib.sha256(content).hexdigest()}"
    except (*broken, ValueError) as reason:
        got = f"something that cannot be unpacked ({reason}): {delivered}"
    if got != f"SHA-256 {file.sha256}":
        raise CorruptData(
            f"expected {file.name} with SHA-256 {file.sha256}, but {where} gave {got}; "
            "remove that file, or try again later: the publisher may have changed it"
        )
    return content


def _table(name: str, number: int = 0, **how: Any) -> pd.DataFrame:
    import pandas as pd

    return pd.read_csv(io.BytesIO(_content(name, number)), **how)


def _finish(name: str, federation: Federation, per: Per | None, done: str) -> Federation:
    """With source and name, standardised or not."""
    federation = replace(federation, name=name.replace("_", " "), about=f"{cite(name)}. {done}")
    return partition.standardise(federation, per) if per else federation


# Bundled with scikit-learn, or generated -------------------------------------------------------


def diabetes(
    *,
    clients: int = 8,
    by: str = "age",
    seed: int = 0,
    test_fraction: float = 0.25,
    per: Per | None = "federation",
) -> Federation:
    """442 patients, 10 features; how far diabetes progressed within a year. Regression.

    Clients are groups of patients, from the lowest to the highest values of the feature `by`
    ("age", "bmi", "bp", "s1", ..., "s6"; "sex" with clients=2), or random ones, by="iid".
    y is in units of 100 points of the score, centred at 150 points: y = (score - 150) / 100.
    per: how features are standardised, see `standardise`; None leaves them in their units.
    (scikit-learn's own scaled version uses the mean of all patients, test rows included.)
    Raises ValueError for another `by`, and for more groups than the feature allows.
    """
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes(scaled=False)
    names = tuple(bunch.feature_names)
    federation = partition.federate(
        bunch.data,
        (bunch.target - 150) / 100,
        _groups(bunch.data, names, by, clients, seed),
        test_fraction,
        seed,
        features=names,
    )
    return _finish("diabetes", federation, per, "y = (score - 150) / 100.")


def breast_cancer(
    *,
    clients: int = 8,
    by: str = "mean radius",
    alpha: float = 0.5,
    seed: int = 0,
    test_fraction: float = 0.25,
    per: Per | None = "federation",
) -> Federation:
    """569 tumours, 30 features; label 0 malignant (212), 1 benign (357), as in scikit-learn.

    Clients are hospitals, simulated: by="mean radius" (or another feature) sends the smallest
    tumours to the first and the largest, mostly malignant ones, to the last; by="diagnosis" draws
    label skew from Dir(alpha); by="iid" is random. Splits are stratified by label.
    per: how features are standardised, see `standardise`; None leaves them in their units.
    Raises ValueError for another `by`.
    """
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    names = tuple(str(name) for name in bunch.feature_names)
    owned = (
        partition.dirichlet(bunch.target, clients, alpha, seed)
        if by == "diagnosis"
        else _groups(bunch.data, names, by, clients, seed, ("diagnosis",))
    )
    federation = partition.federate(
        bunch.data,
        bunch.target,
        owned,
        test_fraction,
        seed,
        stratify=True,
        features=names,
        classes=("malignant", "benign"),
    )
    return _finish("breast_cancer", federation, per, "Label 0 is malignant, 1 benign.")


def digits(
    *,
    clients: int = 20,
    alpha: float | None = 0.5,
    rotations: Sequence[float] | None = None,
    images: bool = False,
    seed: int = 0,
    test_fraction: float = 0.25,
) -> Federation:
    """1,797 handwritten digits of 8 by 8 pixels, divided by 16, so from 0 to 1; 10 classes.

    alpha: label skew from Dir(alpha), see `dirichlet`; None deals the digits out IID.
    rotations: angles in degrees, anticlockwise; client k's images are turned by
    rotations[k % len(rotations)]. images: x is (rows, 1, 8, 8) instead of (rows, 64).
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    owned = (
        partition.iid(len(bunch.target), clients, seed)
        if alpha is None
        else partition.dirichlet(bunch.target, clients, alpha, seed, min_size=10)
    )
    federation = partition.federate(
        bunch.images[:, None] / 16,
        bunch.target,
        owned,
        test_fraction,
        seed,
        stratify=True,
        features=_pixels(8),
        classes=tuple("0123456789"),
    )
    if rotations is not None:
        angles = [rotations[k % len(rotations)] for k in range(clients)]
        turns = [partial(partition.rotate, angle=angle) for angle in angles]
        federation = partition.feature_shift(federation, turns)
    return _finish("digits", _flat(federation, images), None, "Pixels are divided by 16.")


def synthetic(
    alpha: float = 1.0,
    beta: float = 1.0,
    *,
    clients: int = 30,
    rows: int | None = None,
    iid: bool = False,
    seed: int = 0,
    test_fraction: float = 0.1,
) -> Federation:
    """Synthetic(alpha, beta): every client has a linear classifier and a kind of input of its own.

    60 features, 10 classes, y = argmax(W_k x + b_k) without noise, where
        W_k, b_k ~ N(u_k, 1), u_k ~ N(0, alpha^2)            how much classifiers differ
        x ~ N(v_k, diag(j^-1.2)), v_k ~ N(B_k, 1), B_k ~ N(0, beta^2)    how much inputs differ.
    rows: examples per client; None draws floor(lognormal(4, 2)) + 50, so a few clients hold most.
    iid: one W and b ~ N(0, 1) for all, and v_k = 0.
    Client k's data depend on the seed and k alone, not on how many clients there are.
    Raises ValueError for negative alpha or beta.
    Source: Li, Sahu, Zaheer, Sanjabi, Talwalkar and Smith, Federated Optimization in Heterogeneous
    Networks, MLSys 2020, arXiv:1812.06127. The paper writes N(0, alpha); its authors' generator
    takes alpha and beta as standard deviations, and so does this one (for 0 and 1 it is the same).
    """
    if alpha < 0 or beta < 0:
        raise ValueError(
            f"expected standard deviations alpha and beta >= 0, but got {alpha} and {beta}"
        )
    features, classes = 60, 10
    spread = np.arange(1, features + 1) ** -0.6  # standard deviations of x
    shared = stream("data", seed, 0).normal(size=(features + 1, classes))
    xs, ys = [], []
    for k in range(clients):
        rng = stream("data", seed, 1 + k)
        n = int(rng.lognormal(4, 2)) + 50 if rows is None else rows
        own = rng.normal(rng.normal(0, alpha), 1, (features + 1, classes))
        centre = rng.normal(rng.normal(0, beta), 1, features)
        W, centre = (shared, np.zeros(features)) if iid else (own, centre)
        x = centre + spread * rng.normal(size=(n, features))
        xs.append(x)
        ys.append((x @ W[:-1] + W[-1]).argmax(1))
    federation = partition.federate(
        np.concatenate(xs),
        np.concatenate(ys),
        np.split(np.arange(sum(map(len, ys))), np.cumsum([len(y) for y in ys])[:-1]),
        test_fraction,
        seed,
        features=tuple(f"x{j}" for j in range(1, features + 1)),
        classes=tuple("0123456789"),
    )
    kind = "IID" if iid else f"alpha={alpha:g}, beta={beta:g}"
    return _finish("synthetic", federation, None, f"Here: {kind}, seed {seed}; not standardised.")


def preferences(
    *,
    users: int = 100,
    items: int = 200,
    width: int = 3,
    ratings: tuple[int, int] = (10, 60),
    bias: float = 0.4,
    taste: float = 0.8,
    noise: float = 0.5,
    choice: float = 1.0,
    seed: int = 0,
) -> Federation:
    """Made-up users who rate made-up items, and what each of them thinks of all others. Regression.

    User u likes item i as much as
        r_ui = b_u + b_i + p_u . q_i    b_u, b_i ~ N(0, bias^2), p_u, q_i ~ N(0, I), `width` numbers
    where the last term is scaled to the standard deviation `taste`. x is the number of the item,
    (rows, 1). The user rates ratings[0] to ratings[1] items, chosen without replacement with
    probabilities proportional to exp(choice r_ui), and rates them r_ui + N(0, noise^2): the
    training examples. The test holds r_ui itself, of every item that the user has not rated.
    Raises ValueError where a user would have rated all items, or none.
    """
    least, most = ratings
    if not 1 <= least <= most < items:
        raise ValueError(
            f"expected 1 <= ratings[0] <= ratings[1] < items, got ratings={ratings} of {items}"
        )
    rng = stream("data", seed, 0)
    p, q = rng.normal(size=(users, width)), rng.normal(size=(items, width))
    liked = bias * rng.normal(size=(users, 1)) + bias * rng.normal(size=items)
    liked = liked + taste / np.sqrt(width) * p @ q.T
    train, test, y = [], [], liked.copy()
    for k, row in enumerate(liked):
        rng = stream("data", seed, 1 + k)
        rated = rng.integers(least, most + 1)
        order = np.argsort(-choice * row - rng.gumbel(size=items))  # the Gumbel trick
        y[k, order[:rated]] += noise * rng.normal(size=rated)
        train.append(k * items + order[:rated])
        test.append(k * items + np.sort(order[rated:]))
    x = np.tile(np.arange(items), users)[:, None]
    federation = partition.assemble(x, y.ravel(), train, test, features=("item",))
    return replace(federation, name="preferences", about=f"Generated here, seed {seed}.")


# Real data with clients of their own -----------------------------------------------------------


def exam_schools(
    *, seed: int = 0, test_fraction: float = 0.25, per: Per | None = "federation"
) -> Federation:
    """4,059 pupils of 65 schools (2 to 198 each); their exam score at 16. Regression.

    Features: standLRT (reading test at 11), male, and for the whole school schavg (mean of its
    pupils at intake), vr (band of verbal reasoning at intake) and schgend (boys or girls only).
    The latter are constant within a school: useless to it alone, informative for all.
    y = normexam, in standard deviations of all pupils.
    Left out: `intake`, whose labels are reversed in the published file (the "bottom 25%" has the
    best reading tests), `type`, which repeats schgend, and the numbers of rows and of pupils.
    per: how features are standardised, see `standardise`; None leaves them in their units.
    Raises DataUnavailable, CorruptData.
    """
    table = _table("exam_schools")
    columns = {
        "standLRT": table.standLRT,
        "male": table.sex == "M",
        "schavg": table.schavg,
        "vr mid 50%": table.vr == "mid 50%",
        "vr top 25%": table.vr == "top 25%",
        "boys' school": table.schgend == "boys",
        "girls' school": table.schgend == "girls",
    }
    federation = partition.federate(
        np.stack([column.to_numpy(float) for column in columns.values()], 1),
        table.normexam.to_numpy(),
        partition.by_id(table.school, "school "),
        test_fraction,
        seed,
        features=tuple(columns),
    )
    done = "The variable intake is left out: its labels are reversed."
    return _finish("exam_schools", federation, per, done)


def wisdm(
    *, seed: int = 0, test_fraction: float = 0.3, per: Per | None = "federation"
) -> Federation:
    """5,418 windows of 10 s from a phone in the pocket of 36 people; 43 features, 6 activities.

    Some people never did some activities. The test is stratified by activity within each person.
    615 peak distances (XPEAK, YPEAK, ZPEAK) are missing, because no peak was found; they take the
    mean over the training rows of all people (each sends a sum and a count per feature).
    In the published file XAVG is 0 throughout and ZSTANDDEV repeats XSTANDDEV; and 61 windows occur
    twice under different numbers, so a few test rows equal a training row.
    per: how features are standardised, see `standardise`; None leaves them in their units.
    Raises DataUnavailable, CorruptData.
    """
    bins = [f"{axis}{number}" for axis in "XYZ" for number in range(10)]
    kinds = ("AVG", "PEAK", "ABSOLDEV", "STANDDEV")
    names = (*bins, *(axis + kind for kind in kinds for axis in "XYZ"), "RESULTANT")
    activities = ("Walking", "Jogging", "Upstairs", "Downstairs", "Sitting", "Standing")
    table = _table("wisdm", names=["window", "user", *names, "activity"], na_values="?")
    x, y = table[[*names]].to_numpy(float), table.activity.map(activities.index).to_numpy()
    owned = partition.by_id(table.user, "person ")
    train, test = partition.split([*owned.values()], test_fraction, seed, y)
    x = np.where(np.isnan(x), np.nanmean(x[np.concatenate(train)], 0), x)
    federation = partition.assemble(
        x, y, train, test, clients=tuple(owned), features=names, classes=activities
    )
    done = "Missing peak distances take the mean over all people's training examples."
    return _finish("wisdm", federation, per, done)


def heart_disease(
    *,
    recipe: Literal["flamby", "full"] = "flamby",
    seed: int = 43,
    test_fraction: float = 0.34,
    per: Per | None = "client",
) -> Federation:
    """Patients of four hospitals; is there a heart disease (num > 0)? 13 raw features, 2 classes.

    recipe="flamby": as in FLamby, split included (seed 43). Without slope, ca and thal, then
    without every row that has a missing cell: 740 patients; cp and restecg as dummies without
    their first level: 13 features. Cholesterol values of 0 stay, though they hide missing ones:
    all of Switzerland, 33 of VA Long Beach. Switzerland has one healthy patient left.
    recipe="full": all 920 patients. chol = 0 and trestbps = 0 count as missing as well. Missing
    cells take the median of the hospital's own training rows (where it has none, the mean of the
    other hospitals' medians), and a column "... missing" says where. Dummies for cp, restecg,
    slope and thal; a missing one is 0 in all of its dummies.
    per: how features are standardised, see `standardise`; FLamby does it per hospital.
    Raises ValueError for another recipe; DataUnavailable, CorruptData.
    Source of the recipe: Ogier du Terrail et al., FLamby: Datasets and Benchmarks for Cross-Silo
    Federated Learning in Realistic Healthcare Settings, NeurIPS 2022 (Datasets and Benchmarks),
    arXiv:2210.04620; its README counts 16 inputs, its code makes these 13.
    """
    import pandas as pd

    if recipe not in ("flamby", "full"):
        raise ValueError(f'expected recipe="flamby" or recipe="full", but got recipe={recipe!r}')
    columns = ["age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang"]
    columns += ["oldpeak", "slope", "ca", "thal", "num"]
    hospitals = ("Cleveland", "Hungary", "Switzerland", "VA Long Beach")
    tables = [_table("heart_disease", k, names=columns, na_values="?") for k in range(4)]
    table = pd.concat(tables, keys=hospitals, names=["hospital", None]).reset_index("hospital")
    dummies = ["cp", "restecg"] if recipe == "flamby" else ["cp", "restecg", "slope", "thal"]
    if recipe == "flamby":
        table = table.drop(columns=["slope", "ca", "thal"]).dropna()
    else:
        table[["trestbps", "chol"]] = table[["trestbps", "chol"]].replace(0, np.nan)
    y = (table.pop("num") > 0).to_numpy(int)
    hospital = table.pop("hospital").to_numpy()
    missing = table.loc[:, table.isna().any()].isna().add_suffix(" missing")
    table = pd.get_dummies(table, columns=dummies, prefix_sep=" ", drop_first=True, dtype=float)
    x = pd.concat([table, missing], axis=1)
    owned = [np.flatnonzero(hospital == name) for name in hospitals]
    if recipe == "flamby":
        train, test = _split_by_sklearn(owned, y, test_fraction, seed)
    else:
        train, test = partition.split(owned, test_fraction, seed, y)
    federation = partition.assemble(
        _fill_by_medians(x.to_numpy(float), owned, train),
        y,
        train,
        test,
        clients=hospitals,
        features=tuple(x.columns.str.removesuffix(".0")),
        classes=("healthy", "disease"),
    )
    done = {
        "flamby": "FLamby's recipe: 740 patients without missing cells.",
        "full": "All 920 patients; missing cells take the hospital's own training median.",
    }[recipe]
    return _finish("heart_disease", federation, per, done)


def qmnist_writers(
    *,
    min_images: int = 30,
    size: int = 28,
    images: bool = False,
    seed: int = 0,
    test_fraction: float = 0.25,
) -> Federation:
    """MNIST's 10,000 test digits by who wrote them: 52 writers have 30 images or more. 10 classes.

    Writers of series 0 are employees, those of series 4 pupils; clients are named accordingly.
    min_images: leave out writers with fewer. size: images are averaged down to size by size
    pixels, from 0 to 1. images: x is (rows, 1, size, size) instead of (rows, size * size).
    Raises ValueError where no writer has so many images, or for a size outside 1 to 28;
    DataUnavailable, CorruptData.
    """
    if not 1 <= size <= 28:
        raise ValueError(f"expected a size from 1 to 28 pixels, but got {size}; write 7, 14 or 28")
    pixels, labels = (gzip.decompress(_content("qmnist_writers", number)) for number in (0, 1))
    digit, series, writer = np.frombuffer(labels, ">i4", offset=12).reshape(-1, 8)[:10_000, :3].T
    names = [f"writer {w} (series {s})" for w, s in zip(writer, series, strict=True)]
    owned = {
        names[rows[0]]: rows
        for rows in partition.by_id(writer.astype(int)).values()
        if len(rows) >= min_images
    }
    if not owned:
        raise ValueError(
            f"expected writers with at least {min_images} images, but the most that one wrote is "
            f"{np.bincount(writer).max()}; write a smaller min_images"
        )
    x = torch.from_numpy(np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 1, 28, 28) / 255)
    federation = partition.federate(
        F.adaptive_avg_pool2d(x, size),
        digit.astype(int),
        owned,
        test_fraction,
        seed,
        stratify=True,
        features=_pixels(size),
        classes=tuple("0123456789"),
    )
    done = "Pixels are divided by 255."
    return _finish("qmnist_writers", _flat(federation, images), None, done)


def movielens(
    *, test_fraction: float = 0.2, leave_one_out: bool = False, min_ratings: int = 1
) -> Federation:
    """100,836 ratings (0.5 to 5 stars) of 9,724 movies by 610 users, 20 to 2,698 each. Regression.

    x is the number of the movie, (rows, 1), whole numbers from 0, in the order of `movie_titles`;
    y the stars. The test holds each user's latest ratings, or the very last one (leave_one_out).
    min_ratings: leave out movies with fewer ratings (test rows counted). 10 leaves 2,269 movies and
    81,116 ratings.
    Raises ValueError where a user would be left with less than two ratings; DataUnavailable,
    CorruptData.
    """
    ratings = _often_rated(min_ratings)
    movies, movie = np.unique(ratings.movieId, return_inverse=True)
    owned = partition.by_id(ratings.userId, "user ")
    if len(owned) < 610 or min(map(len, owned.values())) < 2:
        raise ValueError(
            f"expected min_ratings that leave each of the 610 users two ratings, got {min_ratings}"
        )
    train, test = partition.split_in_time(
        [*owned.values()], ratings.timestamp, None if leave_one_out else test_fraction
    )
    federation = partition.assemble(
        movie[:, None], ratings.rating, train, test, clients=tuple(owned), features=("movie",)
    )
    done = "The test holds each user's latest ratings."
    if min_ratings > 1:
        done += f" Only the {len(movies):,} movies with at least {min_ratings} ratings."
    return _finish("movielens", federation, None, done)


def movie_titles(*, min_ratings: int = 1) -> tuple[str, ...]:
    """The titles of the movies that `movielens` numbers 0, 1, 2, ..., with the same `min_ratings`.

    Raises DataUnavailable, CorruptData.
    """
    rated = np.unique(_often_rated(min_ratings).movieId)
    return tuple(_table("movielens", 1).set_index("movieId").title[rated])


def _often_rated(min_ratings: int) -> pd.DataFrame:
    """MovieLens' ratings of the movies with at least so many."""
    ratings = _table("movielens")
    often = ratings.groupby("movieId").movieId.transform("size") >= min_ratings
    return ratings[often].reset_index(drop=True)


def new_york_weather(
    *, hours: int = 6, test_fraction: float = 0.25, per: Per | None = "federation"
) -> Federation:
    """Three airports, an example every hour of 2013: how warm will it be in `hours` hours?

    Features: temp and dewp (degrees Celsius), humid (%), wind_speed (mph), precip (inches), visib
    (miles), and the hour of the day on the clock (sine and cosine).
    y is the temperature in units of 10 degrees Celsius, centred at 10: y = (temp - 10) / 10.
    The target is the row of exactly `hours` hours later; where that hour or a value is missing
    there is no example. Two slips in the published file count as missing: wind of 1,048 mph
    (EWR, 12 February) and 13 degrees F between hours of 57 (JFK, 8 May, Celsius by mistake).
    Training comes before test in time. wind_dir, wind_gust and pressure are left out: they are
    missing too often.
    per: how features are standardised, see `standardise`; None leaves them in their units.
    Raises ValueError unless hours is 1 or more; DataUnavailable, CorruptData.
    """
    import pandas as pd

    if hours < 1:
        raise ValueError(f"expected to look at least 1 hour ahead, but got hours={hours}")
    table = _table("new_york_weather", parse_dates=["time_hour"])
    slip = (table.origin == "JFK") & (table.time_hour == pd.Timestamp("2013-05-09 02:00Z"))
    table.loc[slip, ["temp", "dewp"]] = np.nan
    table.loc[table.wind_speed > 200, "wind_speed"] = np.nan
    table[["temp", "dewp"]] = (table[["temp", "dewp"]] - 32) / 1.8
    angle = 2 * np.pi * table.hour / 24
    table["sin hour"], table["cos hour"] = np.sin(angle), np.cos(angle)
    features = ("temp", "dewp", "humid", "wind_speed", "precip", "visib", "sin hour", "cos hour")
    later = table[["origin", "time_hour", "temp"]].rename(columns={"temp": "target"})
    later["time_hour"] -= pd.Timedelta(hours=hours)
    table = table.merge(later, on=["origin", "time_hour"]).dropna(subset=[*features, "target"])
    owned = partition.by_id(table.origin.to_numpy(str))
    train, test = partition.split_in_time([*owned.values()], table.time_hour, test_fraction)
    y, names = (table.target - 10) / 10, tuple(owned)
    federation = partition.assemble(
        table[[*features]], y, train, test, clients=names, features=features
    )
    done = f"y = (temperature in Celsius {hours} h later - 10) / 10; the test is the year's end."
    return _finish("new_york_weather", federation, per, done)


# Small parts -----------------------------------------------------------------------------------


def _groups(
    x: np.ndarray, names: tuple[str, ...], by: str, clients: int, seed: int, other: tuple = ()
) -> Rows | dict[str, np.ndarray]:
    """Quantile groups of one column, or random ones."""
    if by == "iid":
        return partition.iid(len(x), clients, seed)
    if by not in names:
        raise ValueError(
            f"expected by to be one of {', '.join((*names, *other, 'iid'))}, but got {by!r}"
        )
    return partition.by_quantile(x[:, names.index(by)], clients, by)


def _pixels(size: int) -> tuple[str, ...]:
    return tuple(f"pixel {row},{column}" for row in range(size) for column in range(size))


def _flat(federation: Federation, images: bool) -> Federation:
    if images:
        return federation
    flatten = partial(torch.flatten, start_dim=1)
    return partition.feature_shift(federation, [flatten] * len(federation))


def _split_by_sklearn(
    owned: Rows, y: np.ndarray, test_fraction: float, seed: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """FLamby's split: stratified unless a class has at most two patients."""
    from sklearn.model_selection import train_test_split

    parts = [
        train_test_split(
            rows,
            test_size=test_fraction,
            train_size=1 - test_fraction,
            random_state=seed,
            stratify=y[rows] if np.bincount(y[rows], minlength=2).min() > 2 else None,
        )
        for rows in owned
    ]
    train, test = ([np.sort(part[i]) for part in parts] for i in (0, 1))
    return train, test


def _fill_by_medians(x: np.ndarray, owned: Rows, train: Rows) -> np.ndarray:
    """Missing cells take the median of the client's own training rows (see `heart_disease`)."""
    medians = np.stack([_medians(x[rows]) for rows in train])
    medians = np.where(np.isnan(medians), np.nanmean(medians, 0), medians)
    x = x.copy()
    for rows, median in zip(owned, medians, strict=True):
        x[rows] = np.where(np.isnan(x[rows]), median, x[rows])
    return x


def _medians(x: np.ndarray) -> np.ndarray:
    """Of every column's known values; NaN where there are none."""
    return np.array(
        [
            np.median(known) if len(known) else np.nan
            for known in (column[~np.isnan(column)] for column in x.T)
        ]
    )
