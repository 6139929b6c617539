"""The limit: one round of federated averaging as a fused loop in C++, compiled here."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("kernel.cpp")
COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
FLAGS = ("-O3", "-march=native", "-ffast-math", "-fopenmp", "-fPIC", "-std=c++17")
MOST_HIDDEN, MOST_CLASSES = 128, 16  # filled up to at most that many lanes
POINTER, INT64 = ctypes.c_void_p, ctypes.c_int64


def available() -> bool:
    """Whether there is a compiler."""
    return COMPILER is not None


def knows(hidden: int | None) -> bool:
    """Whether the kernel trains networks with so many hidden units (None: of another kind)."""
    return hidden is not None and hidden <= MOST_HIDDEN


@cache
def library() -> ctypes.CDLL:
    """The compiled kernel. Raises RuntimeError without a compiler.

    Linked in a step of its own: linking with -ffast-math would flush the denormal numbers of the
    whole process to zero.
    """
    if COMPILER is None:
        raise RuntimeError("expected a C++ compiler to build the kernel with, found none; set CXX")
    name = hashlib.sha256(SOURCE.read_bytes() + repr((COMPILER, FLAGS)).encode()).hexdigest()[:16]
    built = Path(tempfile.gettempdir()) / f"fedlab-kernel-{os.getuid()}-{name}.so"
    if not built.exists():
        with tempfile.TemporaryDirectory() as folder:
            compiled, linked = Path(folder, "kernel.o"), Path(folder, "kernel.so")
            for command in (
                [COMPILER, *FLAGS, "-c", str(SOURCE), "-o", str(compiled)],
                [COMPILER, "-shared", "-fopenmp", str(compiled), "-o", str(linked)],
            ):
                subprocess.run(command, check=True)
            beside = built.with_suffix(f".{os.getpid()}")
            shutil.copy(linked, beside)
            beside.replace(built)
    kernel = ctypes.CDLL(str(built))
    kernel.fedavg_round.restype = None
    kernel.fedavg_round.argtypes = [
        POINTER, POINTER, ctypes.c_int, ctypes.c_int, ctypes.c_int, POINTER, POINTER, POINTER,
        ctypes.c_int, ctypes.c_int, ctypes.c_float, ctypes.c_uint64, POINTER, POINTER, POINTER,
        INT64, ctypes.c_int,
    ]  # fmt: skip
    return kernel


def fedavg_round(
    w: Tensor,
    x: Tensor,
    y: Tensor,
    widths: tuple[int, int, int],
    starts: Tensor,
    sizes: Tensor,
    counts: Tensor,
    batch: int,
    lr: float,
    seed: int,
    visits: list[Tensor] | None = None,
    threads: int = 2,
) -> None:
    """One round, in place: w (d,), from what the server sends to the average.

    x (rows, features) and y (rows,) of all clients; starts, sizes, counts: (cohort,), where the
    rows of a client begin, how many it has and how many steps it takes. widths: features, hidden
    (0 for softmax regression), classes. visits: for each client, the rows of all its mini-batches;
    by default they are drawn in the kernel.
    """
    if not knows(widths[1]) or widths[2] > MOST_CLASSES:
        raise ValueError(
            f"expected at most {MOST_HIDDEN} hidden units and {MOST_CLASSES} classes, "
            f"got {widths[1]} and {widths[2]}"
        )
    arrays = [v.contiguous() for v in (x.float(), y.long(), starts, sizes, counts)]
    handed: list[Tensor | None] = [None, None]
    if visits is not None:
        lengths = torch.tensor([len(v) for v in visits])
        handed = [torch.cat(visits), lengths.cumsum(0) - lengths]
    x_, y_, starts_, sizes_, counts_ = (v.data_ptr() for v in arrays)
    visits_, begins_ = (None if v is None else v.data_ptr() for v in handed)
    library().fedavg_round(
        x_, y_, *widths, starts_, sizes_, counts_, len(starts), batch, lr, seed,
        visits_, begins_, w.data_ptr(), w.numel(), threads,
    )  # fmt: skip
