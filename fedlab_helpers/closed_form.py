"""Gradients by formula, for the networks that this book trains most: chains of linear layers.

Backpropagation written out for all clients at once. It gives what autograd gives, without a graph
to build: a tenth of the operations. Activations lie features first, (clients, features, rows), so
that every product below is one batched product without a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .stacked import Stage

MiniBatch = tuple[Tensor, Tensor, Tensor | None]  # x, y and mask of a mini-batch
Slope = Callable[[Tensor, Tensor], Tensor]  # (output, y) -> of every example's loss, like output


@dataclass(frozen=True)
class Linear:
    """A linear layer: where its arrays are among those of the network, and their shape."""

    weight: int
    bias: int | None
    shape: tuple[int, int]  # (out, in)

    def forward(self, arrays: Sequence[Tensor], a: Tensor) -> Tensor:
        """a (clients, in, rows) -> (clients, out, rows)."""
        weight = arrays[self.weight].view(-1, *self.shape)
        if self.bias is None:
            return torch.bmm(weight, a)
        return torch.baddbmm(arrays[self.bias].unsqueeze(2), weight, a)

    def gradients(self, a: Tensor, slope: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Of each of its arrays, flat, from its input and the slope of what it gave."""
        yield self.weight, torch.bmm(slope, a.transpose(1, 2)).flatten(1)
        if self.bias is not None:
            yield self.bias, slope.sum(2)

    def step(self, arrays: Sequence[Tensor], a: Tensor, slope: Tensor, lr: float) -> None:
        """Move its arrays against their gradients, in place."""
        weight = arrays[self.weight].view(-1, *self.shape)
        weight.baddbmm_(slope, a.transpose(1, 2), alpha=-lr)
        if self.bias is not None:
            arrays[self.bias].sub_(slope.sum(2), alpha=lr)

    def back(self, arrays: Sequence[Tensor], slope: Tensor) -> Tensor:
        """The slope of its input."""
        return torch.bmm(arrays[self.weight].view(-1, *self.shape).transpose(1, 2), slope)


@dataclass(frozen=True)
class Activation:
    """A function of each number, and the way back: (slope of output, output) -> of its input."""

    forward: Callable[[Tensor], Tensor]
    back: Callable[[Tensor, Tensor], Tensor]


