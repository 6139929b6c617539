"""What one federation has learnt becomes the start of another: trunks, frozen layers, LoRA.

Every function takes a network and returns it, so that they go into one another where a `Model` is
made. Names of arrays have wildcards, as everywhere:

>>> arrays = learned(simulate(FedAvg(), Model(lambda: mlp(64, 32, outputs=10)), source))
>>> def network():  # four classes instead of ten; the body is handed over, and only the head learns
...     return freeze(pretrained(mlp(64, 32, outputs=4), arrays, "body.*"), "body.*")
>>> simulate(FedAvg(), Model(network), target)

What is frozen is no part of w: clients do not train it, and do not send it.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .history import History
from .states import tree


def learned(history: History) -> dict[str, Tensor]:
    """The arrays that a run ends with, frozen ones included, by name.

    They are those of the model that the server would send to somebody new; what clients keep for
    themselves (such as the heads of FedPer) is there as it was before training.
    Raises ValueError where clients have networks of different architectures.
    """
    if len(history.groups) > 1:
        raise ValueError(
            f"expected a run with one network, got one with {len(history.groups)}; their arrays "
            "have the same names"
        )
    (group,) = history.groups
    server = tree(lambda v: v[None], group.server)
    w = history.algorithm.receive(group.model, server, tree(lambda v: v[:1], group.kept))[0]
    return {**group.model.fixed, **group.model.unflatten(w)}


def pretrained(network: nn.Module, arrays: Mapping[str, Tensor], *patterns: str) -> nn.Module:
    """The network with the arrays of these names (by default of all) taken from others.

    arrays: name -> array, as from `learned` or from a network's state_dict().
    Raises ValueError where a pattern matches nothing, an array is missing or has another shape.
    """
    own = network.state_dict()
    taken = _matching(own, patterns or ("*",))
    for name in taken:
        if name not in arrays or arrays[name].shape != own[name].shape:
            there = f"one of {tuple(arrays[name].shape)}" if name in arrays else "none"
            raise ValueError(
                f"expected an array {name!r} of shape {tuple(own[name].shape)} to start from, got "
                f'{there}; name those that fit, as in pretrained(network, arrays, "body.*")'
            )
    network.load_state_dict({name: arrays[name] for name in taken}, strict=False)
    return network


def freeze(network: nn.Module, *patterns: str) -> nn.Module:
    """The network with the parameters of these names (by default all) kept as they are.

    Raises ValueError where a pattern matches nothing.
    """
    parameters = dict(network.named_parameters())
    for name in _matching(parameters, patterns or ("*",)):
        parameters[name].requires_grad_(False)
    return network


class LoRALinear(nn.Linear):
    """A linear layer that stays as it is, plus a change of low rank that learns: W + up down.

    down: (rank, in), drawn at random. up: (out, rank), begins at 0, so that nothing changes first.
    Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang and Chen, ICLR 2022, equation 3. arXiv:2106.09685
    The paper's factor alpha / rank is 1 here: the learning rate does its work.
    """

    def __init__(self, layer: nn.Linear, rank: int):
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None)
        self.weight, self.bias = layer.weight, layer.bias
        freeze(self)
        scale = self.in_features**-0.5
        self.down = nn.Parameter(scale * torch.randn(rank, self.in_features).to(layer.weight))
        self.up = nn.Parameter(torch.zeros(self.out_features, rank).to(layer.weight))

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return super().forward(input) + F.linear(F.linear(input, self.down), self.up)


def lora(network: nn.Module, rank: int, *patterns: str) -> nn.Module:
    """The network with every linear layer of these names (by default all) as a `LoRALinear`.

    The layers keep their names, so `pretrained` finds weights and biases where they were.
    Raises ValueError for a rank below 1, and where a pattern matches no linear layer.
    """
    if rank < 1:
        raise ValueError(f"expected a rank of 1 or more, got {rank}")
    layers = {n: m for n, m in network.named_modules() if type(m) is nn.Linear}
    for name in _matching(layers, patterns or ("*",)):
        if not name:
            return LoRALinear(layers[name], rank)
        network.set_submodule(name, LoRALinear(layers[name], rank))
    return network


def _matching(names: Mapping[str, object], patterns: tuple[str, ...]) -> list[str]:
    """Those of the names that a pattern matches. Raises ValueError where one matches nothing."""
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            raise ValueError(
                f"expected a name that is there, but none matches {pattern!r}; "
                f"there are: {', '.join(names)}"
            )
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]
