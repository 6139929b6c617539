"""Which rows clients visit in which mini-batch: drawn for all of them at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from .randomness import Shuffles, count_up

STEP = 150_000  # what a step costs apart from its products, in multiply-adds of these


@dataclass(frozen=True)
class Plan:
    """Mini-batches, step after step: in each those of the clients still at work, the first ones."""

    rows: Tensor  # (mini-batches, width), of the table
    mask: Tensor  # like rows, False where a row only fills up
    active: list[int]  # (steps,), clients at work
    full: list[bool]  # (steps,), whether no row only fills up

    def to(self, device: torch.device) -> Plan:
        """The same on another device."""
        if self.rows.device == device:
            return self
        return Plan(self.rows.to(device), self.mask.to(device), self.active, self.full)

    def chunks(self, most: int) -> Iterator[tuple[slice, slice]]:
        """Consecutive steps, and their mini-batches, that are at most so many; or single steps."""
        first, begin, total = 0, 0, 0
        for step, count in enumerate(self.active):
            if total and total + count > most:
                yield slice(first, step), slice(begin, begin + total)
                first, begin, total = step, begin + total, 0
            total += count
        yield slice(first, len(self.active)), slice(begin, begin + total)


@dataclass(frozen=True)
class Layout:
    """What of the plans of some cohorts depends on how many rows and steps clients have, and not on
    chance.
    """

    shuffles: Shuffles
    client: np.ndarray  # (mini-batches,), whose they are
    places: np.ndarray  # (mini-batches, width), among the shuffled rows of all clients
    fixed: list[tuple[Tensor, list[int], list[bool]]]  # of every plan, all but its rows

    @classmethod
    def of(
        cls, sizes: Tensor, counts: Tensor, cohorts: tuple[int, ...], first: int, width: int
    ) -> Layout:
        """sizes, counts: (clients,), rows and mini-batches of each. cohorts: how many clients each
        has, in order. first: the epoch they begin with. width: rows of a mini-batch.
        """
        return layout_of(sizes.numpy().tobytes(), counts.numpy().tobytes(), cohorts, first, width)

    def plans(self, starts: Tensor, clients: Tensor, *key: int | Tensor) -> Iterator[Plan]:
        """One for every cohort. starts: (clients,), each one's first row of the table. clients,
        key: as in `Shuffles`.
        """
        drawn = self.shuffles(clients.numpy(), *map(np.asarray, key))[self.places]
        drawn += starts.numpy()[self.client, None]
        rows = torch.from_numpy(drawn).split([len(mask) for mask, *_ in self.fixed])
        return (Plan(some, *fixed) for some, fixed in zip(rows, self.fixed, strict=True))


@lru_cache(maxsize=32)
def layout_of(
    sizes_: bytes, counts_: bytes, cohorts: tuple[int, ...], first: int, width: int
) -> Layout:
    """As `Layout.of`, of arrays as bytes; the last ones are kept."""
    sizes, counts = (np.frombuffer(v, np.int64) for v in (sizes_, counts_))
    lengths = np.array(cohorts)
    begin_of = lengths.cumsum() - lengths  # of every cohort among the clients
    base = np.arange(len(lengths)) * (counts.max() + 1)
    done = np.repeat(base, lengths) - counts
    if (np.diff(done) < 0).any():
        raise ValueError("expected the clients with more mini-batches first")
    per_epoch = -(-sizes // width)
    epochs = first - (-counts // per_epoch)  # begun, also those before the first
    begins = np.cumsum(sizes * epochs) - sizes * epochs  # of every client among the shuffled rows
    steps = counts[begin_of]  # of every cohort; from here on, arrays of all its steps, then of ...
    step, cohort = count_up(steps), np.repeat(np.arange(len(lengths)), steps)
    active = np.searchsorted(done, base[cohort] - step) - begin_of[cohort]
    client = np.repeat(begin_of[cohort], active) + count_up(active)  # ... all its mini-batches
    epoch, number = np.divmod(np.repeat(step, active), per_epoch[client])
    begin = begins[client] + (first + epoch) * sizes[client] + number * width
    real = np.minimum(width, sizes[client] - number * width)
    column = np.arange(width)
    places = begin[:, None] + column
    short = real < width
    places[short] = begin[short, None] + column % real[short, None]
    ends = active.cumsum()
    full = ~np.logical_or.reduceat(short, ends - active) if len(active) else active
    batches = np.add.reduceat(counts, begin_of).tolist()
    masks = torch.from_numpy(column < real[:, None]).split(batches)
    of_steps = [iter(v.tolist()) for v in (active, full)]
    fixed = [
        (mask, *([*islice(values, n)] for values in of_steps))
        for mask, n in zip(masks, steps, strict=True)
    ]
    return Layout(Shuffles(sizes, epochs), client, places, fixed)


def share_out(steps: np.ndarray, width: int, threads: int, step: float = STEP) -> list[int]:
    """Cut clients into at most so many parts that take about the same time -> their lengths.

    steps: (clients,), of each, the largest first. width: multiply-adds of one step of one client.
    A part costs `step` for each of its longest client's steps, and 8 of these to begin, so a cohort
    with little to compute stays whole.
    """
    return [*_share_out(steps.astype(np.int64).tobytes(), width, threads, step)]  # not the kept one


@lru_cache(maxsize=64)
def _share_out(steps_: bytes, width: int, threads: int, step: float) -> list[int]:
    steps = np.frombuffer(steps_, np.int64)
    if threads < 2 or len(steps) < 2:
        return [len(steps)]
    work = width * np.cumsum(steps, dtype=float)
    first = step * steps[0] + work[:-1]
    second = step * steps[1:] + work[-1] - work[:-1]
    longer = np.maximum(first, second)
    cut = int(longer.argmin()) + 1
    if longer[cut - 1] + 8 * step > 0.9 * (step * steps[0] + work[-1]):
        return [len(steps)]
    half = threads // 2
    return [
        *share_out(steps[:cut], width, threads - half, step),
        *share_out(steps[cut:], width, half, step),
    ]
