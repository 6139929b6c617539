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


def shuffles(
    sizes: np.ndarray, epochs: np.ndarray, clients: np.ndarray, *key: int | np.ndarray
) -> np.ndarray:
    """Shuffle the rows of many clients at once, each for a number of epochs.

    sizes, epochs, clients: (clients,), how many rows and epochs each has, and its number. key: for
        each client, (clients,), or the same for all. Returns
    row numbers, ((sizes * epochs).sum(),): all epochs of the first client, then the next client.
    Each order depends on `key`, the epoch and the client's own number alone: rows are sorted by a
    hash of these (SplitMix64: Steele, Lea and Flood, OOPSLA 2014), so that no client needs a
    generator of its own.
    """
    with np.errstate(over="ignore"):
        name: Any = np.uint64(PURPOSES.index("mini-batches") + 1)
        for number in key:
            name = _mix(name ^ _mix(np.asarray(number).astype(np.uint64)))
        names = np.repeat(_mix(name ^ _mix(clients.astype(np.uint64))), epochs)
        epoch = count_up(epochs).astype(np.uint64)
        names = _mix(names + _mix(epoch))
        lengths = np.repeat(sizes, epochs)  # one segment for every client and epoch
        row = count_up(lengths).astype(np.uint64)
        hashes = _mix(np.repeat(names, lengths) + row)
        # One number of 63 bits per row - segment, hash, row - so that one plain sort does it all.
        row_bits = max(int(sizes.max()) - 1, 1).bit_length()
        segment_bits = max(len(lengths) - 1, 1).bit_length()
        hashes >>= np.uint64(1 + segment_bits + row_bits)
        segment = np.arange(len(lengths), dtype=np.uint64) << np.uint64(63 - segment_bits)
        packed = np.repeat(segment, lengths) | (hashes << np.uint64(row_bits)) | row
    ordered = packed.view(np.int64)
    ordered.sort()
    ordered &= 2**row_bits - 1
    return ordered


def count_up(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ..., n - 1 for every n of `lengths`, one after the other."""
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.arange(len(starts)) - starts


def _mix(z: Any) -> Any:
    """The finaliser of SplitMix64."""
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
