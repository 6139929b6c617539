"""Recommendations as lists: how good a list is, and data of which only the likes are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .data import Examples, Federation, LocalData
from .model import Score, _one_number
from .randomness import stream

# How good a list is ------------------------------------------------------------------------------


@dataclass(frozen=True)
class ListScore(Score):
    """A `Score` of all test rows of a client together: they are a list to be put in order.

    of_examples: (outputs, y) -> (...,), both (..., rows); rows that only fill up are -infinity in
    both.
    """

    def __call__(self, output: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
        """The score of every client, (clients,)."""
        output = _one_number(output, y)
        if mask is not None:
            output, y = (v.masked_fill(~mask, -torch.inf) for v in (output, y.to(output)))
        return self.finish(self.of_examples(output, y))


def regret(k: int = 10) -> ListScore:
    """How much better the best k items would have been than the k with the largest outputs.

    Where y is how much a user likes an item: the mean of the k largest y, minus the mean y of the
    items recommended; 0 is perfect. Raises ValueError where a list is shorter than k.
    """

    def of_lists(output: Tensor, y: Tensor) -> Tensor:
        if int(y.isfinite().sum(-1).min()) < k:
            raise ValueError(
                f"expected lists of at least {k} items, but one has "
                f"{int(y.isfinite().sum(-1).min())}; write regret(k) with a smaller k"
            )
        chosen = y.gather(-1, output.topk(k, dim=-1).indices)
        return y.topk(k, dim=-1).values.mean(-1) - chosen.mean(-1)

    return ListScore(f"regret@{k}", of_lists, higher_is_better=False)


def places(scores: Tensor, right: Tensor) -> Tensor:
    """Where in each list the right item comes, from 1; among equals it comes last.

    scores: (..., items). right: (..., items), 1 at one item of each list and 0 elsewhere.
    """
    theirs = scores.gather(-1, right.argmax(-1, keepdim=True))
    return (scores >= theirs).sum(-1)


place = ListScore("place", lambda output, y: places(output, y).to(output), higher_is_better=False)


def hit_rate(places: Tensor, k: int = 10) -> Tensor:
    """HR@k: 1 where the right item is among the first k, else 0; shaped like `places`."""
    return (places <= k).double()


def ndcg(places: Tensor, k: int = 10) -> Tensor:
    """NDCG@k for one right item: 1 / log2(1 + place) where it is among the first k, else 0."""
    return hit_rate(places, k) / (1 + places.double()).log2()


# Likes only --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Implicit(Federation):
    """Who has chosen an item likes it (y = 1); of the others some are drawn as if disliked (y = 0).

    The training examples are the choices alone. In every round each client sees them with
    `negatives` times as many items that it did not choose; a client's draw depends on (seed, round,
    client), or where not `fresh`, on (seed, client).
    """

    unrated: tuple[np.ndarray, ...] = ()  # for every client, the items that it did not choose
    negatives: int = 4
    fresh: bool = True  # whether negatives are drawn anew in every round
    drawn: dict[tuple[int, int], Examples] = field(default_factory=dict, repr=False, compare=False)

    def local(
        self,
        clients: Tensor,
        batch_size: int | None,
        epochs: int,
        seed: int,
        round: int,
        steps: int | None = None,
    ) -> LocalData:
        """As of a Federation, with the negatives of this round."""
        key = (seed, round if self.fresh else 0)
        if key not in self.drawn:
            self.drawn.clear()
            self.drawn[key] = self.with_negatives(*key)
        return LocalData(self.drawn[key], clients, batch_size, epochs, steps, (seed, round))

    def with_negatives(self, seed: int, round: int) -> Examples:
        """Everybody's examples of one round: a client's choices, then its negatives."""
        likes, counts = self.train, self.negatives * self.train.sizes
        drawn = [
            items[stream("client noise", seed, round, k).integers(len(items), size=count)]
            for k, (items, count) in enumerate(zip(self.unrated, counts.tolist(), strict=True))
        ]
        x = torch.cat([likes.x, torch.from_numpy(np.concatenate(drawn))[:, None]])
        y = torch.cat([likes.y, likes.y.new_zeros(int(counts.sum()))])
        clients = torch.arange(len(likes))
        owner = torch.cat([clients.repeat_interleave(n) for n in (likes.sizes, counts)])
        order = owner.argsort(stable=True)
        return Examples(x[order], y[order], likes.sizes + counts)

    def select(self, clients: Sequence[int] | Tensor) -> Implicit:
        """Some of the clients, as a federation of their own."""
        unrated = tuple(self.unrated[int(k)] for k in clients)
        chosen: Any = super().select(clients)
        return replace(chosen, unrated=unrated, drawn={})

    def for_tuning(self, fraction: float = 0.25, seed: int = 0) -> Implicit:
        """One choice of each client, drawn at random, becomes the test, among as many other items
        as in the real test; the rest are its training examples. (`fraction` plays no part.)
        Raises ValueError where a client has made a single choice.
        """
        one: Any = super().for_tuning(0, seed)
        held_out, others = one.test.x[:, 0].tolist(), int(self.test.sizes[0]) - 1
        test = lists(held_out, self.unrated, others, seed + 1, self.train.y.dtype)
        return replace(one, test=test, drawn={})


def leave_one_out(
    federation: Federation,
    items: int,
    others: int = 99,
    negatives: int = 4,
    fresh: bool = True,
    seed: int = 0,
) -> Implicit:
    """The choices of a federation as likes; each client's single test item is to be found again.

    federation: x are item numbers below `items`, (rows, 1); its ratings y are forgotten. The test
    list of a client: its test item first, then `others` items that it has not rated, all different.
    Raises ValueError where a client has not exactly one test item, or too few unrated ones.
    """
    if not (federation.test.sizes == 1).all():
        raise ValueError(
            "expected one test item a client, but there are up to "
            f"{int(federation.test.sizes.max())}; write movielens(leave_one_out=True)"
        )
    train, test = federation.train, federation.test
    rated = np.zeros((len(federation), items), dtype=bool)
    for part in (train, test):
        rated[np.arange(len(federation)).repeat(part.sizes), part.x[:, 0]] = True
    unrated = tuple(np.flatnonzero(~row) for row in rated)
    likes = Examples(train.x, torch.ones_like(train.y), train.sizes)
    ranked = lists(test.x[:, 0].tolist(), unrated, others, seed, train.y.dtype)
    described = {n: getattr(federation, n) for n in ("name", "clients", "features", "about")}
    return Implicit(likes, ranked, unrated=unrated, negatives=negatives, fresh=fresh, **described)


def lists(
    right: Sequence[int],
    unrated: Sequence[np.ndarray],
    others: int,
    seed: int,
    dtype: torch.dtype,
) -> Examples:
    """A list for each client: the right item (y = 1), then `others` unrated ones (y = 0)."""
    parts = []
    y = torch.eye(1, others + 1, dtype=dtype)[0]
    for k, (item, items) in enumerate(zip(right, unrated, strict=True)):
        if len(items) < others:
            raise ValueError(
                f"expected at least {others} unrated items, but client {k} has {len(items)}; "
                "write a smaller `others`"
            )
        drawn = stream("data", seed, k).choice(items, others, replace=False)
        parts.append((torch.from_numpy(np.append(item, drawn))[:, None], y))
    return Examples.stack(parts)
