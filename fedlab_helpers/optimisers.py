"""Optimisers on vectors: a step is a pure function, its state a tensor or a tuple of tensors.

Shapes: w, g and every part of a state are (..., d); the same code serves one vector (the server's)
and one row per client.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .hyperparameters import Checked
from .states import State


@dataclass(frozen=True)
class SGD(Checked):
    """Gradient descent, with Polyak's momentum as torch has it: v <- momentum v + g."""

    lr: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0

    @property
    def plain(self) -> bool:
        """Whether a step is w - lr g, and nothing else."""
        return not (self.momentum or self.weight_decay)

    def init(self, w: Tensor) -> State:
        """The velocity, (..., d); nothing without momentum."""
        return (torch.zeros_like(w),) if self.momentum else ()

    def step(self, w: Tensor, g: Tensor, state: State) -> tuple[Tensor, State]:
        """One step against the direction g -> w, state."""
        if self.weight_decay:
            g = g + self.weight_decay * w
        if self.momentum:
            (velocity,) = state
            g = self.momentum * velocity + g
            state = (g,)
        return torch.sub(w, g, alpha=self.lr), state


@dataclass(frozen=True)
class Adam(Checked):
    """Kingma and Ba, ICLR 2015, Algorithm 1. arXiv:1412.6980"""

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def init(self, w: Tensor) -> State:
        """Both moments, (..., d), and the number of steps, (..., 1)."""
        return torch.zeros_like(w), torch.zeros_like(w), torch.zeros_like(w[..., :1])

    def step(self, w: Tensor, g: Tensor, state: State) -> tuple[Tensor, State]:
        """One step against the direction g -> w, state."""
        m, v, t = state
        t = t + 1
        m = self.beta1 * m + (1 - self.beta1) * g
        v = self.beta2 * v + (1 - self.beta2) * g**2
        m_hat, v_hat = m / (1 - self.beta1**t), v / (1 - self.beta2**t)
        return w - self.lr * m_hat / (v_hat.sqrt() + self.eps), (m, v, t)


@dataclass(frozen=True)
class Adaptive(Checked):
    """The server's step of FedAdagrad, FedYogi and FedAdam, without bias correction.

    Reddi et al., ICLR 2021, Algorithm 2. arXiv:2003.00295. `eps` is their tau; their v starts at
    tau squared.
    """

    lr: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-3
    rule: str = "adam"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rule not in ("adam", "yogi", "adagrad"):
            raise ValueError(f"expected rule 'adam', 'yogi' or 'adagrad', got {self.rule!r}")

    def init(self, w: Tensor) -> State:
        """Both moments, (..., d)."""
        return torch.zeros_like(w), torch.full_like(w, self.eps**2)

    def step(self, w: Tensor, g: Tensor, state: State) -> tuple[Tensor, State]:
        """One step against the direction g -> w, state."""
        m, v = state
        m = self.beta1 * m + (1 - self.beta1) * g
        if self.rule == "adagrad":
            v = v + g**2
        elif self.rule == "yogi":
            v = v - (1 - self.beta2) * g**2 * (v - g**2).sign()
        else:
            v = self.beta2 * v + (1 - self.beta2) * g**2
        return w - self.lr * m / (v.sqrt() + self.eps), (m, v)


Optimiser = SGD | Adam | Adaptive
