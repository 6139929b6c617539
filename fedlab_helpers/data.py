"""The data of a federation: every client's examples, client after client in one table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .plan import Layout, Plan
from .randomness import stream, torch_stream

TWICE = 200_000_000  # bytes of examples that may be held twice, for speed
GATHER = 4_000_000  # bytes of examples that are brought together at once: what caches hold


class Batch(NamedTuple):
    """Some examples of every client. Where clients have fewer rows than the batch, `mask` tells."""

    x: Tensor  # (clients, rows, *features)
    y: Tensor  # (clients, rows)
    mask: Tensor | None = None  # (clients, rows), False where a row only fills up; None: all real

    def halves(self) -> tuple[Batch, Batch]:
        """Every other example: (support, query); a single example is both."""
        if self.y.shape[1] == 1:
            return self, self
        masks: tuple[Tensor | None, Tensor | None] = (None, None)
        if self.mask is not None:
            single = self.mask.sum(1, keepdim=True) == 1  # filled up with copies of itself
            masks = self.mask[:, 0::2], self.mask[:, 1::2] | single
        support = Batch(self.x[:, 0::2], self.y[:, 0::2], masks[0])
        return support, Batch(self.x[:, 1::2], self.y[:, 1::2], masks[1])


class Examples:
    """The examples of all clients: a table, and how many rows of it each client has.

    x: (rows, *features). y: (rows,), integers for classes, floats for regression.
    sizes: (clients,), rows per client, in order.
    Raises ValueError where the table and the sizes disagree, where a client is empty, and where a
    number is NaN or infinite (which client, which column).
    """

    def __init__(self, x: Tensor, y: Tensor, sizes: Sequence[int] | Tensor):
        self.x, self.y = x, y
        self.sizes = torch.as_tensor(sizes, dtype=torch.long).cpu()
        self.ends = self.sizes.cumsum(0)
        self.starts = self.ends - self.sizes
        self.most = int(self.sizes.max()) if len(self.sizes) else 0
        if not len(x) == len(y) == int(self.sizes.sum()):
            raise ValueError(
                f"expected one row of x and y for every example, but x has {len(x)} rows, "
                f"y has {len(y)}, and the sizes add up to {int(self.sizes.sum())}"
            )
        empty = (self.sizes < 1).nonzero().flatten().tolist()
        if empty or not len(self.sizes):
            raise ValueError(
                "every client needs at least one example, but "
                + (f"clients {_some(empty)} have none" if empty else "there are no clients")
                + "; leave such clients out, or merge them with others"
            )
        for name, values in (("x", x), ("y", y)):
            if values.is_floating_point() and not values.isfinite().all():
                row, *column = (~values.isfinite()).nonzero()[0].tolist()
                k = int(torch.searchsorted(self.ends, row, right=True))
                where = f", column {tuple(column)}" if column else ""
                raise ValueError(
                    f"expected finite numbers, but {name} holds {values[(row, *column)]:g} in row "
                    f"{row - int(self.starts[k])} of client {k}{where}; "
                    "fill missing values in, or drop those rows"
                )

    @classmethod
    def stack(cls, clients: Sequence[tuple[Tensor, Tensor]]) -> Examples:
        """From one (x, y) per client."""
        if not clients:
            return cls(torch.empty(0), torch.empty(0), [])  # says what is wrong
        x, y = zip(*clients, strict=True)
        return cls(torch.cat(x), torch.cat(y), [len(v) for v in y])

    @classmethod
    def join(cls, parts: Sequence[Examples]) -> Examples:
        """Those of several federations, one after the other."""
        x, y, sizes = zip(*[(part.x, part.y, part.sizes) for part in parts], strict=True)
        return cls(torch.cat(x), torch.cat(y), torch.cat(sizes))

    def shares(self, other: Examples) -> bool:
        """Whether these are the same examples of the same clients, held once."""
        return self.x is other.x and self.y is other.y and torch.equal(self.sizes, other.sizes)

    def __len__(self) -> int:
        """Number of clients."""
        return len(self.sizes)

    def __getitem__(self, k: int) -> tuple[Tensor, Tensor]:
        """The examples of client k: x (rows, *features), y (rows,)."""
        if not -len(self) <= k < len(self):
            raise IndexError(f"there are clients 0 to {len(self) - 1}, but not {k}")
        rows = slice(int(self.starts[k]), int(self.ends[k]))
        return self.x[rows], self.y[rows]

    def batch(self, clients: Tensor | None = None) -> Batch:
        """All examples of some clients (by default of every client), padded to the longest."""
        clients = torch.arange(len(self)) if clients is None else clients
        sizes, row = self.sizes[clients, None], torch.arange(int(self.sizes[clients].max()))
        rows = (self.starts[clients, None] + row % sizes).to(self.x.device)
        full = bool((sizes == len(row)).all())
        mask = None if full else (row < sizes).to(self.x.device)
        return Batch(self.x[rows], self.y[rows], mask)

    def take(self, rows: Tensor, sizes: Sequence[int] | Tensor) -> Examples:
        """Another federation's table, cut from this one by row numbers."""
        return Examples(self.x[rows], self.y[rows], sizes)

    def select(self, clients: Sequence[int] | Tensor) -> Examples:
        """The examples of some clients."""
        return Examples.stack([self[int(k)] for k in clients])

    @cached_property
    def renumbered(self) -> tuple[Tensor, Examples]:
        """For x that number something, such as items: which of these each client has, (clients,
        most), filled up by starting over, and the same examples with x as places in that row.
        """
        x, most = self.x.long(), int(self.x.max()) + 1
        owner = torch.arange(len(self), device=x.device).repeat_interleave(self.sizes.to(x.device))
        owner = owner.view(-1, *[1] * (x.ndim - 1))
        found, place = (owner * most + x).unique(return_inverse=True)
        counts = (found // most).bincount(minlength=len(self))
        starts = counts.cumsum(0) - counts
        column = torch.arange(int(counts.max()), device=x.device)
        rows = found[starts[:, None] + column % counts[:, None]] % most
        return rows, self._replace(place - starts[owner], self.y)

    @cached_property
    def with_one(self) -> Tensor:
        """x as `with_one` makes it; x itself where one does not want to hold a table of that size
        twice.
        """
        small = self.x.numel() * self.x.element_size() < TWICE
        return with_one(self.x) if small else self.x

    def to(self, device: str | torch.device) -> Examples:
        """The same examples on another device."""
        return self._replace(self.x.to(device), self.y.to(device))

    def astype(self, dtype: torch.dtype) -> Examples:
        """The same examples with floating-point numbers of another precision."""
        return self._replace(
            *(v.to(dtype) if v.is_floating_point() else v for v in (self.x, self.y))
        )

    def _replace(self, x: Tensor, y: Tensor) -> Examples:
        return Examples(x, y, self.sizes)


@dataclass(frozen=True)
class Federation:
    """The training and the test examples of all clients, and where they come from.

    Raises ValueError where training and test data have different clients.
    """

    train: Examples
    test: Examples
    name: str = "federation"
    clients: tuple[str, ...] = ()  # what to call them; by default their numbers
    features: tuple[str, ...] = ()  # names of the columns of x
    classes: tuple[str, ...] = ()  # names of the labels; empty for regression
    about: str = ""  # source, licence, citation, and how the data were standardised

    def __post_init__(self) -> None:
        if len(self.train) != len(self.test):
            raise ValueError(
                "expected the same clients in training and test, but "
                f"{len(self.train)} train and {len(self.test)} test"
            )
        if not self.clients:
            object.__setattr__(self, "clients", tuple(str(k) for k in range(len(self.train))))
        if len(self.clients) != len(self.train):
            raise ValueError(f"expected {len(self.train)} client names, got {len(self.clients)}")
        for part in (self.train, self.test) if self.classes else ():
            wrong = part.y[(part.y < 0) | (part.y >= len(self.classes))]
            if len(wrong):
                raise ValueError(
                    f"expected labels 0 to {len(self.classes) - 1} for the {len(self.classes)} "
                    f"classes {_some(self.classes)}, but there is a label {int(wrong[0])}"
                )

    def __len__(self) -> int:
        """Number of clients."""
        return len(self.train)

    def __repr__(self) -> str:
        sizes = self.train.sizes
        kind = f"{len(self.classes)} classes" if self.classes else "regression"
        return (
            f"{self.name}: {len(self)} clients with {int(sizes.min())} to {int(sizes.max())} "
            f"training examples\n{int(sizes.sum())} training and {int(self.test.sizes.sum())} test "
            f"examples, features {tuple(self.train.x.shape[1:])}, {kind}"
        )

    @property
    def sizes(self) -> Tensor:
        """Number of training examples n_k of every client, (clients,)."""
        return self.train.sizes

    def label_counts(self) -> Tensor:
        """How many training examples of every class each client has, (clients, classes)."""
        owner = torch.arange(len(self)).repeat_interleave(self.sizes)
        counts = torch.zeros(len(self), len(self.classes), dtype=torch.long)
        ones = torch.ones_like(owner)
        return counts.index_put_((owner, self.train.y.cpu().long()), ones, accumulate=True)

    def local(
        self,
        clients: Tensor,
        batch_size: int | None,
        epochs: int,
        seed: int,
        round: int,
        steps: int | None = None,
    ) -> LocalData:
        """What some clients train on in one round: `epochs` passes over their own examples in
        mini-batches, or exactly `steps` mini-batches. batch_size None: all examples at once.

        A client's mini-batches depend on (seed, round, client) alone.
        """
        return LocalData(self.train, clients, batch_size, epochs, steps, (seed, round))

    def select(self, clients: Sequence[int] | Tensor) -> Federation:
        """Some of the clients, as a federation of their own."""
        numbers = [int(k) for k in clients]
        names = tuple(self.clients[k] for k in numbers)
        train, test = self.train.select(numbers), self.test.select(numbers)
        return replace(self, train=train, test=test, clients=names)

    def pool(self) -> Federation:
        """All data in one place: a federation with a single client that owns every example."""
        train, test = (Examples(e.x, e.y, [len(e.y)]) for e in (self.train, self.test))
        return replace(self, train=train, test=test, clients=("everyone",))

    def for_tuning(self, fraction: float = 0.25, seed: int = 0) -> Federation:
        """The training examples alone, cut once more: `fraction` of each client's rows (at least
        one) become the test. Choose hyper-parameters here; the real test rows stay unseen.
        """
        if int(self.sizes.min()) < 2:
            raise ValueError(
                "expected at least two training examples a client, to hold one out for tuning, "
                f"but client {int(self.sizes.argmin())} has one; select the larger clients first"
            )
        parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for k, (start, size) in enumerate(zip(self.train.starts, self.sizes, strict=True)):
            rows = int(start) + stream("partition", seed, k).permutation(int(size))
            cut = min(max(1, round(fraction * int(size))), int(size) - 1)
            parts[0].append(rows[cut:])
            parts[1].append(rows[:cut])
        train, test = (
            self.train.take(torch.from_numpy(np.concatenate(p)), [len(rows) for rows in p])
            for p in parts
        )
        return replace(self, train=train, test=test, name=f"{self.name}, for tuning")

    def to(self, device: str | torch.device) -> Federation:
        """The same federation on another device."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))

    def astype(self, dtype: torch.dtype) -> Federation:
        """The same federation with floating-point numbers of another precision."""
        return replace(self, train=self.train.astype(dtype), test=self.test.astype(dtype))


@dataclass(frozen=True)
class LocalData:
    """What some clients train on in one round: their examples, and in which order they visit them.

    `first` and `last` are the epochs that `batches` runs through.
    """

    examples: Examples
    clients: Tensor  # (clients,) their numbers; those with more mini-batches first
    batch_size: int | None
    epochs: int
    steps: int | None
    key: tuple[int | Tensor, int | Tensor]  # (seed, round); of all, or each client's (clients,)
    where: Tensor | None = None  # (clients,) places among the examples; by default the numbers
    first: int = 0
    last: int | None = None
    draw: Callable[[], Plan] | None = None  # the mini-batches, along with those of other clients
    parts: dict[tuple[int, ...], list[LocalData]] = field(
        default_factory=dict, init=False, repr=False
    )

    def __len__(self) -> int:
        """Number of clients."""
        return len(self.clients)

    @property
    def places(self) -> Tensor:
        """Where among the examples each client is, (clients,)."""
        return self.clients if self.where is None else self.where

    def take(self, some: Tensor | slice, draw: Callable[[], Plan] | None = None) -> LocalData:
        """The same for some of these clients."""
        seed, round = (v[some] if isinstance(v, Tensor) else v for v in self.key)
        where = None if self.where is None else self.where[some]
        taken = LocalData(
            self.examples, self.clients[some], self.batch_size, self.epochs, self.steps,
            (seed, round), where, self.first, self.last, draw,
        )  # fmt: skip
        taken.__dict__.update(sizes=self.sizes[some], counts=self.counts[some])  # need no look-up
        return taken

    @cached_property
    def all(self) -> Batch:
        """All training examples of every client at once."""
        return self.examples.batch(self.places)

    def renumbered(self) -> tuple[Tensor, LocalData]:
        """For x that number something: which of these each client has, (clients, most), and the
        same data with x as places in that row.
        """
        rows, examples = self.examples.renumbered
        return rows[self.places.to(rows.device)], replace(self, examples=examples)

    @cached_property
    def sizes(self) -> Tensor:
        """n_k, (clients,)."""
        return self.examples.sizes[self.places]

    @cached_property
    def counts(self) -> Tensor:
        """Number of mini-batches of every client, (clients,)."""
        if self.steps is not None:
            return torch.full_like(self.sizes, self.steps)
        epochs = (self.epochs if self.last is None else self.last) - self.first
        return -(-self.sizes // self.width) * epochs

    def normal(self, w: Tensor) -> Tensor:
        """Standard normal noise, shaped like w (clients at work, ...): new at each call, and each
        client's own, whoever else takes part.
        """
        drawn = [torch.randn(w.shape[1:], generator=g, dtype=torch.float64) for g in self._noise]
        return torch.stack(drawn)[: len(w)].to(w)

    @cached_property
    def _noise(self) -> list[torch.Generator]:
        seeds, rounds = (torch.as_tensor(v).expand(len(self)).tolist() for v in self.key)
        each = zip(seeds, rounds, self.clients.tolist(), strict=True)
        return [torch_stream("client noise", *key) for key in each]

    def during(self, first: int, last: int) -> LocalData:
        """Only the epochs first, ..., last - 1 of the round.

        Raises ValueError where local work is counted in steps instead of epochs.
        """
        if self.steps is not None:
            raise ValueError(
                "expected local work in epochs, but it was given as "
                f"steps={self.steps}; write steps=None and epochs={last} or more"
            )
        return replace(self, first=first, last=last, draw=None)

    def batches(self) -> Iterator[Batch]:
        """The mini-batches, step by step, of the clients that still have one.

        Clients come with the larger numbers of mini-batches first, so those that are still at work
        are always the first rows. A mini-batch that is short is filled up by starting it over
        (with the mask False): not with zeros, which would spoil BatchNorm. A full batch comes in
        its own order: there is nothing to shuffle.
        """
        if self.batch_size is None:
            yield from [self.all] * int(self.counts.max())
            return
        plan, table, labels = self.plan, self.examples.x, self.examples.y
        width, row = plan.rows.shape[1], table.shape[1:]
        most = GATHER // max(1, row.numel() * table.element_size() * width)
        for steps, here in plan.chunks(most) if plan.active else ():
            rows, active = plan.rows[here].flatten(), plan.active[steps]
            x, y = (v.index_select(0, rows).view(-1, width, *v.shape[1:]) for v in (table, labels))
            masks = plan.mask[here].split(active)
            parts = zip(x.split(active), y.split(active), masks, plan.full[steps], strict=True)
            yield from (Batch(x, y, None if full else mask) for x, y, mask, full in parts)

    @cached_property
    def width(self) -> int:
        """Examples in a mini-batch."""
        return min(self.batch_size or int(self.sizes.max()), self.examples.most)

    @cached_property
    def plan(self) -> Plan:
        """Which rows of the table each client visits in each of its mini-batches."""
        return self.draw() if self.draw else self._plans((len(self),))[0]

    def plans(self, lengths: tuple[int, ...]) -> Iterator[Plan]:
        """One for the first so many clients, one for the next so many, ... Each is drawn when its
        turn comes.
        """
        if len(lengths) == 1:
            yield self.plan
            return
        if lengths not in self.parts:
            self.parts[lengths] = [self.take(some) for some in _slices(lengths)]
        for part in self.parts[lengths]:
            yield part.plan

    def drawn_together(self, lengths: tuple[int, ...]) -> list[LocalData]:
        """The same for the first so many clients, for the next so many, ... As soon as the plan of
        one part is asked for, those of all are drawn.
        """
        plans = cache(partial(self._plans, lengths))

        def plan(i: int) -> Plan:
            return plans()[i]

        return [self.take(some, partial(plan, i)) for i, some in enumerate(_slices(lengths))]

    def _plans(self, lengths: tuple[int, ...]) -> list[Plan]:
        layout = Layout.of(self.sizes, self.counts, lengths, self.first, self.width)
        plans = layout.plans(self.examples.starts[self.places], self.clients, *self.key)
        return [plan.to(self.examples.x.device) for plan in plans]


def _slices(lengths: Sequence[int]) -> list[slice]:
    """The first so many, the next so many, ..."""
    return [slice(end - n, end) for n, end in zip(lengths, accumulate(lengths), strict=True)]


def with_one(x: Tensor) -> Tensor:
    """x (..., features) with a 1 behind, as the input whose weight is the bias, and zeros."""
    features = x.shape[-1]
    wider = x.new_zeros(*x.shape[:-1], columns_with_one(features))
    wider[..., :features] = x
    wider[..., features] = 1
    return wider


def columns_with_one(features: int) -> int:
    """How many there are then: a multiple of 8, as processors like it."""
    return (features // 8 + 1) * 8


def _some(items: Sequence, most: int = 5) -> str:
    """The first few, for a message."""
    return ", ".join(str(i) for i in items[:most]) + (", ..." if len(items) > most else "")
