"""What a federated algorithm is: a few short pure functions. FedAvg is the plainest one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..data import LocalData
from ..hyperparameters import Checked
from ..model import Model
from ..optimisers import SGD, Optimiser
from ..states import State, leaves, tree
from ..train import train


class Cohort(NamedTuple):
    """The clients whose uploads the server aggregates together; one entry each."""

    clients: Tensor  # (cohort,) client numbers
    sizes: Tensor  # (cohort,) numbers of training examples n_k
    staleness: Tensor  # (cohort,) server steps since the client received its copy
    population: int  # how many clients take part in training, in this cohort or another
    draws: Callable[[], torch.Generator]  # -> the same one each time; most servers need none

    @property
    def generator(self) -> torch.Generator:
        """For randomness at the server."""
        return self.draws()

    @property
    def weights(self) -> Tensor:
        """n_k / sum of n_k, (cohort,)."""
        return self.sizes.double() / self.sizes.sum()


def average(uploads: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum over clients: (cohort, ...), (cohort,) -> (...)."""
    return torch.tensordot(weights.to(uploads), uploads, dims=1)


@dataclass(frozen=True)
class FedAvg(Checked):
    """Federated averaging: clients train copies of the server's model, the server averages them.

    McMahan, Moore, Ramage, Hampson and Arcas, AISTATS 2017, Algorithm 1. arXiv:1602.05629

    Every other algorithm subclasses this one and changes what differs. `server` is what the server
    knows, `client` what a client keeps; each is a tensor or a tuple of tensors. In the methods that
    clients run, every tensor has one row per client - `server` is then the broadcast, the same in
    each row unless clients hold copies of different age - and no row depends on another.

    epochs: passes over the local data in a round; or `steps`, the number of mini-batches.
    batch_size: examples in a mini-batch; None for all at once.
    """

    optimiser: Optimiser = SGD(lr=0.1)
    epochs: int = 1
    batch_size: int | None = 20
    steps: int | None = None

    label: ClassVar[str] = ""  # what tables and legends call it; by default the class's name
    pooled: ClassVar[bool] = False  # whether it trains on everybody's examples in one place

    @property
    def name(self) -> str:
        """What tables and legends call it."""
        return self.label or type(self).__name__

    def init(self, model: Model, seed: int) -> tuple[State, State]:
        """Before the first round -> server, client (of any one client)."""
        return model.init(seed), ()

    def broadcast(self, model: Model, server: State) -> State:
        """What the server sends to the clients of a round. By default, all it knows."""
        return server

    def address(self, model: Model, server: State, clients: Tensor) -> State:
        """What the server sends to each of these clients, one row each. By default, the broadcast.

        clients: (clients,) their numbers.
        """
        return tree(lambda v: v.expand(len(clients), *v.shape), self.broadcast(model, server))

    def client_update(
        self, model: Model, server: State, client: State, data: LocalData
    ) -> tuple[State, State]:
        """The clients' work in a round -> upload, client. Only the upload leaves the client."""
        return train(model, server, data, self.optimiser), client

    def sent(self, model: Model, upload: State) -> int:
        """How many numbers the uploads of some clients are. By default, all that are in them."""
        return sum(v.numel() for v in leaves(upload))

    def aggregate(self, model: Model, server: State, uploads: State, cohort: Cohort) -> State:
        """The server's work in a round -> server. Uploads are stacked: (cohort, ...)."""
        return average(uploads, cohort.weights)

    def exchange(
        self, models: list[Model], servers: list[State], uploads: list[State]
    ) -> list[State]:
        """What crosses the border between architectures -> servers. By default, nothing."""
        return servers

    def receive(self, model: Model, server: State, client: State) -> State:
        """The model a client holds before it does anything for itself -> w (clients, d)."""
        return server

    def personalise(self, model: Model, server: State, client: State, data: LocalData) -> State:
        """The model a client predicts with -> w (clients, d)."""
        return self.receive(model, server, client)

    def predict(self, model: Model, w: State, x: Tensor) -> Tensor:
        """What `receive` and `personalise` give, at work: x (clients, rows, *features) -> outputs.

        By default the network's output, (clients, rows, ...).
        """
        return model(w, x)

    def welcome(self, model: Model, server: State, client: State, data: LocalData) -> State:
        """What a client keeps that took no part in training and arrives now -> client."""
        return client

    def finish(self, model: Model, server: State, client: State, data: LocalData) -> State:
        """What a client keeps when training on these data is over -> client. By default, all."""
        return client


def need_plain_sgd(algorithm: FedAvg) -> None:
    """Raises ValueError where the paper's formula knows no other optimiser."""
    o = algorithm.optimiser
    if not isinstance(o, SGD) or not o.plain:
        raise ValueError(
            f"{type(algorithm).__name__} expects the optimiser SGD without momentum and weight "
            f"decay, got {o}"
        )


def need_no_batch_norm(algorithm: FedAvg, model: Model) -> None:
    """Raises ValueError where examples that are looked at one by one would depend on others."""
    if model.tracks:
        raise ValueError(
            f"{type(algorithm).__name__} expects a network without BatchNorm, which mixes the "
            "examples of a mini-batch; use nn.GroupNorm"
        )


@dataclass(frozen=True)
class Personal(FedAvg):
    """An algorithm in which clients keep something of their own.

    tuning: how many rounds' worth of local work, of which nothing is sent, a client does before it
        uses a model that is new to it.
    """

    tuning: int = 5

    def welcome(self, model: Model, server: State, client: State, data: LocalData) -> State:
        """A newcomer works for itself, against the broadcast as it is now."""
        for _ in range(self.tuning):
            _, client = self.client_update(model, server, client, data)
        return client
