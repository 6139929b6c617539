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
from .steps import Steps, width_with_one

Slope = Callable[[Tensor, Tensor], Tensor]  # (output, y) -> of every example's loss, like output


@dataclass(frozen=True)
class Linear:
    """A linear layer of some clients, each with its own arrays."""

    weight: Tensor  # (clients, out, in)
    bias: Tensor | None  # (clients, out, 1)

    def forward(self, a: Tensor) -> Tensor:
        """a (clients, in, rows) -> (clients, out, rows)."""
        if self.bias is None:
            return torch.bmm(self.weight, a)
        return torch.baddbmm(self.bias, self.weight, a)

    def gradients(self, a: Tensor, slope: Tensor) -> Linear:
        """Of its arrays, from its input and the slope of what it gave."""
        weight = torch.bmm(slope, a.transpose(1, 2))
        return Linear(weight, None if self.bias is None else slope.sum(2, keepdim=True))

    def step(self, a: Tensor, slope: Tensor, lr: float) -> None:
        """Move its arrays against their gradients, in place."""
        self.weight.baddbmm_(slope, a.transpose(1, 2), alpha=-lr)
        if self.bias is not None:
            self.bias.sub_(slope.sum(2, keepdim=True), alpha=lr)

    def back(self, slope: Tensor) -> Tensor:
        """The slope of its input."""
        return torch.bmm(self.weight.transpose(1, 2), slope)

    def first(self, clients: int) -> Linear:
        """That of the first so many clients: the same memory."""
        return Linear(self.weight[:clients], None if self.bias is None else self.bias[:clients])

    def copy(self) -> Linear:
        """With arrays of its own."""
        return Linear(self.weight.clone(), None if self.bias is None else self.bias.clone())

    def fold(self) -> Linear:
        """The bias as the weight of one more input, which is always 1: half the operations. As wide
        as rows of `LocalData.gathered(one=True)`.
        """
        assert self.bias is not None
        clients, out, features = self.weight.shape
        zeros = self.weight.new_zeros(clients, out, width_with_one(features) - features - 1)
        return Linear(torch.cat([self.weight, self.bias, zeros], 2), None)

    def unfold(self, features: int) -> Linear:
        """The other way, for so many inputs."""
        return Linear(self.weight[..., :features], self.weight[..., features, None])


@dataclass(frozen=True)
class Place:
    """A linear layer of the network: where its arrays are among all, and the weight's shape."""

    arrays: tuple[int, ...]  # weight and bias, or the weight alone
    shape: tuple[int, int]  # (out, in)

    def layer(self, arrays: Sequence[Tensor]) -> Linear:
        """Of the clients with these arrays, each (clients, numbers): views of them."""
        weight, *bias = (arrays[i] for i in self.arrays)
        return Linear(weight.view(-1, *self.shape), bias[0].unsqueeze(2) if bias else None)


