"""What the comparison of the chapters has found, as a page of the book.

This is a plugin of pytest. Every run that compares chapters stores its table in _build/status.md.
With --status (`make status`) the run writes book/status.md too; it refuses to where a cell failed
or could not run, or where a chapter is missing.
"""

from __future__ import annotations

import ast
import os
import platform
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Any

import nbformat
import pytest
from browser import ROOT, pages
from comparator import IGNORE_TAG, SERIES, code_cells, source, tags

PAGE = ROOT / "book" / "status.md"
MINUTES = 5  # what running the whole book may take
VERSIONS = ("torch", "numpy", "pandas", "scikit-learn", "matplotlib", "ipywidgets", "nbval")


# --- what a notebook holds -----------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """What can be counted in a stored notebook. ignored: (number of the cell, why)."""

    title: str
    cells: int
    ignored: tuple[tuple[int, str], ...]
    curves: int
    claims: int
    seeds: int

    @classmethod
    def of(cls, notebook: Mapping[str, Any]) -> Facts:
        cells = code_cells(notebook)
        trees = [ast.parse(plain(source(cell))) for cell in cells]
        outputs = [output.get("data", {}) for cell in cells for output in cell["outputs"]]
        return cls(
            title=notebook["cells"][0]["source"].splitlines()[0].removeprefix("# "),
            cells=len(cells),
            ignored=tuple(
                (number, cell["metadata"].get("fedlab", {}).get("why", ""))
                for number, cell in enumerate(cells)
                if IGNORE_TAG in tags(cell)
            ),
            curves=sum(count_curves(data[SERIES]) for data in outputs if SERIES in data),
            claims=sum(isinstance(node, ast.Assert) for tree in trees for node in ast.walk(tree)),
            seeds=max((count for tree in trees for count in seeds(tree)), default=1),
        )


def plain(code: str) -> str:
    """The code of a cell without its lines for IPython."""
    return "\n".join(line for line in code.splitlines() if not line.lstrip().startswith(("%", "!")))


def count_curves(value: Any) -> int:
    """How many lists of plotted points a figure has attached."""
    if isinstance(value, Mapping):
        return 1 if {"x", "y"} <= set(value) else sum(map(count_curves, value.values()))
    return sum(map(count_curves, value)) if isinstance(value, list) else 0


def seeds(tree: ast.Module) -> Iterator[int]:
    """With how many seeds the experiments of a cell are repeated, where it says so."""
    from fedlab_helpers import compare

    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name(id="SEEDS")], value=value):
                yield length(value)
            case ast.keyword(arg="seeds", value=value):
                yield length(value)
            case ast.Call(func=ast.Attribute(attr="compare") | ast.Name(id="compare")):
                if "seeds" not in [k.arg for k in node.keywords]:
                    yield len(signature(compare).parameters["seeds"].default)


def length(node: ast.expr) -> int:
    """How many values `range(3)` or `(0, 1, 2)` has; 1 for what is not written out."""
    match node:
        case ast.Call(func=ast.Name(id="range"), args=[*bounds]):
            return len(range(*map(ast.literal_eval, bounds)))
        case ast.Tuple(elts=elements) | ast.List(elts=elements):
            return len(elements)
    return 1


def chapters() -> dict[str, Facts]:
    """The facts of every notebook of the book, in reading order."""
    paths = [path for page in pages() if (path := ROOT / f"{page}.ipynb").is_file()]
    return {path.stem: Facts.of(nbformat.read(path, as_version=4)) for path in paths}


# --- the page ------------------------------------------------------------------------------------


INTRODUCTION = """\
<!-- Written by `make status`. Do not edit. -->

# Status

On {day} every chapter was run from top to bottom, and what its cells say now was compared with
what is stored and shown in this book: text letter by letter, numbers and the points of every curve
within a thousandth. All agreed. A claim is an assertion that a sentence of the chapter rests on;
one in a loop counts once. Seconds include the start of Python.
"""
COLUMNS = ("Cells compared", "Not compared", "Curves compared", "Claims asserted")


def page(facts: Mapping[str, Facts], seconds: Mapping[str, float], where: str, day: date) -> str:
    """The page, for the chapters of which the seconds are known."""
    known = {name: f for name, f in facts.items() if name in seconds}
    counts = {
        name: (f.cells - len(f.ignored), len(f.ignored), f.curves, f.claims)
        for name, f in known.items()
    }
    total = sum(seconds[name] for name in known)
    sums = [sum(column) for column in zip(*counts.values(), strict=True)]
    lines = [
        INTRODUCTION.format(day=f"{day.day} {day:%B %Y}"),
        row("Chapter", *COLUMNS, "Seeds", "Seconds"),
        "|---" + "|--:" * 6 + "|",
        *(
            row(f"[{f.title}]({name}.ipynb)", *counts[name], f.seeds, round(seconds[name]))
            for name, f in known.items()
        ),
        row("**All**", *sums, "", round(total)),
        "",
        f"In all {total / 60:.1f} minutes of computing, {where}; the book allows itself {MINUTES}.",
        "",
        *reasons(known),
        "## Versions",
        "",
        row("Package", "Version"),
        row("---", "---"),
        row("Python", platform.python_version()),
        *(row(name, version(name)) for name in VERSIONS),
        "",
    ]
    return "\n".join(lines)


def row(*cells: object) -> str:
    """A line of a table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def reasons(facts: Mapping[str, Facts]) -> list[str]:
    """Why some cells are run but not compared."""
    items = [
        f"- {f.title}, code cell {number + 1}: {why or 'no reason given'}"
        for f in facts.values()
        for number, why in f.ignored
    ]
    return ["## Cells not compared", "", *items, ""] if items else ["Every cell is compared.", ""]


# --- the run -------------------------------------------------------------------------------------


class Run:
    """What happened to the cells of each chapter in this run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.passed: dict[str, set[str]] = defaultdict(set)
        self.obstacles: list[str] = []
        self.said: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        path, _, cell = report.nodeid.partition("::")
        if not path.endswith(".ipynb"):
            return
        name = Path(path).stem
        self.seconds[name] += report.duration
        if report.when == "call" and report.passed:
            self.passed[name].add(cell)
        elif not report.passed:
            self.obstacles.append(f"{report.nodeid} {report.outcome}")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        config = session.config
        if not (self.seconds or config.getoption("--status")):
            return
        facts = chapters()
        # Only chapters all of whose cells ran and agreed.
        whole = {n: self.seconds[n] for n, f in facts.items() if len(self.passed[n]) == f.cells}
        workers = getattr(config.option, "numprocesses", None) or 1
        at_once = "one chapter" if workers == 1 else f"{workers} chapters"
        where = f"{at_once} at a time on {os.cpu_count()} processor cores"
        if whole:
            text = page(facts, whole, where, date.today())
            store(ROOT / "_build" / "status.md", text)
            self.said.append("chapters compared: the table is in _build/status.md")
        if config.getoption("--status"):
            missing = [name for name in facts if name not in whole]
            if missing:
                why = "; ".join(self.obstacles[:3]) or "they were not run"
                self.said.append(
                    "book/status.md is left as it was, because not every cell ran and agreed in "
                    f"{', '.join(missing)}: {why}"
                )
                session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
            else:
                store(PAGE, text)
                self.said.append("book/status.md is written")

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for line in self.said:
            terminalreporter.write_line(line)


def store(path: Path, text: str) -> None:
    """Write a page, and the folder it is in."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--status", action="store_true", help="write book/status.md from this run")


def pytest_configure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        config.pluginmanager.register(Run(), "status of the chapters")
