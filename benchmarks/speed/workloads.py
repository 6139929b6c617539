"""What is measured: federations, networks, algorithms, the same for every implementation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

import fedlab_helpers as fl
from fedlab_helpers import datasets

FEATURES, CLASSES = 60, 10


@dataclass(frozen=True)
class Workload:
    """An algorithm at work on a federation.

    hidden: of the networks that the kernel knows, their hidden units; None for others.
    rounds: how many are timed at a time. threads: with how many torch is fastest in a plain loop.
    """

    about: str
    data: Callable[[], fl.Federation]
    network: Callable[[], nn.Module]
    algorithm: fl.FedAvg
    fraction: float = 1.0
    hidden: int | None = None
    rounds: int = 10
    threads: int = 1
    loss: Callable[[Tensor, Tensor], Tensor] = fl.cross_entropy
    score: fl.Score = fl.accuracy

    def model(self) -> fl.Model:
        """The network as the package takes it."""
        return fl.Model(self.network, self.loss, self.score)

    def cohorts(self, federation: fl.Federation, seed: int = 0) -> Iterator[Tensor]:
        """Who trains in round 1, 2, ..., as in `simulate`."""
        for arrivals in fl.Synchronous(self.fraction).arrivals(len(federation), seed):
            yield arrivals.clients

    def counts(self, sizes: Tensor) -> Tensor:
        """How many steps clients of these sizes take in a round."""
        a = self.algorithm
        if a.steps is not None:
            return torch.full_like(sizes, a.steps)
        return -(-sizes // min(a.batch_size, int(sizes.max()))) * a.epochs

    def mean_score(self, federation: fl.Federation, w: Tensor) -> float:
        """Score of the average client with one model for all, w (d,)."""
        model = self.model()
        test = [fl.Batch(*(v[None] for v in federation.test[k])) for k in range(len(federation))]
        return float(torch.cat([model.score(w[None], batch) for batch in test]).mean())


def plan(
    federation: fl.Federation, algorithm: fl.FedAvg, clients: Tensor, round: int, seed: int = 0
) -> list[list[Tensor]]:
    """The mini-batches of the package: for each client, the rows of the table in each of its steps.

    It deals out row numbers as if they were the examples.
    """
    a, rows = algorithm, torch.arange(len(federation.train.y))
    numbers = fl.Examples(rows, rows, federation.sizes)
    numbered = fl.Federation(numbers, numbers)
    order = federation.sizes[clients].argsort(descending=True, stable=True)
    local = numbered.local(clients[order], a.batch_size, a.epochs, seed, round, a.steps)
    found: list[list[Tensor]] = [[] for _ in clients]
    for x, _, mask in local.batches():
        for place, row in enumerate(x):
            found[int(order[place])].append(row if mask is None else row[mask[place]])
    return found


def power_law() -> fl.Federation:
    """Synthetic(1, 1): 100 clients with 50 + lognormal(4, 2) examples each, a tenth for the test.

    The seed whose sizes are most like those that the authors of the data drew: 37,669 in all, 6,113
    in the largest client.
    """
    return datasets.synthetic(1, 1, clients=100, seed=4)


def even(clients: int, rows: int, features: int = FEATURES, test_rows: int = 10) -> fl.Federation:
    """Clients of one size; labels are those of one linear classifier, inputs have own centres."""
    rng = np.random.default_rng(0)
    teacher = torch.from_numpy(rng.standard_normal((features, CLASSES), dtype=np.float32))

    def examples(rows: int) -> fl.Examples:
        x = torch.from_numpy(rng.standard_normal((clients * rows, features), dtype=np.float32))
        x.view(clients, rows, features).add_(centres)
        return fl.Examples(x, (x @ teacher).argmax(1), [rows] * clients)

    centres = torch.from_numpy(rng.standard_normal((clients, 1, features), dtype=np.float32))
    return fl.Federation(examples(rows), examples(test_rows), f"{clients} clients")


def images(clients: int = 50, rows: int = 100) -> fl.Federation:
    """Pictures of 28 x 28: ten patterns, in noise."""
    rng = np.random.default_rng(0)
    patterns = rng.standard_normal((CLASSES, 1, 28, 28), dtype=np.float32)

    def examples(rows: int) -> fl.Examples:
        y = rng.integers(0, CLASSES, clients * rows)
        noise = rng.standard_normal((len(y), 1, 28, 28), dtype=np.float32)
        x = torch.from_numpy(patterns[y] / 2 + noise)
        return fl.Examples(x, torch.from_numpy(y), [rows] * clients)

    return fl.Federation(examples(rows), examples(20), "images")


def likes(users: int = 600, items: int = 9000) -> fl.Federation:
    """Users with 100 to 150 ratings of items, popular ones more often: liked or not."""
    rng = np.random.default_rng(0)
    tastes, kinds = (rng.standard_normal((n, 4), dtype=np.float32) for n in (users, items))
    popularity = 1 / np.arange(10, items + 10)
    popularity /= popularity.sum()

    sizes = rng.integers(100, 151, users)
    drawn = [rng.choice(items, n + 20, replace=False, p=popularity) for n in sizes]
    appeal = kinds @ tastes.T + 2 * kinds[:, :1]  # to each user, and to all of them
    liked = [(appeal[d, k] > 0).astype(np.float32) for k, d in enumerate(drawn)]
    train, test = (
        fl.Examples(*(torch.from_numpy(np.concatenate([v[part] for v in c])) for c in both), n)
        for both in [(drawn, liked)]
        for part, n in ((slice(20, None), sizes), (slice(20), [20] * users))
    )
    return fl.Federation(train, test, "likes")


class Taste(nn.Module):
    """A vector for the user, one for every item, and a scorer of pairs of them."""

    def __init__(self, items: int = 9000, width: int = 16):
        super().__init__()
        self.user = nn.Parameter(torch.randn(width) / 4)
        self.items = nn.Embedding(items, width)
        self.score = nn.Sequential(nn.Linear(2 * width, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Item numbers (rows,) -> logits (rows, 1)."""
        items = self.items(x)
        return self.score(torch.cat([self.user.expand_as(items), items], -1))


