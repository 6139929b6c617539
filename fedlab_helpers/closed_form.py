"""Gradients by formula, for the networks that this book trains most: chains of linear layers.

What autograd gives, without a graph to build. Here a network is recognised as such a chain, and its
arrays are found in w; the arithmetic is in `chain`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from . import chain
from .chain import Layer
from .data import LocalData, columns_with_one, with_one
from .plan import share_out
from .stacked import Stage

CACHE = 400_000  # bytes of examples that compiled steps bring together: what a core keeps near

threads_for_steps = ContextVar("threads_for_steps", default=1)  # among which clients are shared out

Slope = Callable[[Tensor, Tensor], Tensor]  # (output, y) -> of every example's loss, like output

ACTIVATIONS: dict[Any, str] = {
    **dict.fromkeys((nn.ReLU, torch.relu, nn.functional.relu, torch.Tensor.relu), "relu"),
    **dict.fromkeys((nn.Tanh, torch.tanh, torch.Tensor.tanh), "tanh"),
    **dict.fromkeys((nn.Sigmoid, torch.sigmoid, torch.Tensor.sigmoid), "sigmoid"),
}


@dataclass(frozen=True)
class Place:
    """A linear layer of the network: where its arrays are among all, the weight's shape, and the
    function after it, as in `chain`.
    """

    arrays: tuple[int, ...]  # weight and bias, or the weight alone
    shape: tuple[int, int]  # (out, in)
    after: str = ""


class ChainGradient:
    """The gradient of the mean loss of a chain of linear layers, for w (clients, d).

    places: the layers, in order. sizes: of the network's arrays, in their order in w. loss: as in
    `chain.loss_slope`.
    """

    def __init__(self, places: Sequence[Place], sizes: Sequence[int], loss: str):
        self.places, self.sizes, self.loss = places, list(sizes), loss

    @classmethod
    def of(
        cls, stages: list[Stage] | None, sizes: dict[str, int], loss: str | None
    ) -> ChainGradient | None:
        """None where the network is not such a chain, or the loss has no formula here."""
        places = _places(stages or [], list(sizes))
        arrays = sorted(i for place in places for i in place.arrays)
        if loss is None or not places or arrays != list(range(len(sizes))):
            return None
        if loss != "cross-entropy" and places[-1].shape[0] != 1:
            return None  # the loss itself says what is wrong with that
        return cls(places, list(sizes.values()), loss)

    def __call__(
        self, w: Tensor, x: Tensor, y: Tensor, mask: Tensor | None, slope: Slope | None = None
    ) -> Tensor:
        """w (clients, d), x (clients, rows, features), y and mask (clients, rows) -> like w.

        slope: of another loss, with y as that takes it.
        """
        layers = self._layers(w)
        values = chain.forward(layers, x.transpose(1, 2))
        of_output = slope(values[-1], y) if slope else chain.loss_slope(self.loss, values[-1], y)
        of_output *= 1 / x.shape[1] if mask is None else _shares(mask, w.dtype)
        return self._products(layers, chain.backward(layers, values, of_output, 0), values)

    def clipped(
        self, w: Tensor, x: Tensor, y: Tensor, mask: Tensor | None, length: float
    ) -> Tensor:
        """The sum of all examples' gradients, each at most so long; else as a call.

        An example's gradient of a weight is the product of a slope and an input, so its length is
        known without it. Goodfellow 2015. arXiv:1510.01799
        """
        layers = self._layers(w)
        values = chain.forward(layers, x.transpose(1, 2))
        slopes = chain.backward(layers, values, chain.loss_slope(self.loss, values[-1], y), 0)
        squares = sum(
            s.square().sum(1) * (a.square().sum(1) + (layer.bias is not None))
            for layer, s, a in zip(layers, slopes, values, strict=False)
        )
        factor = (length / torch.as_tensor(squares).sqrt().clamp(min=1e-12)).clamp(max=1)
        factor = (factor if mask is None else factor * mask).unsqueeze(1)
        return self._products(layers, [s * factor for s in slopes], values)

    def descend(
        self,
        w: Tensor,
        data: LocalData,
        lr: float,
        pull: float | Tensor = 0.0,
        anchor: Tensor | None = None,
        only: Tensor | None = None,
    ) -> Tensor | None:
        """A step of gradient descent for every mini-batch: w (clients, d) -> (clients, d).

        pull, anchor: of a proximal term, pull/2 |w - anchor|^2; anchor like w, pull a number or one
        for each coordinate, (d,). only: coordinates that may move, (d,) bool. Returns None where
        that is not the same for all of a layer.
        """
        lr, pulls, moves = float(lr), self._of_layers(pull), self._of_layers(only)
        if None in moves or None in pulls:
            return None
        if not any(moves):
            return w
        pairs = zip(self._layers(w), moves, strict=True)
        layers = [v._replace(moves=bool(move)) for v, move in pairs]
        if anchor is not None:
            near = zip(layers, self._layers(anchor), pulls, strict=True)
            layers = [
                v._replace(near=there.weight, near_bias=there.bias, pull=float(strength or 0))
                for v, there, strength in near
            ]
        folds = layers[0].bias is not None
        own = [_fold(layers[0]) if folds else _own(layers[0]), *map(_own, layers[1:])]
        if int(data.counts.max()):
            self._descend(own, data, lr, folds)
        new = torch.empty_like(w, memory_format=torch.contiguous_format)
        for v, (weight, bias, *_) in zip(self._layers(new), own, strict=True):
            features = v.weight.shape[2]
            v.weight.copy_(weight[..., :features])
            if v.bias is not None:
                v.bias.copy_(weight[..., features, None] if bias is None else bias)
        return new

    def _descend(self, layers: list[Layer], data: LocalData, lr: float, folds: bool) -> None:
        """A step for every mini-batch, in place; in several threads where that takes less time."""
        like = layers[0].weight
        threads = threads_for_steps.get() if chain.PARALLEL and not like.is_cuda else 1
        lengths = share_out(data.counts.numpy(), data.width * sum(self.sizes), threads)
        ends = [*accumulate(lengths)]
        whole = data.batch_size is None
        parts = self._all(data, ends, folds) if whole else self._planned(data, lengths, like, folds)
        run, start = (chain.repeat, chain.start_repeat) if whole else (chain.descend, chain.start)
        waiting = []
        for n, end, part in zip(lengths, ends, parts, strict=True):
            task = (layers, end - n, self.loss, *part, lr)
            if end < len(data):  # others begin while the next part is made ready
                waiting.append(start(*task))
            else:
                run(*task)
        for steps in waiting:
            steps.wait()

    def _all(self, data: LocalData, ends: list[int], folds: bool) -> Iterator[tuple]:
        """What `chain.repeat` takes of some clients' examples, and those up to the next end."""
        x, y, mask = data.all
        x = (with_one(x) if folds else x).transpose(1, 2)
        share = None if mask is None else _shares(mask, x.dtype)
        for begin, end in pairwise([0, *ends]):
            own = slice(begin, end)
            yield x[own], y[own], None if share is None else share[own], int(data.counts[begin])

    def _planned(
        self, data: LocalData, lengths: list[int], like: Tensor, folds: bool
    ) -> Iterator[tuple]:
        """What `chain.descend` takes of some clients' mini-batches, and those of the next."""
        examples = data.examples
        table = examples.with_one if folds else examples.x
        most = CACHE // (data.width * like.shape[2] * like.element_size())
        for plan in data.plans(tuple(lengths)):
            shares = None if all(plan.full) else _shares(plan.mask, like.dtype)
            yield table, examples.y, plan.rows, shares, plan.active, plan.full, most

    def _layers(self, w: Tensor) -> list[Layer]:
        """With the parameters of some clients: views of w."""
        arrays = w.split_with_sizes(self.sizes, 1)
        return [
            Layer(
                arrays[place.arrays[0]].view(-1, *place.shape),
                arrays[place.arrays[1]].unsqueeze(2) if len(place.arrays) > 1 else None,
                place.after,
            )
            for place in self.places
        ]

    def _products(self, layers: list[Layer], slopes: list[Tensor], values: list[Tensor]) -> Tensor:
        """The gradient, from the slope of what each layer gave, and its input."""
        return self._together(
            Layer(torch.bmm(s, a.transpose(1, 2)), None if v.bias is None else s.sum(2), "")
            for v, s, a in zip(layers, slopes, values, strict=False)
        )

    def _together(self, layers: Iterable[Layer]) -> Tensor:
        """The inverse of `_layers`."""
        arrays: dict[int, Tensor] = {}
        for place, layer in zip(self.places, layers, strict=True):
            given = [v for v in (layer.weight, layer.bias) if v is not None]
            arrays.update(zip(place.arrays, given, strict=True))
        return torch.cat([arrays[i].flatten(1) for i in range(len(arrays))], 1)

    def _of_layers(self, values: float | Tensor | None) -> list[float | None]:
        """What every layer has of these, a number for all coordinates or one for each, (d,); by
        default 1. None for a layer whose coordinates differ.
        """
        if not isinstance(values, Tensor):
            return [1.0 if values is None else float(values)] * len(self.places)
        parts = values.split_with_sizes(self.sizes)
        each = [torch.cat([parts[i] for i in place.arrays]) for place in self.places]
        return [float(v[0]) if (v == v[0]).all() else None for v in each]