def _relu_back(slope: Tensor, a: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward(slope, a, 0)


RELU = Activation(torch.relu, _relu_back)
TANH = Activation(torch.tanh, torch.ops.aten.tanh_backward)
SIGMOID = Activation(torch.sigmoid, torch.ops.aten.sigmoid_backward)
ACTIVATIONS: dict[Any, Activation] = {
    **dict.fromkeys((nn.ReLU, torch.relu, nn.functional.relu, torch.Tensor.relu), RELU),
    **dict.fromkeys((nn.Tanh, torch.tanh, torch.Tensor.tanh), TANH),
    **dict.fromkeys((nn.Sigmoid, torch.sigmoid, torch.Tensor.sigmoid), SIGMOID),
}


class ChainGradient:
    """The gradient of the mean loss of a chain of linear layers, for w (clients, d).

    layers: in order. sizes: of the network's arrays, in their order in w. loss_slope: the slope of
        each example's loss with respect to the network's output, both (clients, outputs, rows).
    """

    def __init__(
        self, layers: Sequence[Linear | Activation], sizes: Sequence[int], loss_slope: Slope
    ):
        self.layers, self.sizes, self.loss_slope = list(layers), list(sizes), loss_slope

    @classmethod
    def of(
        cls, stages: list[Stage] | None, sizes: dict[str, int], loss_slope: Slope | None
    ) -> ChainGradient | None:
        """None where the network is not such a chain, or the loss has no formula here."""
        layers, names = [_layer(stage, list(sizes)) for stage in stages or []], set(sizes)
        linear = [layer for layer in layers if isinstance(layer, Linear)]
        places = [p for layer in linear for p in (layer.weight, layer.bias) if p is not None]
        if loss_slope is None or None in layers or sorted(places) != list(range(len(names))):
            return None
        if loss_slope is not cross_entropy_slope and (not linear or linear[-1].shape[0] != 1):
            return None  # the loss itself says what is wrong with that
        known = [layer for layer in layers if layer is not None]
        return cls(known, list(sizes.values()), loss_slope)

    def __call__(self, w: Tensor, x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        """w (clients, d), x (clients, rows, features), y and mask (clients, rows) -> like w."""
        arrays = torch.split_with_sizes(w, self.sizes, 1)
        g = list(arrays)
        for layer, a, slope in self._slopes(arrays, x, y, mask):
            for place, gradient in layer.gradients(a, slope):
                g[place] = gradient
        return torch.cat(g, 1)

    def descend(self, w: Tensor, batches: Iterable[MiniBatch], lr: float) -> Tensor:
        """A step of gradient descent for every mini-batch: w (clients, d) -> (clients, d).

        Mini-batches of fewer clients are those of the first rows. Nothing is put together in
        between: every array stays on its own and moves in place.
        """
        arrays = [array.clone() for array in torch.split_with_sizes(w, self.sizes, 1)]
        at_work = arrays
        for x, y, mask in batches:
            if x.shape[0] < at_work[0].shape[0]:
                at_work = [array[: x.shape[0]] for array in arrays]
            for layer, a, slope in self._slopes(at_work, x, y, mask):
                layer.step(at_work, a, slope, lr)
        return torch.cat(arrays, 1)

    def _slopes(
        self, arrays: Sequence[Tensor], x: Tensor, y: Tensor, mask: Tensor | None
    ) -> Iterator[tuple[Linear, Tensor, Tensor]]:
        """Linear layers from the last to the first, each with its input and the slope of the mean
        loss with respect to what it gave.
        """
        values = [x.transpose(1, 2)]  # the input of every layer, and the output
        for layer in self.layers:
            if isinstance(layer, Linear):
                values.append(layer.forward(arrays, values[-1]))
            else:
                values.append(layer.forward(values[-1]))
        output = values.pop()
        slope = self.loss_slope(output, y)
        if mask is None:
            slope /= x.shape[1]
        else:
            slope *= mask.unsqueeze(1)
            slope /= mask.sum(1)[:, None, None]
        for layer in reversed(self.layers):
            a = values.pop()
            if isinstance(layer, Activation):
                slope = layer.back(slope, output)
            else:
                below = layer.back(arrays, slope) if values else slope
                yield layer, a, slope  # who moves its arrays now does not change what is below
                slope = below
            output = a


def _layer(stage: Stage, names: list[str]) -> Linear | Activation | None:
    """A stage as a layer of this module, or None."""
    if type(stage.layer) is nn.Linear:
        weight, bias = (f"{stage.name}{part}" for part in ("weight", "bias"))
        if weight not in names or (stage.layer.bias is not None and bias not in names):
            return None
        place = None if stage.layer.bias is None else names.index(bias)
        return Linear(
            names.index(weight), place, (stage.layer.out_features, stage.layer.in_features)
        )
    module = isinstance(stage.layer, nn.Module)
    return ACTIVATIONS.get(type(stage.layer) if module else stage.layer)


def cross_entropy_slope(scores: Tensor, y: Tensor) -> Tensor:
    """softmax(scores) - one_hot(y): (clients, classes, rows), (clients, rows)."""
    return scores.softmax(1).scatter_(1, y.long().unsqueeze(1), -1, reduce="add")


def squared_error_slope(output: Tensor, y: Tensor) -> Tensor:
    """2 (output - y): (clients, 1, rows), (clients, rows)."""
    return 2 * (output - y[:, None])


def binary_cross_entropy_slope(logits: Tensor, y: Tensor) -> Tensor:
    """sigmoid(logits) - y: (clients, 1, rows), (clients, rows)."""
    return logits.sigmoid() - y[:, None]