def convolutions() -> nn.Module:
    """5 x 5 convolutions with 32 and 64 channels, pooled, then 512 units: 1.66 million numbers."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, CLASSES),
    )  # fmt: skip


def normalised(features: int, hidden: int, outputs: int) -> nn.Module:
    """A small network with BatchNorm in its body."""
    network = fl.mlp(features, hidden, outputs=outputs)
    network.body.insert(1, nn.BatchNorm1d(hidden))
    return network


def softmax_regression() -> nn.Module:
    """60 features, 10 classes."""
    return fl.linear(FEATURES, CLASSES)


W1 = Workload(
    "softmax regression on Synthetic(1, 1): 60 features, 10 classes, 100 clients of power-law "
    "size, 20 steps of batch 20",
    power_law,
    softmax_regression,
    fl.FedAvg(fl.SGD(0.01), steps=20, batch_size=20),
    hidden=0,
)
WORKLOADS = {
    "W1": W1,
    "W1e": replace(
        W1,
        about="the same, one epoch a round: clients take very different numbers of steps",
        algorithm=fl.FedAvg(fl.SGD(0.01), epochs=1, batch_size=20),
    ),
    "W1p": replace(W1, about="as W1, 10 of the 100 clients in a round", fraction=0.1, rounds=100),
    "W2": Workload(
        "a network 64-64-10, 100 clients with 500 rows, one epoch of batch 32",
        lambda: even(100, 500, 64, 50),
        lambda: fl.mlp(64, 64, outputs=CLASSES),
        fl.FedAvg(fl.SGD(0.05), batch_size=32),
        hidden=64,
    ),
    "W3": Workload(
        "a convolutional network with 1.66 million parameters (5 x 5, 32 and 64 channels, 512 "
        "units), 50 clients with 100 pictures of 28 x 28, one epoch of batch 20",
        images,
        convolutions,
        fl.FedAvg(fl.SGD(0.01), batch_size=20),
        rounds=1,
        threads=2,
    ),
    "W4": Workload(
        "PFedRec: 600 users with 100 to 150 ratings, a private vector of 16 numbers, a shared "
        "table of 9,000 items of which only touched rows move, a scorer 32-16-1; one epoch of "
        "batch 20",
        likes,
        Taste,
        fl.PFedRec(fl.SGD(0.5), batch_size=20, personal=("user",), item_lr=0.5),
        rounds=3,
        loss=fl.binary_cross_entropy,
        score=fl.binary_accuracy,
    ),
}


def clients(count: int) -> Workload:
    """The step of W1, for so many clients with 90 rows each."""
    rounds = max(1, 1000 // count)
    return replace(W1, about=f"{count:,} clients", data=lambda: even(count, 90), rounds=rounds)


def share(count: int) -> Workload:
    """One in a hundred of so many clients with 20 rows each."""
    return replace(
        W1, about=f"1 % of {count:,} clients", data=lambda: even(count, 20, test_rows=1),
        fraction=0.01,
    )  # fmt: skip


def width(hidden: int) -> Workload:
    """Networks with so many hidden units, 20 clients with 200 rows, one epoch of batch 20."""
    return Workload(
        f"a network 64-{hidden}-10", lambda: even(20, 200, 64),
        lambda: fl.mlp(64, hidden, outputs=CLASSES), fl.FedAvg(fl.SGD(0.05), batch_size=20),
        hidden=hidden, rounds=3,
    )  # fmt: skip


ALGORITHMS = Workload(
    "a network 64-32-10, 100 clients with 100 rows, two epochs of batch 20",
    lambda: even(100, 100, 64),
    lambda: fl.mlp(64, 32, outputs=CLASSES),
    fl.FedAvg(fl.SGD(0.05), batch_size=20, epochs=2),
    hidden=32,
    rounds=3,
)
FAMILIES = {"clients": clients, "share": share, "width": width}


@cache
def workload(name: str) -> Workload:
    """By its name, such as W1, or clients:1000, share:100000, width:64."""
    if name in (known := WORKLOADS | {"algorithms": ALGORITHMS}):
        return known[name]
    family, _, number = name.partition(":")
    if family not in FAMILIES or not number.isdecimal():
        names = ", ".join([*known, *(f"{f}:NUMBER" for f in FAMILIES)])
        raise ValueError(f"expected a workload among {names}, got {name!r}")
    return FAMILIES[family](int(number))
