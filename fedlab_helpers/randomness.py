"""All randomness of the package: every use has a stream of its own, named by a purpose and numbers.

A client's mini-batches are therefore the same whoever else takes part, in whatever order and on
whatever engine; and a run repeated with its seed is the same run.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

PURPOSES = (
    "initial weights",
    "cohorts",
    "paces",
    "mini-batches",
    "server noise",
    "dropout",
    "partition",
    "data",
    "client noise",
    "masks",
)


def stream(purpose: str, *key: int) -> np.random.Generator:
    """A numpy generator for one purpose: `stream("cohorts", seed)`.

    Use one purpose always with the same number of keys: numpy takes (0, 1) and (0, 1, 0) for the
    same seed. Raises ValueError for a purpose that is not in `PURPOSES`.
    """
    return np.random.default_rng((PURPOSES.index(purpose) + 1, *key))


def torch_stream(purpose: str, *key: int) -> torch.Generator:
    """The same, as a torch generator (on the CPU)."""
    return torch.Generator().manual_seed(int(stream(purpose, *key).integers(2**63)))


_GLOBAL = threading.RLock()


@contextmanager
def global_stream(purpose: str, *key: int) -> Iterator[None]:
    """For code that draws from torch's global generators: initial weights, dropout. One thread at
    a time.
    """
    with _GLOBAL:
        seed = int(stream(purpose, *key).integers(2**63))
        generators = [torch.default_generator]
        if torch.cuda.is_initialized():
            generators += torch.cuda.default_generators
        before = [generator.get_state() for generator in generators]
        for generator in generators:
            generator.manual_seed(seed)
        try:
            yield
        finally:
            for generator, state in zip(generators, before, strict=True):
                generator.set_state(state)


class Shuffles:
    """Shuffles the rows of many clients at once, each for a number of epochs.

    sizes, epochs: (clients,), how many rows and epochs each has. What depends on these alone is
    computed here, once.
    """

    def __init__(self, sizes: np.ndarray, epochs: np.ndarray):
        self.epochs, self.lengths = epochs, np.repeat(sizes, epochs)  # a segment for every epoch
        self.epoch = count_up(epochs).astype(np.uint64)
        self.row = count_up(self.lengths).view(np.uint64)
        self.row_bits = max(int(sizes.max()) - 1, 1).bit_length()
        segment_bits = max(len(self.lengths) - 1, 1).bit_length()
        segment = np.arange(len(self.lengths), dtype=np.uint64) << np.uint64(63 - segment_bits)
        self.fixed = np.repeat(segment, self.lengths)
        self.fixed |= self.row
        self.spare_bits = 1 + segment_bits + self.row_bits

    def __call__(self, clients: np.ndarray, *key: int | np.ndarray) -> np.ndarray:
        """Row numbers, ((sizes * epochs).sum(),): all epochs of the first client, then the next.

        clients: (clients,), their numbers. key: for each client, (clients,), or the same for all.
        Each order depends on `key`, the epoch and the client's own number alone: rows are sorted by
        a hash of these (SplitMix64: Steele, Lea and Flood, OOPSLA 2014), so that no client needs a
        generator of its own.
        """
        with np.errstate(over="ignore"):
            name: Any = np.uint64(PURPOSES.index("mini-batches") + 1)
            for number in key:
                name = _mix(name ^ _mix(np.asarray(number).astype(np.uint64)))
            names = np.repeat(_mix(name ^ _mix(clients.astype(np.uint64))), self.epochs)
            hashes = _mix(np.repeat(_mix(names + _mix(self.epoch)), self.lengths) + self.row)
        # One number of 63 bits per row - segment, hash, row - so that one plain sort does it all.
        hashes >>= np.uint64(self.spare_bits)
        hashes <<= np.uint64(self.row_bits)
        hashes |= self.fixed
        ordered = hashes.view(np.int64)
        ordered.sort()
        ordered &= 2**self.row_bits - 1
        return ordered


def count_up(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ..., n - 1 for every n of `lengths`, one after the other."""
    numbers = np.repeat(lengths - np.cumsum(lengths), lengths)
    numbers += np.arange(len(numbers))
    return numbers


def _mix(z: Any) -> Any:
    """The finaliser of SplitMix64."""
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z
