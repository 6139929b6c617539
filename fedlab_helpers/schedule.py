"""Who trains when. A schedule yields, for every server step, the clients whose uploads arrive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .hyperparameters import Checked
from .randomness import stream


class Arrivals(NamedTuple):
    """The uploads that the server aggregates together."""

    clients: Tensor  # (cohort,) client numbers, all different
    staleness: Tensor  # (cohort,) server steps since each received its copy
    time: float  # on the simulated clock; 1 is the median client's time for a round
    keep: int  # how many of the server's last broadcasts clients may still come back with


@dataclass(frozen=True)
class Synchronous(Checked):
    """Every round a random share of the clients trains, and the server waits for the slowest.

    fraction: the share, in (0, 1]; at least one client. spread: how different the clients' paces
        are, the sigma of a log-normal distribution with median 1.
    """

    fraction: float = 1.0
    spread: float = 0.0

    def arrivals(self, clients: int, seed: int) -> Iterator[Arrivals]:
        """Without end: who trains in round 1, 2, ..."""
        rng, now = stream("cohorts", seed), 0.0
        pace = stream("paces", seed).lognormal(0, self.spread, clients)
        size, everyone = max(1, round(self.fraction * clients)), np.arange(clients)
        while True:
            few = size < clients
            cohort = np.sort(rng.choice(clients, size, replace=False)) if few else everyone.copy()
            now += pace[cohort].max()
            fresh = torch.zeros(size, dtype=torch.long)
            yield Arrivals(torch.from_numpy(cohort), fresh, now, keep=1)


@dataclass(frozen=True)
class Buffered(Checked):
    """`concurrency` clients train at any time, each at its own pace; the server steps after every
    `buffer` uploads. Nguyen et al., AISTATS 2022. arXiv:2106.06639
    """

    buffer: int = 10
    concurrency: int = 30
    spread: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.buffer > self.concurrency:
            raise ValueError(
                "expected buffer <= concurrency, or the buffer never fills, but they are "
                f"{self.buffer} and {self.concurrency}"
            )

    def arrivals(self, clients: int, seed: int) -> Iterator[Arrivals]:
        """Without end: who arrives for server step 1, 2, ..."""
        if not self.buffer <= self.concurrency <= clients:
            raise ValueError(
                "expected buffer <= concurrency <= number of clients, but they are "
                f"{self.buffer}, {self.concurrency} and {clients}"
            )
        rng = stream("cohorts", seed)
        pace = stream("paces", seed).lognormal(0, self.spread, clients)
        idle = list(range(clients))
        training: list[tuple[float, int, int]] = []  # (finish, client, server step at the start)
        now, version = 0.0, 0
        while True:
            arrived: list[tuple[int, int]] = []
            while len(arrived) < self.buffer:
                while len(training) < self.concurrency and idle:
                    client = idle.pop(rng.integers(len(idle)))
                    heappush(training, (now + pace[client], client, version))
                now, client, start = heappop(training)
                arrived.append((client, version - start))
            version += 1
            oldest = min((start for _, _, start in training), default=version)
            who, staleness = torch.tensor(arrived).T
            yield Arrivals(who, staleness, now, keep=version - oldest + 1)
            idle += [client for client, _ in arrived]  # used up; these may train again


Schedule = Synchronous | Buffered
