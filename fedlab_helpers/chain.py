"""Steps of many clients through chains of linear layers, compiled.

Backpropagation written out: no graph to build, a tenth of autograd's operations. Activations lie
features first, (clients, features, rows), so that every product is one batched product without a
copy. TorchScript compiles these functions into loops that do not hold Python's lock: threads with
different clients truly run side by side. Where there is no TorchScript they run as they stand.
"""

# No postponed evaluation of annotations here: TorchScript reads them.
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Layer(NamedTuple):
    """A linear layer of some clients, each with its own arrays, and the function after it."""

    weight: Tensor  # (clients, out, in)
    bias: Tensor | None  # (clients, out, 1)
    after: str  # "relu", "tanh", "sigmoid", or "" for none
    moves: bool = True  # whether steps change it
    near: Tensor | None = None  # like weight: what a proximal term pulls it to
    near_bias: Tensor | None = None  # like bias
    pull: float = 0.0  # how strongly


def compiled(f: Callable) -> Any:
    """f by TorchScript, or f itself where this version of torch or Python has none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.script(f)
    except (AttributeError, OSError, RuntimeError):  # no TorchScript, or no source to read
        return f


@compiled
def forward(layers: list[Layer], x: Tensor) -> list[Tensor]:
    """The input of every layer, and the output: x (clients, in, rows)."""
    values = [x]
    for layer in layers:
        bias = layer.bias
        if bias is None:
            a = torch.bmm(layer.weight, values[-1])
        else:
            a = torch.baddbmm(bias, layer.weight, values[-1])
        if layer.after == "relu":
            a = a.relu_()
        elif layer.after == "tanh":
            a = a.tanh_()
        elif layer.after == "sigmoid":
            a = a.sigmoid_()
        values.append(a)
    return values


@compiled
def backward(layers: list[Layer], values: list[Tensor], slope: Tensor, lowest: int) -> list[Tensor]:
    """The slope of the loss with respect to what each layer gave, down to the layer `lowest`, from
    that of the output. What stands for layers further down is not theirs.
    """
    slopes = [slope for _ in layers]
    for i in range(len(layers) - 1, lowest - 1, -1):
        if layers[i].after == "relu":
            slope = torch.ops.aten.threshold_backward(slope, values[i + 1], 0)
        elif layers[i].after == "tanh":
            slope = torch.ops.aten.tanh_backward(slope, values[i + 1])
        elif layers[i].after == "sigmoid":
            slope = torch.ops.aten.sigmoid_backward(slope, values[i + 1])
        slopes[i] = slope
        if i > lowest:
            slope = torch.bmm(layers[i].weight.transpose(1, 2), slope)
    return slopes


@compiled
def loss_slope(loss: str, output: Tensor, y: Tensor) -> Tensor:
    """The slope of every example's loss with respect to the output, (clients, outputs, rows);
    y (clients, rows).
    """
    if loss == "squared error":
        return 2 * (output - y.unsqueeze(1))
    if loss == "binary cross-entropy":
        return output.sigmoid() - y.unsqueeze(1)
    return output.softmax(1).scatter_(1, y.long().unsqueeze(1), -1.0, reduce="add")


@compiled
def step(
    layers: list[Layer],
    loss: str,
    x: Tensor,
    y: Tensor,
    share: Tensor | None,
    lr: float,
) -> None:
    """One step of gradient descent, in place: x (clients, in, rows), y (clients, rows).

    share: of every row in the mean over the real ones, (clients, 1, rows); None: all the same.
    """
    lowest = 0
    while not layers[lowest].moves:
        lowest += 1
    values = forward(layers, x)
    slope, rate = loss_slope(loss, values[-1], y), lr
    if share is None:
        rate = lr / y.size(1)
    else:
        slope = slope.mul_(share)
    slopes = backward(layers, values, slope, lowest)
    for i, layer in enumerate(layers):
        if layer.moves:
            bias, near, near_bias = layer.bias, layer.near, layer.near_bias
            if near is not None:
                layer.weight.lerp_(near, lr * layer.pull)
            layer.weight.baddbmm_(slopes[i], values[i].transpose(1, 2), alpha=-rate)
            if bias is not None:
                if near_bias is not None:
                    bias.lerp_(near_bias, lr * layer.pull)
                bias.sub_(slopes[i].sum(2, keepdim=True), alpha=rate)


@compiled
def part(layers: list[Layer], first: int, count: int) -> list[Layer]:
    """The layers of some clients: views."""
    found: list[Layer] = []
    for v in layers:
        bias, near, near_bias = v.bias, v.near, v.near_bias
        found.append(
            Layer(
                v.weight.narrow(0, first, count),
                None if bias is None else bias.narrow(0, first, count),
                v.after,
                v.moves,
                None if near is None else near.narrow(0, first, count),
                None if near_bias is None else near_bias.narrow(0, first, count),
                v.pull,
            )
        )
    return found


@compiled
def descend(
    layers: list[Layer],
    offset: int,
    loss: str,
    table: Tensor,
    labels: Tensor,
    rows: Tensor,
    shares: Tensor | None,
    active: list[int],
    full: list[bool],
    most: int,
    lr: float,
) -> int:
    """A step for every mini-batch, in place -> how many steps.

    offset: the layers' clients before these do nothing.
    table (examples, features), labels (examples,). rows (mini-batches, width): of the table, one
        step's mini-batches after the other's. Where the first layer takes more inputs than there
        are features, the next one is always 1, and the others 0.
    shares (mini-batches, 1, width): as in `step`. active (steps,): how many mini-batches each step
        has: those of the first clients. full (steps,): whether no row of the step only fills up.
    most: how many mini-batches' examples are brought together at once, if a step has not more.
    """
    width, features, inputs = rows.size(1), table.size(1), layers[0].weight.size(2)
    targets = labels.index_select(0, rows.flatten()).view(rows.size(0), width)
    space = table.new_empty((max(most, active[0]) * width, inputs))
    if inputs > features:
        space.zero_().select(1, features).fill_(1)
    now, at_work, first, begin = 0, layers, 0, 0
    while first < len(active):
        last, total = first + 1, active[first]
        while last < len(active) and total + active[last] <= most:
            total += active[last]
            last += 1
        examples, counts = space.narrow(0, 0, total * width), active[first:last]
        some = rows.narrow(0, begin, total).flatten()
        torch.index_select(table, 0, some, out=examples.narrow(1, 0, features))
        x = examples.view(total, width, inputs).transpose(1, 2).split(counts)
        y = targets.narrow(0, begin, total).split(counts)
        for i, count in enumerate(counts):
            if count != now:  # some clients have had all their mini-batches
                now, at_work = count, part(layers, offset, count)
            share: Tensor | None = None
            if shares is not None and not full[first + i]:
                share = shares.narrow(0, begin, count)
            step(at_work, loss, x[i], y[i], share, lr)
            begin += count
        first = last
    return len(active)


@compiled
def start(
    layers: list[Layer],
    offset: int,
    loss: str,
    table: Tensor,
    labels: Tensor,
    rows: Tensor,
    shares: Tensor | None,
    active: list[int],
    full: list[bool],
    most: int,
    lr: float,
) -> torch.jit.Future[int]:
    """`descend` in another thread."""
    return torch.jit.fork(
        descend, layers, offset, loss, table, labels, rows, shares, active, full, most, lr
    )


@compiled
def repeat(
    layers: list[Layer],
    offset: int,
    loss: str,
    x: Tensor,
    y: Tensor,
    share: Tensor | None,
    steps: int,
    lr: float,
) -> int:
    """So many steps, in place, each with the same examples -> how many.

    x (clients, in, rows), y (clients, rows). offset: the layers' clients before these do nothing.
    """
    at_work = part(layers, offset, x.size(0))
    for _ in range(steps):
        step(at_work, loss, x, y, share, lr)
    return steps


@compiled
def start_repeat(
    layers: list[Layer],
    offset: int,
    loss: str,
    x: Tensor,
    y: Tensor,
    share: Tensor | None,
    steps: int,
    lr: float,
) -> torch.jit.Future[int]:
    """`repeat` in another thread."""
    return torch.jit.fork(repeat, layers, offset, loss, x, y, share, steps, lr)


PARALLEL = isinstance(descend, torch.jit.ScriptFunction)  # else threads would wait for each other
