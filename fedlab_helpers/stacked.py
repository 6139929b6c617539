"""The forward pass of many clients at once, each with weights of its own.

A network that is a chain of known layers is computed for all clients together with one batched
matrix product a layer. The source of the speed: a hundred small products are one dispatched
operation instead of a hundred.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

Values = dict[str, Tensor]  # the named arrays of a network, each with a leading clients axis

_TRACING = Lock()  # torch.fx hooks into all modules of the process while it traces one


@dataclass(frozen=True)
class Stage:
    """One layer of a chain: what its arrays' names begin with ("body.0."; nothing where it is the
    whole network), and the module or function that it applies.
    """

    name: str
    layer: Any
    arguments: tuple = ()


def chain(network: nn.Module) -> list[Stage] | None:
    """The layers of a network whose every layer feeds only the next, or None if it is not one.

    The network's own `forward` is traced, so subclasses of nn.Module are as good as nn.Sequential,
    which is known to call one layer after the other.
    """
    stages = _one_after_the_other(network)
    if stages is not None and _untied(stages, network):
        return stages
    try:
        with _TRACING:
            graph = _Tracer().trace(network)
    except Exception:  # torch.fx gives up in many ways, each of which means: not a plain chain
        return None
    stages = []
    previous: fx.Node | None = None
    for node in graph.nodes:
        if node.op == "placeholder" and previous is None:
            previous = node
            continue
        if node.op == "output":
            return stages if node.args[0] is previous and _untied(stages, network) else None
        if not node.args or node.args[0] is not previous or node.all_input_nodes != [previous]:
            return None
        if node.op == "call_module" and len(node.args) == 1 and not node.kwargs:
            stages.append(Stage(f"{node.target}.", network.get_submodule(str(node.target))))
        elif node.op == "call_function" and node.target in FUNCTIONS and not node.kwargs:
            stages.append(Stage(node.name, node.target, node.args[1:]))
        elif node.op == "call_method" and node.target in METHODS and not node.kwargs:
            if node.target == "squeeze" and len(node.args) != 2:
                return None  # without a dimension, squeeze also removes a batch of one
            stages.append(Stage(node.name, getattr(Tensor, node.target), node.args[1:]))
        else:
            return None
        if isinstance(stages[-1].layer, nn.Module) and not _known(stages[-1].layer):
            return None
        previous = node
    return None


def _one_after_the_other(network: nn.Module, name: str = "") -> list[Stage] | None:
    """The layers of an nn.Sequential, also of others inside; None where it holds anything else."""
    if type(network) is not nn.Sequential:
        leaf = type(network).__module__.startswith("torch.nn")
        return [Stage(name, network)] if leaf and _known(network) else None
    if network._forward_hooks or network._forward_pre_hooks:
        return None
    stages: list[Stage] = []
    for part, layer in network._modules.items():  # also one that is there twice
        inside = _one_after_the_other(layer, f"{name}{part}.") if layer is not None else None
        if inside is None:
            return None
        stages += inside
    return stages


def forward(stages: list[Stage], values: Values, x: Tensor, training: bool) -> Tensor:
    """The outputs of every client's network: x (clients, rows, *features) -> (clients, rows, ...).

    With BatchNorm in training, the running statistics in `values` are replaced by the new ones.
    """
    for stage in stages:
        layer, module = stage.layer, isinstance(stage.layer, nn.Module)
        kind = type(layer) if module else layer
        if kind in RULES:
            x = RULES[kind](layer, stage.name, values, x, training)
            continue
        f = layer.forward if module else layer  # layer(x) is what torch.fx hooks into, everywhere
        x = f(x, *stage.arguments) if kind in ELEMENTWISE else _fold(f, x, *stage.arguments)
    return x


def is_heavy(stages: list[Stage] | None, network: nn.Module) -> bool:
    """Whether one client's network fills the machine by itself, so that stacking gains nothing.

    Of an embedding, a mini-batch uses a few rows only.
    """
    tables = [layer.weight.numel() for layer in network.modules() if type(layer) is nn.Embedding]
    parameters = sum(p.numel() for p in network.parameters()) - sum(tables)
    convolves = any(isinstance(module, nn.Conv2d) for module in network.modules())
    return convolves and parameters > 20_000 if stages is not None else parameters > 80_000


def _fold(f: Callable[..., Tensor], x: Tensor, *arguments: Any) -> Tensor:
    """Apply to all clients' rows something that treats every row alike."""
    y = f(x.flatten(0, 1), *arguments)
    return y.unflatten(0, x.shape[:2])


def _per_channel(v: Tensor, x: Tensor) -> Tensor:
    """(clients, channels) shaped to fit x (clients, rows, channels, ...)."""
    return v[:, None].reshape(v.shape[0], 1, v.shape[1], *[1] * (x.ndim - 3))


def _linear(layer: nn.Linear, name: str, values: Values, x: Tensor, training: bool) -> Tensor:
    weight = values[f"{name}weight"].transpose(1, 2)
    rows = x if x.ndim == 3 else x.flatten(1, -2)
    if layer.bias is None:
        y = torch.bmm(rows, weight)
    else:
        y = torch.baddbmm(values[f"{name}bias"][:, None], rows, weight)
    return y if x.ndim == 3 else y.unflatten(1, x.shape[1:-1])


