"""What a simulation leaves behind: curves, the states of servers and clients, a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .algorithms.base import FedAvg
from .model import Model, Score
from .states import State, leaves, tree


@dataclass(repr=False)
class History:
    """What a simulation returns. Every score is that of a client's model on its own test data.

    rounds, time: server steps done at each evaluation, and the simulated clock then (1 is the
        median client's time for a round).
    before, after: (clients,) per evaluation. `before`: the model as the client receives it;
        `after`: once the client has made it its own. Where nothing is personal they are the same.
    sent_up, sent_down: numbers sent so far by all clients and to all clients.
    held_out: clients that took no part in training; they joined for the evaluation only.
    groups: the final states of the servers and the clients, one `Group` per architecture.
    """

    algorithm: FedAvg
    score: Score
    clients: tuple[str, ...]
    held_out: tuple[int, ...]
    rounds: list[int] = field(default_factory=list)
    time: list[float] = field(default_factory=list)
    before: list[Tensor] = field(default_factory=list)
    after: list[Tensor] = field(default_factory=list)
    sent_up: list[int] = field(default_factory=list)
    sent_down: list[int] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)

    @property
    def trained(self) -> list[int]:
        """The clients that were there for training."""
        return [k for k in range(len(self.clients)) if k not in set(self.held_out)]

    @property
    def mean(self) -> Tensor:
        """Score of the average client after personalisation, (evaluations,)."""
        return torch.stack(self.after)[:, self.trained].mean(1)

    @property
    def mean_before(self) -> Tensor:
        """Score of the average client before personalisation, (evaluations,)."""
        return torch.stack(self.before)[:, self.trained].mean(1)

    @property
    def mean_held_out(self) -> Tensor:
        """Score of the average held-out client, (evaluations,); NaN where none was held out."""
        return torch.stack(self.after)[:, list(self.held_out)].mean(1)

    def worst(self, fraction: float = 0.1) -> Tensor:
        """Mean score of the worst-served clients, (evaluations,); of one client at least."""
        if not 0 < fraction <= 1:
            raise ValueError(f"expected a fraction in (0, 1], got {fraction}")
        scores = torch.stack(self.after)[:, self.trained]
        count = max(1, round(fraction * scores.shape[1]))
        return scores.sort(1, descending=not self.score.higher_is_better).values[:, :count].mean(1)

    def table(self) -> Any:
        """One line per evaluation, as a pandas DataFrame."""
        import pandas

        name = self.score.name
        columns = {
            "round": self.rounds,
            "time": self.time,
            f"{name} before": self.mean_before.tolist(),
            name: self.mean.tolist(),
            "worst tenth": self.worst().tolist(),
            "held out": self.mean_held_out.tolist(),
            "sent up": self.sent_up,
            "sent down": self.sent_down,
        }
        table = pandas.DataFrame(columns).set_index("round")
        return table if self.held_out else table.drop(columns="held out")

    def __repr__(self) -> str:
        last = self.table().iloc[[0, -1] if len(self.rounds) > 1 else [0]] if self.rounds else ""
        return f"{self.algorithm}\n{last}"

    def _repr_html_(self) -> str:
        return self.table().to_html(float_format="{:.3f}".format)


@dataclass
class Group:
    """The clients that share one architecture: what they keep, and what their server knows."""

    model: Model
    members: Tensor  # (members,) client numbers, ascending
    server: State
    kept: State  # what clients keep; row 0 belongs to all that have not trained yet
    place: Tensor  # (members,) in which row of `kept`
    past: list[State]  # what the server knew; past[-1 - s] is s server steps old

    @classmethod
    def start(cls, algorithm: FedAvg, model: Model, members: Sequence[int], seed: int) -> Group:
        """Before the first round."""
        server, client = algorithm.init(model, seed)
        rows = torch.as_tensor(sorted(members))
        kept = tree(lambda v: v[None], client)
        return cls(model, rows, server, kept, torch.zeros_like(rows), [server])

    def go_on(self, old: Group) -> Group:
        """The states of an earlier run, for this one. Raises ValueError where they do not fit."""
        shapes = [
            ([v.shape for v in leaves(g.server)], [v.shape[1:] for v in leaves(g.kept)])
            for g in (self, old)
        ]
        if shapes[0] != shapes[1] or not torch.equal(self.members, old.members):
            raise ValueError(
                "expected a run of the same algorithm, networks and clients to start from, but "
                f"its states have the shapes {shapes[1]} and not {shapes[0]}"
            )
        kept, place = tree(torch.clone, old.kept), old.place.clone()
        return replace(self, server=old.server, kept=kept, place=place, past=[old.server])

    @property
    def clients(self) -> State:
        """What all clients keep, every tensor (members, ...)."""
        return self.states(self.members)

    @property
    def seen(self) -> Tensor:
        """Who has trained, (members,) bool."""
        return self.place > 0

    def rows(self, clients: Tensor) -> Tensor:
        """Where among the members these clients are."""
        return torch.searchsorted(self.members, clients)

    def states(self, clients: Tensor) -> State:
        """What these clients keep, every tensor (clients, ...)."""
        if not leaves(self.kept):
            return self.kept
        place = self.place[self.rows(clients)]
        return tree(lambda v: v[place.to(v.device)], self.kept)

    def keep(self, clients: Tensor, states: State) -> None:
        """Store what these clients keep from now on."""
        if not leaves(states):
            return
        rows = self.rows(clients)
        new = rows[self.place[rows] == 0]
        first = int(self.place.max()) + 1
        self.place[new] = torch.arange(first, first + len(new))
        place = self.place[rows]

        def store(v: Tensor, rows: Tensor) -> Tensor:
            more = v.new_empty(first + len(new) - len(v), *v.shape[1:])
            v = torch.cat([v, more]) if len(more) else v
            return v.index_copy_(0, place.to(v.device), rows)

        self.kept = tree(store, self.kept, states)

    def messages(self, algorithm: FedAvg, clients: Tensor, staleness: Tensor) -> State:
        """What these clients were sent, so many server steps ago: every tensor (clients, ...)."""
        if not staleness.any():
            return algorithm.address(self.model, self.server, clients)
        each = zip(clients, staleness.tolist(), strict=True)
        rows = [algorithm.address(self.model, self.past[-1 - s], k[None]) for k, s in each]
        return tree(lambda *parts: torch.cat(parts), *rows)


def save(path: str | os.PathLike, settings: str, history: History, counts: tuple) -> None:
    """Write beside the file first: a run killed while saving loses nothing."""
    kept = [(g.server, g.kept, g.place, g.past) for g in history.groups]
    curves = {name: getattr(history, name) for name in _CURVES}
    beside = Path(f"{os.fspath(path)}.new")
    torch.save({"settings": settings, "counts": counts, "groups": kept, "curves": curves}, beside)
    beside.replace(path)


def load(path: str | os.PathLike, settings: str, history: History) -> tuple[int, int, int]:
    """Put a saved run back into `history` -> rounds done, numbers sent up and down."""
    saved = torch.load(path, weights_only=True)
    if saved["settings"] != settings:
        raise ValueError(
            f"{os.fspath(path)} is a checkpoint of another run; expected {settings}, "
            f"found {saved['settings']}; give this run a file of its own, or delete that one"
        )
    for group, kept in zip(history.groups, saved["groups"], strict=True):
        group.server, group.kept, group.place, group.past = kept
    for name in _CURVES:
        setattr(history, name, saved["curves"][name])
    return saved["counts"]


_CURVES = ("rounds", "time", "before", "after", "sent_up", "sent_down")
