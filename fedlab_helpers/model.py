"""A network as a pure function of one flat parameter vector: h(x; w), the way papers write it.

Shapes used in the whole package
    w  (clients, d)   parameters of many clients, one row each; (d,) where there is only one
    x  (clients, rows, *features)   examples; (rows, *features) for one, or where all share them
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from . import closed_form, stacked
from .data import Batch
from .randomness import global_stream

STATISTICS = ("running_mean", "running_var")  # what BatchNorm remembers; part of w
BACKENDS = ("auto", "stacked", "vmap", "loop")


def cross_entropy(output: Tensor, y: Tensor) -> Tensor:
    """Loss of every example: scores (..., rows, classes), labels (..., rows) -> (..., rows)."""
    return -output.log_softmax(-1).gather(-1, y.long()[..., None])[..., 0]


def squared_error(output: Tensor, y: Tensor) -> Tensor:
    """Loss of every example: (..., rows, 1) or (..., rows), targets (..., rows) -> (..., rows)."""
    return (_one_number(output, y) - y) ** 2


def binary_cross_entropy(output: Tensor, y: Tensor) -> Tensor:
    """Loss of every example: logits (..., rows, 1), labels 0 or 1 (..., rows) -> (..., rows)."""
    logits = _one_number(output, y)
    return F.binary_cross_entropy_with_logits(logits, y.to(logits), reduction="none")


@dataclass(frozen=True)
class Score:
    """How good predictions are: `of_examples` per example, averaged, then `finish`ed.

    of_examples: (output, y) -> (..., rows), as a loss.
    """

    name: str
    of_examples: Callable[[Tensor, Tensor], Tensor]
    finish: Callable[[Tensor], Tensor] = lambda mean: mean
    higher_is_better: bool = True

    def __call__(self, output: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
        """The score of every client, (clients,): of its real examples only."""
        return self.finish(masked_mean(self.of_examples(output, y), mask))


accuracy = Score("accuracy", lambda output, y: (output.argmax(-1) == y).to(output))
binary_accuracy = Score(
    "accuracy", lambda output, y: ((_one_number(output, y) > 0) == (y > 0.5)).to(output)
)
rmse = Score("RMSE", squared_error, torch.sqrt, higher_is_better=False)


FORMULAS: dict[Callable[[Tensor, Tensor], Tensor], str] = {
    cross_entropy: "cross-entropy",
    squared_error: "squared error",
    binary_cross_entropy: "binary cross-entropy",
}


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the real examples: (..., rows), (..., rows) -> (...,)."""
    if mask is None:
        return values.mean(-1)
    return (values * mask).sum(-1) / mask.sum(-1).clamp(min=1)