def _conv2d(layer: nn.Conv2d, name: str, values: Values, x: Tensor, training: bool) -> Tensor:
    clients = x.shape[0]
    bias = values[f"{name}bias"].flatten() if layer.bias is not None else None
    y = F.conv2d(
        x.transpose(0, 1).flatten(1, 2),  # (rows, clients * channels, height, width)
        values[f"{name}weight"].flatten(0, 1),
        bias,
        layer.stride,
        layer.padding,
        layer.dilation,
        groups=clients * layer.groups,
    )
    return y.unflatten(1, (clients, -1)).transpose(0, 1)


def _batch_norm(layer: Any, name: str, values: Values, x: Tensor, training: bool) -> Tensor:
    if training or layer.running_mean is None:
        rows = x.transpose(1, 2).flatten(2)  # (clients, channels, rows and places)
        mean, var = rows.mean(2), rows.var(2, correction=0)
        if layer.running_mean is not None:
            n = rows.shape[2]
            for part, new in (("mean", mean), ("var", var * n / max(n - 1, 1))):
                old = values[f"{name}running_{part}"].detach()
                values[f"{name}running_{part}"] = torch.lerp(old, new.detach(), layer.momentum)
    else:
        mean, var = (values[f"{name}running_{part}"].detach() for part in ("mean", "var"))
    x = (x - _per_channel(mean, x)) * _per_channel((var + layer.eps).rsqrt(), x)
    return _affine(layer, name, values, x)


def _group_norm(
    layer: nn.GroupNorm, name: str, values: Values, x: Tensor, training: bool
) -> Tensor:
    x = _fold(lambda v: F.group_norm(v, layer.num_groups, eps=layer.eps), x)
    return _affine(layer, name, values, x)


def _affine(layer: Any, name: str, values: Values, x: Tensor) -> Tensor:
    if not layer.affine:
        return x
    scale, shift = values[f"{name}weight"], values[f"{name}bias"]
    return x * _per_channel(scale, x) + _per_channel(shift, x)


def _layer_norm(
    layer: nn.LayerNorm, name: str, values: Values, x: Tensor, training: bool
) -> Tensor:
    x = F.layer_norm(x, layer.normalized_shape, eps=layer.eps)
    for part, combine in (("weight", torch.mul), ("bias", torch.add)):
        if getattr(layer, part) is not None:
            v = values[f"{name}{part}"]
            gap = x.ndim - v.ndim
            x = combine(x, v.reshape(v.shape[0], *[1] * gap, *v.shape[1:]))
    return x


def _embedding(layer: nn.Embedding, name: str, values: Values, x: Tensor, training: bool) -> Tensor:
    table = values[f"{name}weight"]
    client = torch.arange(len(table), device=x.device).view(-1, *[1] * (x.ndim - 1))
    return table[client, x]


def _dropout(layer: nn.Dropout, name: str, values: Values, x: Tensor, training: bool) -> Tensor:
    return F.dropout(x, layer.p, training)


RULES: dict[type, Callable[..., Tensor]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    nn.Embedding: _embedding,
    nn.Dropout: _dropout,
}
ELEMENTWISE = {nn.ReLU, nn.Tanh, nn.Sigmoid, torch.relu, F.relu, torch.tanh, torch.sigmoid}
FUNCTIONS = {torch.relu, F.relu, torch.tanh, torch.sigmoid, torch.flatten, F.gelu, F.elu}
METHODS = {"relu", "tanh", "sigmoid", "flatten", "squeeze", "unsqueeze"}


def _untied(stages: list[Stage], network: nn.Module) -> bool:
    """Whether every layer finds its parameters under its own name."""
    names = {name for name, _ in network.named_parameters()}
    layers = [(s.name, s.layer) for s in stages if isinstance(s.layer, nn.Module)]
    return all(
        f"{name}{part}" in names for name, layer in layers for part, _ in layer.named_parameters()
    )


def _known(layer: nn.Module) -> bool:
    """Whether there is a rule for a layer, or it treats every row alike without parameters."""
    if layer._forward_hooks or layer._forward_pre_hooks:
        return False
    if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
        return False
    if isinstance(layer, nn.Embedding) and (layer.padding_idx, layer.max_norm) != (None, None):
        return False
    if isinstance(layer, nn.RReLU) or (isinstance(layer, nn.Flatten) and layer.start_dim < 1):
        return False
    if isinstance(layer, (nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.GLU)):
        return layer.dim == -1 or (layer.dim or 0) > 0  # not over the rows
    if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)) and layer.momentum is None:
        return False
    row_by_row = type(layer).__module__.startswith(("torch.nn.modules.activation", *_ROW_WISE))
    bare = not any(True for _ in layer.parameters()) and not any(True for _ in layer.buffers())
    return type(layer) in RULES or (row_by_row and bare)


_ROW_WISE = (
    "torch.nn.modules.flatten",
    "torch.nn.modules.pooling",
    "torch.nn.modules.linear",  # nn.Identity
)


class _Tracer(fx.Tracer):
    """Look into containers and the user's own modules, not into torch's layers."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m.__module__.startswith("torch.nn") and not isinstance(m, nn.Sequential)
