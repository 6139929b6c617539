"""Mini-batches of many steps, brought together at once: one gather, and views for the steps."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Steps(NamedTuple):
    """Mini-batches of consecutive steps, one step's after the other's."""

    active: list[int]  # (steps,), how many mini-batches each has: those of its first clients
    x: Tensor  # (mini-batches, rows, *features)
    y: Tensor  # (mini-batches, rows)
    mask: Tensor | None  # (mini-batches, rows), as in `Batch`
    full: list[bool]  # (steps,), whether no row of the step only fills up

    def where_short(self, v: Tensor | None) -> list[Tensor | None]:
        """Of v (mini-batches, ...) the part of every step, None for the full ones."""
        if v is None:
            return [None] * len(self.full)
        parts = v.split(self.active)
        return [None if full else part for full, part in zip(self.full, parts, strict=True)]


def width_with_one(features: int) -> int:
    """How wide rows are with one more feature: up to a multiple of 8, as processors like it."""
    return (features // 8 + 1) * 8


def rows_with_one(table: Tensor, rows: Tensor) -> Tensor:
    """These rows of a table (rows, features), a 1 behind each, and zeros up to the width."""
    features = table.shape[1]
    x = table.new_empty(len(rows), width_with_one(features))
    torch.index_select(table, 0, rows, out=x[:, :features])
    x[:, features] = 1
    x[:, features + 1 :] = 0
    return x