@dataclass(frozen=True)
class Activation:
    """A function of each number, and the way back: (slope of output, output) -> of its input."""

    forward: Callable[[Tensor], Tensor]
    back: Callable[[Tensor, Tensor], Tensor]

    def first(self, clients: int) -> Activation:
        """It is the same for all clients."""
        return self

    def copy(self) -> Activation:
        """It has no arrays."""
        return self


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

    layers: in order. sizes: of the network's arrays, in their order in w. loss_slope: the
        slope of each example's loss with respect to the network's output, both (clients, outputs,
        rows), given that and y.
    """

    def __init__(self, layers: Sequence[Place | Activation], sizes: list[int], loss_slope: Slope):
        self.layers, self.sizes, self.loss_slope = layers, sizes, loss_slope

    @classmethod
    def of(
        cls, stages: list[Stage] | None, sizes: dict[str, int], loss_slope: Slope | None
    ) -> ChainGradient | None:
        """None where the network is not such a chain, or the loss has no formula here."""
        found = [_layer(stage, list(sizes)) for stage in stages or []]
        linear = [layer for layer in found if isinstance(layer, Place)]
        arrays = sorted(i for layer in linear for i in layer.arrays)
        if loss_slope is None or None in found or arrays != list(range(len(sizes))):
            return None
        if loss_slope is not cross_entropy_slope and (not linear or linear[-1].shape[0] != 1):
            return None  # the loss itself says what is wrong with that
        known = [layer for layer in found if layer is not None]
        if not known or not isinstance(known[0], Place):
            return None
        return cls(known, list(sizes.values()), loss_slope)

    def __call__(self, w: Tensor, x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        """w (clients, d), x (clients, rows, features), y and mask (clients, rows) -> like w."""
        share = 1 / x.shape[1] if mask is None else _shares(mask, w)
        slopes = self._slopes(self._with(w), x.transpose(1, 2), y, share)
        return self._together([layer.gradients(a, slope) for layer, a, slope in slopes][::-1])

    def descend(self, w: Tensor, batches: Iterable[Steps], lr: float) -> Tensor:
        """A step of gradient descent for every mini-batch: w (clients, d) -> (clients, d).

        batches: `LocalData.gathered(one=True)`. Mini-batches of fewer clients are those of the
            first rows.
        Nothing is put together in between: every array stays on its own and moves in place.
        """
        first, *others = [layer.copy() for layer in self._with(w)]
        assert isinstance(first, Linear)
        features, folds = first.weight.shape[2], first.bias is not None
        everyone = [first.fold() if folds else first, *others]
        layers, active = everyone, len(w)
        for steps in batches:
            inputs = (steps.x if folds else steps.x[..., :features]).transpose(1, 2)
            shares = steps.where_short(None if steps.mask is None else _shares(steps.mask, w))
            x, y = (v.split(steps.active) for v in (inputs, steps.y))
            rate = lr / inputs.shape[2]
            for count, a, target, share in zip(steps.active, x, y, shares, strict=True):
                if count < active:
                    layers, active = [layer.first(count) for layer in everyone], count
                for layer, below, slope in self._slopes(layers, a, target, share):
                    layer.step(below, slope, rate if share is None else lr)
        first, *others = everyone
        assert isinstance(first, Linear)
        return self._together([first.unfold(features) if folds else first, *others])

    def _with(self, w: Tensor) -> list[Linear | Activation]:
        """With the parameters of some clients: views of them."""
        arrays = w.split_with_sizes(self.sizes, 1)
        return [v.layer(arrays) if isinstance(v, Place) else v for v in self.layers]

    def _together(self, layers: Sequence[Linear | Activation]) -> Tensor:
        """The inverse of `_with`."""
        places = [place for place in self.layers if isinstance(place, Place)]
        linear = [layer for layer in layers if isinstance(layer, Linear)]
        arrays: dict[int, Tensor] = {}
        for place, layer in zip(places, linear, strict=True):
            given = [v for v in (layer.weight, layer.bias) if v is not None]
            arrays.update(zip(place.arrays, given, strict=True))
        return torch.cat([arrays[i].flatten(1) for i in range(len(arrays))], 1)

    def _slopes(
        self,
        layers: Sequence[Linear | Activation],
        x: Tensor,
        y: Tensor,
        share: Tensor | float | None,
    ) -> Iterator[tuple[Linear, Tensor, Tensor]]:
        """Linear layers from the last to the first, each with its input and the slope of the loss
        with respect to what it gave. The loss is the sum over rows, each times its share.
        """
        values = [x]  # the input of every layer, and the output
        for layer in layers:
            values.append(layer.forward(values[-1]))
        output = values.pop()
        slope = self.loss_slope(output, y)
        if share is not None:
            slope *= share
        for layer in reversed(layers):
            a = values.pop()
            if isinstance(layer, Activation):
                slope = layer.back(slope, output)
            else:
                below = layer.back(slope) if values else slope
                yield layer, a, slope  # who moves its arrays now does not change what is below
                slope = below
            output = a


def _shares(mask: Tensor, like: Tensor) -> Tensor:
    """Of every row in the mean over the real ones: (clients, rows) -> (clients, 1, rows)."""
    real = mask.to(like.dtype)
    return (real / real.sum(1, keepdim=True)).unsqueeze(1)


def _layer(stage: Stage, names: list[str]) -> Place | Activation | None:
    """A stage as a layer of this module, or None."""
    if type(stage.layer) is nn.Linear:
        arrays = [f"{stage.name}{part}" for part, _ in stage.layer.named_parameters()]
        if not set(arrays) <= set(names):
            return None
        shape = (stage.layer.out_features, stage.layer.in_features)
        return Place(tuple(names.index(array) for array in arrays), shape)
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
