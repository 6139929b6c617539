"""Threads that compute blocks of clients at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

from .closed_form import threads_for_steps
from .model import Model
from .randomness import global_stream


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
        """f of every item, in order. The thread that asks is one of the workers. Where there is a
        single item, its steps have all threads.
        """
        if self.count == 1 or len(items) == 1:
            token = threads_for_steps.set(self.count)
            try:
                return list(map(f, items))
            finally:
                threads_for_steps.reset(token)
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
