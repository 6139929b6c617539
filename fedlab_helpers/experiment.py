"""Several algorithms, several seeds, one table: how every comparison in the book is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import isnan
from typing import Any

import torch
from torch import Tensor

from .algorithms.base import FedAvg
from .algorithms.personal import FineTuning
from .data import Federation
from .engine import repeat
from .history import History
from .model import Model


@dataclass(frozen=True, repr=False)
class Comparison:
    """The histories of several algorithms, each run with the same seeds.

    histories: name -> one History per seed. Scores are those of the last evaluation, after
    personalisation, on every client's own test data.
    """

    histories: dict[str, list[History]]

    def __getitem__(self, name: str) -> list[History]:
        """The histories of one algorithm, one per seed."""
        if name not in self.histories:
            raise KeyError(f"expected one of {list(self.histories)}, got {name!r}")
        return self.histories[name]

    def clients(self, name: str) -> Tensor:
        """Every client's score, (seeds, clients)."""
        return torch.stack([history.after[-1] for history in self[name]])

    def mean(self, name: str) -> Tensor:
        """The average trained client's score, (seeds,)."""
        return torch.stack([history.mean[-1] for history in self[name]])

    def worst(self, name: str, fraction: float = 0.1) -> Tensor:
        """The worst-served trained clients' mean score, (seeds,)."""
        return torch.stack([history.worst(fraction)[-1] for history in self[name]])

    def held_out(self, name: str) -> Tensor:
        """The average held-out client's score, (seeds,)."""
        return torch.stack([history.mean_held_out[-1] for history in self[name]])

    def margin(self, better: str, than: str, of: str = "mean") -> Tensor:
        """By how much one algorithm beats another, seed by seed, (seeds,); positive: it does.

        of: "mean", "worst" or "held_out".
        """
        sign = 1 if self[better][0].score.higher_is_better else -1
        return sign * (getattr(self, of)(better) - getattr(self, of)(than))

    def table(self) -> Any:
        """One line per algorithm: mean over seeds +- standard deviation, as a pandas DataFrame.

        Sent: numbers per training client over the whole run, to the server and from it.
        """
        import pandas

        rows = {}
        for name, runs in self.histories.items():
            clients = len(runs[0].trained)
            rows[name] = {
                f"{runs[0].score.name}, mean client": _spread(self.mean(name)),
                "worst tenth": _spread(self.worst(name)),
                "new clients": _spread(self.held_out(name)) if runs[0].held_out else "",
                "sent up": f"{runs[0].sent_up[-1] / clients:,.0f}",
                "sent down": f"{runs[0].sent_down[-1] / clients:,.0f}",
            }
        table = pandas.DataFrame.from_dict(rows, orient="index")
        return table if table["new clients"].any() else table.drop(columns="new clients")

    def __repr__(self) -> str:
        return self.table().to_string()

    def _repr_html_(self) -> str:
        return self.table().to_html()


def compare(
    algorithms: Sequence[FedAvg] | Mapping[str, FedAvg],
    model: Model,
    federation: Federation | Callable[[int], Federation],
    rounds: int,
    seeds: Iterable[int] = range(3),
    **options: Any,
) -> Comparison:
    """Simulate every algorithm with every seed.

    algorithms: a list, named by their `name`, or {name: algorithm}. federation: the same for all
    seeds, or a function of the seed. options: as for `repeat`. FedAvg is not simulated again where
    FedAvg + fine-tuning trains in the same way: it is what that scores before fine-tuning.
    Raises ValueError where two algorithms of a list have the same name.
    """
    data, named = _of_each(federation, seeds := list(seeds)), _named(algorithms)
    tuners = {_untuned(a): name for name, a in named.items() if type(a) is FineTuning}
    twins = {name: tuners[a] for name, a in named.items() if type(a) is FedAvg and a in tuners}
    done = {
        name: repeat(a, model, data.__getitem__, rounds, seeds, **options)
        for name, a in named.items()
        if name not in twins
    }
    for name, tuner in twins.items():
        done[name] = [replace(h, algorithm=named[name], after=h.before) for h in done[tuner]]
    return Comparison({name: done[name] for name in named})


def grid(algorithm: FedAvg, **values: Iterable[Any]) -> list[FedAvg]:
    """Variants of an algorithm, one for every combination of values; `lr` is its optimiser's.

    >>> grid(FedProx(), lr=[0.1, 0.3], mu=[0.01, 0.1])  # four of them
    """
    variants = [algorithm]
    for name, choices in values.items():
        chosen = list(choices)
        variants = [_with(a, name, value) for a in variants for value in chosen]
    return variants