def _own(layer: Layer) -> Layer:
    """With arrays of its own, to be changed in place."""
    bias = None if layer.bias is None else layer.bias.clone()
    return layer._replace(weight=layer.weight.clone(), bias=bias)


def _fold(layer: Layer) -> Layer:
    """The bias as the weight of one more input, which is always 1: half the operations."""

    def folded(weight: Tensor | None, bias: Tensor | None) -> Tensor | None:
        if weight is None or bias is None:
            return None
        clients, out, features = weight.shape
        zeros = weight.new_zeros(clients, out, columns_with_one(features) - features - 1)
        return torch.cat([weight, bias, zeros], 2)

    weight = folded(layer.weight, layer.bias)
    assert weight is not None
    near = folded(layer.near, layer.near_bias)
    return Layer(weight, None, layer.after, layer.moves, near, None, layer.pull)


@lru_cache(maxsize=16)
def _shares(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Of every row in the mean over the real ones: (clients, rows) -> (clients, 1, rows)."""
    real = mask.to(dtype)
    return (real / real.sum(1, keepdim=True)).unsqueeze(1)


def _places(stages: Sequence[Stage], names: list[str]) -> list[Place]:
    """The linear layers with the functions after them; [] where the stages are anything else."""
    places: list[Place] = []
    for stage in stages:
        module = isinstance(stage.layer, nn.Module)
        after = ACTIVATIONS.get(type(stage.layer) if module else stage.layer)
        if type(stage.layer) is nn.Linear:
            arrays = [f"{stage.name}{part}" for part, _ in stage.layer.named_parameters()]
            if not set(arrays) <= set(names):
                return []  # frozen
            found = tuple(names.index(array) for array in arrays)
            places.append(Place(found, (stage.layer.out_features, stage.layer.in_features)))
        elif after and places and not places[-1].after:
            places[-1] = Place(places[-1].arrays, places[-1].shape, after)
        elif not isinstance(stage.layer, nn.Identity):
            return []
    return places