class Model:
    """Turns a torch network into functions of a vector w.

    >>> model = Model(lambda: nn.Linear(2, 3))
    >>> w = model.init(0)
    >>> w.shape, model(w, torch.ones(5, 2)).shape
    (torch.Size([9]), torch.Size([5, 3]))

    build: a function that builds the network, so that every seed gets fresh weights. Parameters
        with requires_grad=False are not part of w; all clients share them.
    loss: (output, y) -> loss of every example, as `cross_entropy`.
    score: a `Score`.
    backend: how many clients are computed at once. "stacked": one batched product a layer, for
        chains of the usual layers. "vmap": torch.func.vmap, for any network. "loop": one client
        after the other, the reference. "auto" takes the fastest of these that the network allows.
    Raises TypeError where `build` is a network, ValueError for a backend the network cannot use.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
        score: Score = accuracy,
        backend: str = "auto",
    ):
        if isinstance(build, nn.Module):
            raise TypeError(
                "expected a function that builds the network, so that every seed gets fresh "
                f"weights, but got a {type(build).__name__}; write Model(lambda: ...)"
            )
        if backend not in BACKENDS:
            raise ValueError(f"expected a backend among {BACKENDS}, got {backend!r}")
        self.build, self.example_loss, self.example_score = build, loss, score
        with global_stream("initial weights", 0):  # only matters for frozen parameters
            self.learning = build().train()  # dropout on, BatchNorm uses the batch
        self.deployed = copy.deepcopy(self.learning).eval()  # dropout off, BatchNorm its memory
        self.stages = stacked.chain(self.learning) if backend in ("auto", "stacked") else None
        if self.stages and _steps(self.stages) != _steps(stacked.chain(self.deployed)):
            self.stages = None  # its forward pass asks whether it is training
        if backend == "stacked" and self.stages is None:
            raise ValueError(
                "expected a chain of the usual layers for backend='stacked', but the forward pass "
                f"of {type(self.learning).__name__} is not one; write backend='auto'"
            )
        if backend == "auto":
            heavy = stacked.is_heavy(self.stages, self.learning)
            backend = "loop" if heavy else "vmap" if self.stages is None else "stacked"
        self.backend = backend
        trained = {n: p for n, p in self.learning.named_parameters() if p.requires_grad}
        tracked = {n: b for n, b in self.learning.named_buffers() if n.endswith(STATISTICS)}
        inside = trained | tracked
        self.shapes = {name: value.shape for name, value in inside.items()}
        self.sizes = [shape.numel() for shape in self.shapes.values()]
        everything = {
            **dict(self.learning.named_parameters()),
            **dict(self.learning.named_buffers()),
        }
        self.fixed = {n: v.detach() for n, v in everything.items() if n not in inside}
        self.tracks = bool(tracked)
        self._with_rows: dict[tuple[str, int], Model] = {}
        self._named: dict[tuple[str, ...], Tensor] = {}  # what `coordinates` has found so far
        self._parts: dict[tuple[str, ...], tuple[Tensor, Tensor, Tensor]] = {}  # and `_places`
        self._own = threading.local()
        sizes = dict(zip(self.shapes, self.sizes, strict=True))
        self.formula = (
            closed_form.ChainGradient.of(self.stages, sizes, FORMULAS.get(loss))
            if backend == "stacked"
            else None
        )

    @property
    def d(self) -> int:
        """Number of parameters."""
        return sum(self.sizes)

    @property
    def shareable(self) -> bool:
        """Whether several threads may compute with it at once: no layer draws random numbers."""
        drawing = (nn.modules.dropout._DropoutNd, nn.RReLU)
        return not any(isinstance(layer, drawing) for layer in self.learning.modules())

    def init(self, *seed: int) -> Tensor:
        """Freshly drawn parameters, (d,)."""
        with global_stream("initial weights", *seed):
            w = self.flatten(self.build().state_dict())
        return w.to(next(self.learning.parameters(), w).device)

    def flatten(self, values: dict[str, Tensor]) -> Tensor:
        """Named arrays, as in a state_dict -> w (d,). The inverse of `unflatten`."""
        missing = [name for name in self.shapes if name not in values]
        if missing:
            raise KeyError(f"expected an array for each of {list(self.shapes)}, missing: {missing}")
        return torch.cat([values[name].detach().flatten() for name in self.shapes])

    def unflatten(self, w: Tensor) -> dict[str, Tensor]:
        """w (..., d) -> named arrays, each (..., *shape)."""
        if w.shape[-1] != self.d:
            raise ValueError(f"expected {self.d} parameters in the last axis, got {tuple(w.shape)}")
        pieces = w.split(self.sizes, dim=-1)
        named = zip(self.shapes.items(), pieces, strict=True)
        return {name: piece.unflatten(-1, shape or (1,)) for (name, shape), piece in named}

    def __call__(self, w: Tensor, x: Tensor) -> Tensor:
        """The network's output, as used after training.

        w (d,), x (rows, *features) -> (rows, ...); w (clients, d), x (clients, rows, *features),
        or (1, rows, *features) where all share it -> (clients, rows, ...).
        """
        return self._forward(w, x, training=False)[0]

    def losses(self, w: Tensor, batch: Batch) -> Tensor:
        """The training loss of every example of a batch, (clients, rows)."""
        output, _ = self._forward(w, batch.x, training=True)
        return self.example_loss(output, batch.y)

    def loss(self, w: Tensor, batch: Batch) -> Tensor:
        """f_k(w): mean training loss over the real examples of a batch, (clients,)."""
        return masked_mean(self.losses(w, batch), batch.mask)

    def gradient(self, w: Tensor, batch: Batch) -> Tensor:
        """The gradient of f_k at w, one row per client: (clients, d).

        By formula where the network and the loss have one, else by autograd.
        """
        if self.formula is not None and w.ndim == 2:
            return self.formula(w, *batch)
        if self.backend == "loop" and w.ndim == 2:
            return torch.stack([gradient(self.loss, *one) for one in _one_by_one(w, batch)])
        return gradient(self.loss, w, batch)

    def clipped_gradient(self, w: Tensor, batch: Batch, length: float) -> Tensor:
        """The sum over the real examples of the gradients of their losses, each shortened to
        `length` where it is longer: (clients, d).
        """
        if self.formula is not None:
            return self.formula.clipped(w, *batch, length)
        rows = batch.y.shape[1]
        each = Batch(*(v.flatten(0, 1)[:, None] for v in batch[:2]))  # examples as clients
        G = self.gradient(w.repeat_interleave(rows, 0), each).unflatten(0, (-1, rows))
        G = clipped(G, length)
        return (G if batch.mask is None else G * batch.mask[:, :, None]).sum(1)

    def embed(self, w: Tensor, x: Tensor) -> Tensor:
        """What the network's `body` makes of x, as used after training: (clients, rows, width)."""
        return self.body(w[..., self.coordinates("body.*")], x)

    @cached_property
    def body(self) -> Model:
        """The network's `body` on its own. Raises AttributeError where it has none."""
        if not isinstance(getattr(self.learning, "body", None), nn.Module):
            raise AttributeError(
                "expected a network with a `body` and a `head`, got "
                f"{type(self.learning).__name__}; write it as those in fedlab_helpers.networks"
            )
        body = Model(lambda: self.build().get_submodule("body"), backend=self.backend)
        return body.to(self._device)

    def with_rows(self, name: str, rows: int) -> Model:
        """The same network with only so many rows in the array of this name, as in an embedding."""
        if (name, rows) not in self._with_rows:

            def build() -> nn.Module:
                network = self.build()
                layer, _, part = name.rpartition(".")
                values = network.get_parameter(name)[:rows].detach()
                setattr(network.get_submodule(layer), part, nn.Parameter(values))
                return network

            small = Model(build, self.example_loss, self.example_score, self.backend)
            self._with_rows[name, rows] = small.to(self._device)
        return self._with_rows[name, rows]

    def score(self, w: Tensor, batch: Batch) -> Tensor:
        """The score (for classifiers by default: accuracy) of every client, (clients,)."""
        with torch.no_grad():
            return self.example_score(self(w, batch.x), batch.y, batch.mask)

    def track(self, w: Tensor, batch: Batch) -> Tensor:
        """w with the BatchNorm statistics moved towards those of the batch, as torch does."""
        with torch.no_grad():
            _, values = self._forward(w, batch.x, training=True)
        return torch.cat([values[name].flatten(w.ndim - 1) for name in self.shapes], dim=-1)

    @property
    def statistics(self) -> Tensor:
        """Which coordinates are BatchNorm statistics: no gradient moves them, (d,) bool."""
        return self.coordinates(*[n for n in self.shapes if n.endswith(STATISTICS)])

    def coordinates(self, *patterns: str) -> Tensor:
        """Which coordinates belong to the arrays with these names, such as "head.*" -> (d,) bool.

        Raises ValueError where a pattern matches no array.
        """
        for pattern in patterns:
            if not any(fnmatch(name, pattern) for name in self.shapes):
                raise ValueError(
                    f"expected the name of an array of the network, but none matches {pattern!r}; "
                    f"there are: {', '.join(self.shapes)}"
                )
        if patterns not in self._named:
            hits = [any(fnmatch(name, pattern) for pattern in patterns) for name in self.shapes]
            chosen = torch.tensor(hits).repeat_interleave(torch.tensor(self.sizes))
            self._named[patterns] = chosen.to(self._device)
        return self._named[patterns]

    @property
    def norm_arrays(self) -> tuple[str, ...]:
        """Names of the arrays of the normalisation layers. Raises ValueError if there are none."""
        norms = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
        layers = [n for n, layer in self.learning.named_modules() if isinstance(layer, norms)]
        found = tuple(n for n in self.shapes if n.rpartition(".")[0] in layers)
        if not found:
            raise ValueError(
                "expected a network with a normalisation layer that learns, but there is none "
                f"among the arrays {', '.join(self.shapes)}"
            )
        return found

    def split(self, w: Tensor, *patterns: str) -> tuple[Tensor, Tensor]:
        """w (..., d) -> (the other coordinates, the coordinates of the arrays with these names)."""
        others, named, _ = self._places(patterns)
        return w.index_select(-1, others), w.index_select(-1, named)

    def join(self, others: Tensor, named: Tensor, *patterns: str) -> Tensor:
        """The inverse of `split`."""
        return torch.cat([others, named], dim=-1).index_select(-1, self._places(patterns)[2])

    def to(self, device: str | torch.device) -> Model:
        """Move the network (frozen parameters, buffers) to another device, in place."""
        if torch.device(device) == self._device:
            return self
        self.learning.to(device), self.deployed.to(device)
        self._own = threading.local()
        self._named, self._parts = {}, {}
        self.fixed = {name: value.to(device) for name, value in self.fixed.items()}
        return self

    @property
    def _device(self) -> torch.device:
        return next(self.learning.parameters(), torch.empty(0)).device

    def _places(self, patterns: tuple[str, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Where the other coordinates are, and those named; and the order that joins them again."""
        if patterns not in self._parts:
            named = self.coordinates(*patterns) if patterns else torch.zeros(self.d).bool()
            mine, rest = (v.nonzero().flatten().to(self._device) for v in (named, ~named))
            self._parts[patterns] = rest, mine, torch.cat([rest, mine]).argsort()
        return self._parts[patterns]

    def _forward(self, w: Tensor, x: Tensor, training: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """The output, and the arrays after it: in training, BatchNorm moves its statistics."""
        if w.ndim == 1:
            return self._one(w, x, training)
        if len(x) not in (1, len(w)):
            raise ValueError(
                f"expected x with a first axis of {len(w)} clients (or 1, shared by all) for "
                f"{len(w)} rows of parameters, got {tuple(x.shape)}; write x[None] to share it"
            )
        x = x.expand(len(w), *x.shape[1:])
        if self.backend == "stacked":
            fixed = {n: v.expand(len(w), *v.shape) for n, v in self.fixed.items()}
            values = {**fixed, **self.unflatten(w)}
            return stacked.forward(self.stages or [], values, x, training), values
        if self.backend == "vmap":
            one = partial(self._one, training=training)
            return vmap(one, randomness="different")(w, x)
        each = [self._one(*one, training) for one in zip(w, x, strict=True)]
        arrays = {name: torch.stack([values[name] for _, values in each]) for name in self.shapes}
        return torch.stack([output for output, _ in each]), arrays

    def _one(self, w: Tensor, x: Tensor, training: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """As `_forward`, for one client, with the network's own forward: w (d,)."""
        values = {
            name: value.detach().clone() if name.endswith(STATISTICS) else value
            for name, value in self.unflatten(w).items()
        }
        fixed = {name: value.clone() for name, value in self.fixed.items()}
        return functional_call(self._network(training), {**fixed, **values}, (x,)), values

    def _network(self, training: bool) -> nn.Module:
        """Each thread's own: `functional_call` puts the parameters into the network for a while."""
        if not hasattr(self._own, "networks"):
            self._own.networks = copy.deepcopy((self.deployed, self.learning))
        return self._own.networks[training]


def gradient(
    f: Callable[..., Tensor], w: Tensor, *arguments: Any, create_graph: bool = False
) -> Tensor:
    """The gradient of f(w, *arguments) with respect to w: one row per client, shaped like w.

    f returns one number per client, and no number depends on another client's row; so the gradient
    of the sum holds every client's own. create_graph: keep it differentiable (for Hessians).
    """
    with torch.enable_grad():
        if not (create_graph and w.requires_grad):
            w = w.detach().requires_grad_()
        (g,) = torch.autograd.grad(f(w, *arguments).sum(), w, create_graph=create_graph)
    return g


def clipped(vectors: Tensor, length: float) -> Tensor:
    """Shorten the vectors in the last axis that are longer than `length`."""
    norm = vectors.norm(dim=-1, keepdim=True)
    return vectors * (length / norm.clamp(min=1e-12)).clamp(max=1)


def _steps(stages: list[stacked.Stage] | None) -> list[tuple[str, tuple]] | None:
    """Which layers a chain goes through."""
    return None if stages is None else [(stage.name, stage.arguments) for stage in stages]


def _one_by_one(w: Tensor, batch: Batch) -> list[tuple[Tensor, Batch]]:
    """Every client's parameters and batch on their own."""
    masks = [None] * len(w) if batch.mask is None else batch.mask
    return [(w[k], Batch(batch.x[k], batch.y[k], masks[k])) for k in range(len(w))]


def _one_number(output: Tensor, y: Tensor) -> Tensor:
    """Drop a last axis of one: (..., rows, 1) -> (..., rows)."""
    if output.shape == y.shape:
        return output
    if output.shape == (*y.shape, 1):
        return output[..., 0]
    raise ValueError(
        f"expected one number per example, of shape {(*y.shape, 1)} or {tuple(y.shape)}, but the "
        f"network gives {tuple(output.shape)}; its last layer needs one output"
    )
