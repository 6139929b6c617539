"""Gradients by formula, for the networks that this book trains most: chains of linear layers.

Backpropagation written out for all clients at once. It gives what autograd gives, without a graph
to build: a tenth of the operations. Activations lie features first, (clients, features, rows), so
that every product below is one batched product without a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .stacked import Stage

# Back through an activation, from its own output: (slope of what it gave, output) -> of its input.
SLOPES: dict[Any, Callable[[Tensor, Tensor], Tensor]] = {
    nn.ReLU: lambda slope, a: torch.ops.aten.threshold_backward(slope, a, 0),
    nn.Tanh: torch.ops.aten.tanh_backward,
    nn.Sigmoid: torch.ops.aten.sigmoid_backward,
}
FUNCTIONS = {
    torch.relu: nn.ReLU(),
    nn.functional.relu: nn.ReLU(),
    torch.Tensor.relu: nn.ReLU(),
    torch.tanh: nn.Tanh(),
    torch.Tensor.tanh: nn.Tanh(),
    torch.sigmoid: nn.Sigmoid(),
    torch.Tensor.sigmoid: nn.Sigmoid(),
}
Slope = Callable[[Tensor, Tensor], Tensor]  # (output, y) -> of every example's loss, like output


class ChainGradient:
    """The gradient of the mean loss of a chain of linear layers, for w (clients, d).

    loss_slope: the slope of each example's loss with respect to the network's output, both
        (clients, outputs, rows).
    """

    def __init__(
        self, layers: list[tuple[str, nn.Module]], sizes: dict[str, int], loss_slope: Slope
    ):
        self.layers, self.loss_slope = layers, loss_slope
        self.names, self.sizes = list(sizes), list(sizes.values())

    @classmethod
    def of(
        cls, stages: list[Stage] | None, sizes: dict[str, int], loss_slope: Slope | None
    ) -> ChainGradient | None:
        """None where the network is not such a chain, or the loss has no formula here."""
        layers = [(stage.name, FUNCTIONS.get(stage.layer, stage.layer)) for stage in stages or []]
        arrays = [f"{n}{p}" for n, layer in layers for p, _ in _arrays(layer)]
        known = all(type(layer) in (nn.Linear, *SLOPES) for _, layer in layers)
        if loss_slope is None or not known or sorted(arrays) != sorted(sizes):
            return None
        outputs = [layer.out_features for _, layer in layers if isinstance(layer, nn.Linear)]
        if loss_slope is not cross_entropy_slope and outputs[-1:] != [1]:
            return None  # the loss itself says what is wrong with that
        return cls(layers, sizes, loss_slope)

    def __call__(self, w: Tensor, x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        """w (clients, d), x (clients, rows, features), y and mask (clients, rows) -> like w."""
        arrays = dict(zip(self.names, w.split(self.sizes, 1), strict=True))
        a = x.transpose(1, 2)
        kept = [a]  # the input of every layer
        for name, layer in self.layers:
            if not isinstance(layer, nn.Linear):
                a = layer(a)
            elif layer.bias is None:
                a = torch.bmm(_matrices(arrays, name, layer), a)
            else:
                bias = arrays[f"{name}bias"][:, :, None]
                a = torch.baddbmm(bias, _matrices(arrays, name, layer), a)
            kept.append(a)
        slope = self.loss_slope(a, y)  # of the loss, with respect to what the layer below gave
        if mask is None:
            slope /= x.shape[1]
        else:
            slope *= mask[:, None]
            slope /= mask.sum(1)[:, None, None]
        g = {}
        for number in range(len(self.layers) - 1, -1, -1):
            name, layer = self.layers[number]
            if not isinstance(layer, nn.Linear):
                slope = SLOPES[type(layer)](slope, kept[number + 1])
                continue
            g[f"{name}weight"] = torch.bmm(slope, kept[number].transpose(1, 2)).flatten(1)
            if layer.bias is not None:
                g[f"{name}bias"] = slope.sum(2)
            if number:
                slope = torch.bmm(_matrices(arrays, name, layer).transpose(1, 2), slope)
        return torch.cat([g[name] for name in self.names], 1)


def _matrices(arrays: dict[str, Tensor], name: str, layer: nn.Linear) -> Tensor:
    """The weights of a layer, (clients, out, in)."""
    weight = arrays[f"{name}weight"]
    return weight.view(len(weight), layer.out_features, layer.in_features)


def cross_entropy_slope(scores: Tensor, y: Tensor) -> Tensor:
    """softmax(scores) - one_hot(y): (clients, classes, rows), (clients, rows)."""
    return scores.softmax(1).scatter_(1, y.long()[:, None], -1, reduce="add")


def squared_error_slope(output: Tensor, y: Tensor) -> Tensor:
    """2 (output - y): (clients, 1, rows), (clients, rows)."""
    return 2 * (output - y[:, None])


def binary_cross_entropy_slope(logits: Tensor, y: Tensor) -> Tensor:
    """sigmoid(logits) - y: (clients, 1, rows), (clients, rows)."""
    return logits.sigmoid() - y[:, None]


def _arrays(layer: Any) -> list[tuple[str, Tensor]]:
    return list(layer.named_parameters()) if isinstance(layer, nn.Module) else []
