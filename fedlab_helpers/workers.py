"""Threads that compute blocks of clients at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .model import Model
from .randomness import global_stream

STEP = 150_000  # what a step costs apart from its products, in multiply-adds of these


class Workers:
    """A few threads, each with one thread of torch; a single one for networks that draw random
    numbers, as nobody knows which of several threads comes first.
    """

    def __init__(self, threads: int, models: Sequence[Model]):
        self.count = threads if all(model.shareable for model in models) else 1

    def __enter__(self) -> Workers:
        self._before = torch.get_num_threads()
        torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(max(1, self.count - 1))
        return self

    def __exit__(self, *error: Any) -> None:
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._before)

    def map(self, f: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """f of every item, in order. The thread that asks is one of the workers."""
        if self.count == 1 or len(items) == 1:
            return list(map(f, items))
        later = [self._pool.submit(torch.no_grad()(f), item) for item in items[1:]]
        first = f(items[0])
        own = {i: f(items[i + 1]) for i, future in enumerate(later) if future.cancel()}
        return [first, *(own[i] if i in own else v.result() for i, v in enumerate(later))]

    @contextmanager
    def reproducible(self, *key: int) -> Iterator[None]:
        """Seeds torch's global generator, for dropout. Raises RuntimeError where several threads
        have drawn from it.
        """
        if self.count == 1:
            with global_stream("dropout", *key):
                yield
            return
        before = torch.default_generator.get_state()
        yield
        if not torch.equal(before, torch.default_generator.get_state()):
            raise RuntimeError(
                "expected no draws from torch's global generator while several threads compute; "
                "draw with data.normal(w), or write simulate(..., threads=1)"
            )


def share_out(counts: Tensor, width: int, threads: int) -> list[int]:
    """Cut clients into at most so many blocks that take about the same time -> their lengths.

    counts: (clients,), steps of each, the largest first. width: multiply-adds of one step of one
    client. A block costs its longest client's steps apart from the products, so a cohort with
    little to compute stays whole.
    """
    whole = [len(counts)]
    steps = counts.double()
    work = (steps * width).cumsum(0)
    if threads < 2 or len(counts) < 2 or work[-1] < steps[0] * STEP:
        return whole
    first = steps[0] * STEP + work[:-1]
    second = steps[1:] * STEP + work[-1] - work[:-1]
    longer = torch.maximum(first, second)
    cut = int(longer.argmin())
    if longer[cut] > 0.9 * (steps[0] * STEP + work[-1]):
        return whole
    half = threads // 2
    return [
        *share_out(counts[: cut + 1], width, threads - half),
        *share_out(counts[cut + 1 :], width, half),
    ]
