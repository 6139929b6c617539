"""Local training: the one loop over mini-batches that every algorithm uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter

import torch
from torch import Tensor

from .data import Batch, LocalData
from .model import Model
from .optimisers import SGD, Optimiser
from .states import tree

Direction = Callable[..., Tensor]  # (w, batch, *anchors) -> what to descend, shaped like w


def train(
    model: Model,
    w: Tensor,
    data: LocalData,
    optimiser: Optimiser,
    direction: Direction | None = None,
    *anchors: Tensor,
    only: Tensor | None = None,
) -> Tensor:
    """One optimiser step per mini-batch, for all clients at once: w (clients, d) -> (clients, d).
    Where clients train several networks together, w is (clients, d + d + ...).

    direction: what to descend; by default the gradient of the model's loss. It is called with the
        rows of w, and of the `anchors` (clients, ...), of those clients that still have a batch.
    only: the coordinates that may move, (d,) bool; by default all.
    """
    plain = isinstance(optimiser, SGD) and optimiser.plain
    if plain and model.formula and (direction is None or isinstance(direction, Proximal)):
        pull, anchor = (direction.strength, anchors[0]) if direction else (0.0, None)
        sooner = model.formula.descend(w, data, optimiser.lr, pull, anchor, only)
        if sooner is not None:
            return sooner
    direction = direction or model.gradient
    state, done = optimiser.init(w), []
    for batch in data.batches():
        count = batch.x.shape[0]
        if count < w.shape[0]:  # the clients in the last rows have had all their mini-batches
            at_work = slice(count)
            done.append(w[count:])
            w, anchors = w[at_work], tuple(v[at_work] for v in anchors)
            state = tree(itemgetter(at_work), state)
        new, state = optimiser.step(w, direction(w, batch, *anchors), state)
        if model.tracks:
            networks = w.split(model.d, dim=-1)
            tracked = torch.cat([model.track(v, batch) for v in networks], dim=-1)
            new = torch.where(model.statistics.repeat(len(networks)), tracked, new)
        w = new if only is None else torch.where(only, new, w)
    return torch.cat([w, *reversed(done)]) if done else w


@dataclass(frozen=True)
class Proximal:
    """The gradient of f_k(w) + strength/2 |w - anchor|^2: train, but stay near an anchor.

    strength: a number, or one for every coordinate, (d,).
    """

    model: Model
    strength: float | Tensor

    def __call__(self, w: Tensor, batch: Batch, anchor: Tensor) -> Tensor:
        return self.model.gradient(w, batch) + self.strength * (w - anchor)