def tune(
    candidates: Sequence[FedAvg],
    model: Model,
    federation: Federation | Callable[[int], Federation],
    rounds: int,
    seeds: Iterable[int] = range(1),
    held_out: Iterable[int] = (),
    **options: Any,
) -> FedAvg:
    """The candidate with the best mean score on rows held out of the training data.

    Neither the test rows nor the held-out clients are looked at, nor clients with a single row.
    The others are numbered anew, from 0: so count in [(model, client numbers), ...].
    Candidates whose training diverges are out of the race; ArithmeticError if all of them are.
    """
    (best,) = _best(candidates, ("mean",), model, federation, rounds, seeds, held_out, options)
    return best


def tune_both(
    candidates: Sequence[FineTuning],
    model: Model,
    federation: Federation | Callable[[int], Federation],
    rounds: int,
    seeds: Iterable[int] = range(1),
    held_out: Iterable[int] = (),
    **options: Any,
) -> tuple[FedAvg, FineTuning]:
    """The best FedAvg, and the best FedAvg + fine-tuning, each chosen as by `tune`.

    Every candidate trains once: before fine-tuning its scores are those of FedAvg.
    """
    marks = ("mean_before", "mean")
    first, second = _best(candidates, marks, model, federation, rounds, seeds, held_out, options)
    return _untuned(first), second


def _best(
    candidates: Sequence[Any],
    marks: Sequence[str],
    model: Model,
    federation: Federation | Callable[[int], Federation],
    rounds: int,
    seeds: Iterable[int],
    held_out: Iterable[int],
    options: dict[str, Any],
) -> list[Any]:
    """The best candidate by each of these curves of a `History`, as `tune` says."""
    if not candidates:
        raise ValueError("expected at least one candidate, got none")
    if len(candidates) == 1:
        return [candidates[0]] * len(marks)
    absent, tuning = set(held_out), {}
    for s, data in _of_each(federation, seeds).items():
        there = [k for k, n in enumerate(data.sizes.tolist()) if n > 1 and k not in absent]
        tuning[s] = data.select(there).for_tuning(seed=s)
    worst, points = -float("inf"), []
    for algorithm in candidates:
        try:
            runs = repeat(algorithm, model, tuning.__getitem__, rounds, tuning, **options)
        except ArithmeticError:
            points.append([worst] * len(marks))
            continue
        sign = 1 if runs[0].score.higher_is_better else -1
        ends = [[float(getattr(run, mark)[-1]) for run in runs] for mark in marks]
        means = [sign * float(torch.tensor(end, dtype=torch.float64).mean()) for end in ends]
        points.append([worst if isnan(mean) else mean for mean in means])
    columns = [*zip(*points, strict=True)]
    if worst in map(max, columns):
        raise ArithmeticError(
            f"all {len(candidates)} candidates diverged; try smaller learning rates"
        )
    return [candidates[column.index(max(column))] for column in columns]


def _untuned(algorithm: FineTuning) -> FedAvg:
    """The FedAvg that trains in the same way."""
    return FedAvg(**{field.name: getattr(algorithm, field.name) for field in fields(FedAvg)})


def _of_each(
    federation: Federation | Callable[[int], Federation], seeds: Iterable[int]
) -> dict[int, Federation]:
    """The data of every seed, made once."""
    if isinstance(federation, Federation):
        return dict.fromkeys(seeds, federation)
    return {s: federation(s) for s in seeds}


def _with(algorithm: FedAvg, name: str, value: Any) -> FedAvg:
    if name == "lr":
        return replace(algorithm, optimiser=replace(algorithm.optimiser, lr=value))
    return replace(algorithm, **{name: value})


def _named(algorithms: Sequence[FedAvg] | Mapping[str, FedAvg]) -> dict[str, FedAvg]:
    if isinstance(algorithms, Mapping):
        return dict(algorithms)
    named = {a.name: a for a in algorithms}
    if len(named) < len(algorithms):
        names = [a.name for a in algorithms]
        raise ValueError(f"expected different names, got {names}; give a dict {{name: algorithm}}")
    return named


def _spread(values: Tensor) -> str:
    if len(values) == 1:
        return f"{values.item():.3f}"
    return f"{values.mean():.3f} ± {values.std():.3f}"
