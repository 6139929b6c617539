"""All algorithms in one table, made from the classes themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .algorithms import FedAvg
from .data import Federation
from .model import Model
from .states import State, leaves, tree


def at_a_glance(algorithms: Sequence[FedAvg], model: Model, federation: Federation) -> Any:
    """What each algorithm moves, keeps and costs, measured on one client, as a pandas DataFrame.

    Numbers are in units of d, the parameters of the model. Passes: how often an example goes
    through the network in one round, in units of FedAvg's. Lines: of the class, without its
    docstring. Where: the source that the docstring gives.
    """
    import pandas

    lines = {a.name: _row(a, model, federation) for a in algorithms}
    one = _row(FedAvg(), model, federation)["passes"]
    for line in lines.values():
        line["passes"] = f"{line['passes'] / one:.3g}"
    return pandas.DataFrame.from_dict(lines, orient="index")


def in_words(algorithms: Sequence[FedAvg]) -> None:
    """Show the first paragraph of every algorithm's docstring, as a list."""
    from IPython.display import publish_display_data

    firsts = {a.name: " ".join((a.__doc__ or "").split("\n\n")[0].split()) for a in algorithms}
    text = "\n".join(f"- **{name}** {escaped(words)}" for name, words in firsts.items())
    publish_display_data({"text/markdown": text, "text/plain": text})


def escaped(words: str) -> str:
    """Formulas in plain text that Markdown would take for something else."""
    return re.sub(r"([*_|^$])", r"\\\1", words)


def _row(algorithm: FedAvg, model: Model, federation: Federation) -> dict[str, Any]:
    """One line of the table."""
    counted, client = _Counting(model), torch.arange(1)
    a = algorithm
    server, kept = a.init(counted, 0)
    sent = a.address(counted, server, client)
    data = federation.local(client, a.batch_size, a.epochs, 0, 1, a.steps)
    counted.passes = 0
    upload, _ = a.client_update(counted, sent, tree(lambda v: v[None], kept), data)
    return {
        "server to client": _in_d(_count(sent), model.d),
        "client to server": _in_d(a.sent(counted, upload), model.d),
        "stays": _in_d(_count(kept), model.d),
        "passes": counted.passes / data.epochs,
        "lines": _lines_of_code(type(a)),
        "where": _citation(type(a)),
    }


class _Counting(Model):
    """A model that counts how many examples go through it."""

    def __init__(self, model: Model):
        super().__init__(model.build, model.example_loss, model.example_score)
        self.formula, self.passes = None, 0  # autograd goes through the network

    def embed(self, w: Tensor, x: Tensor) -> Tensor:
        self.passes += x.shape[0] * x.shape[1]
        return super().embed(w, x)

    def _forward(self, w: Tensor, x: Tensor, training: bool) -> Any:
        self.passes += x.shape[0] * x.shape[1]
        return super()._forward(w, x, training)


def _count(state: State) -> int:
    return sum(v.numel() for v in leaves(state))


def _in_d(numbers: int, d: int) -> str:
    return f"{numbers / d:.3g} d" if numbers else "-"


def _lines_of_code(cls: type) -> int:
    """Lines of a class that are neither blank, nor a comment, nor its docstring."""
    import ast
    from inspect import getsource
    from textwrap import dedent

    tree_of_class = ast.parse(dedent(getsource(cls)))
    for node in ast.walk(tree_of_class):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return sum(bool(line.strip()) for line in ast.unparse(tree_of_class).splitlines())


def _citation(cls: type) -> str:
    """Who, where and when: from the first sentence of the docstring that holds a year."""
    text = " ".join((cls.__doc__ or "").split())
    sentences = re.split(r"(?<=[a-z0-9)])\. ", text)
    dated = next((s for s in sentences if re.search(r"\b(19|20)\d\d\b", s)), "")
    place = re.search(r"(?:\b[A-Z][a-z]*[A-Z]\w* )?\b(?:19|20)\d\d\b", dated)
    if place is None:
        return ""
    before = dated[: place.start()].removeprefix("After ").strip(" ,")
    authors = re.split(r", | and ", before)
    who = " and ".join(authors) if len(authors) < 3 else f"{authors[0]} et al."
    return f"{who}, {place.group(0)}"
