"""The status page says what the notebooks are now; only seconds and versions are of another day."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import date

import nbformat
import pytest
from browser import ROOT
from comparator import SERIES
from status import PAGE, Facts, chapters, page

FACTS = chapters()
COUNTS = re.compile(r"^\| \[(.+)\]\((\w+)\.ipynb\) \| (.+) \| \d+ \|$", re.MULTILINE)


def counts(text: str) -> dict[str, str]:
    """The counts that a page gives for each chapter."""
    return {name: numbers for _, name, numbers in COUNTS.findall(text)}


def notebook(*codes: str, outputs: tuple = (), **metadata: object) -> nbformat.NotebookNode:
    v4 = nbformat.v4
    cells = [v4.new_code_cell(code, metadata=metadata, outputs=list(outputs)) for code in codes]
    return v4.new_notebook(cells=[v4.new_markdown_cell("# Title\n\nText."), *cells])


def test_the_status_page_is_about_the_notebooks_as_they_are() -> None:
    now = counts(page(FACTS, dict.fromkeys(FACTS, 0.0), "", date(2000, 1, 1)))
    assert counts(PAGE.read_text(encoding="utf-8")) == now, "run `make status`"


def test_every_cell_that_is_not_compared_says_why() -> None:
    silent = {n: [c for c, why in f.ignored if len(why) < 10] for n, f in FACTS.items()}
    assert {n: cells for n, cells in silent.items() if cells} == {}, (
        'write "fedlab": {"why": "..."}'
    )


def test_cells_claims_and_seeds_are_counted() -> None:
    facts = Facts.of(
        notebook("SEEDS = range(5)\n%time 1", "for i in SEEDS:\n    assert i < 5\nassert SEEDS")
    )
    assert facts == Facts("Title", cells=2, ignored=(), curves=0, claims=2, seeds=5)


@pytest.mark.parametrize(
    ("code", "seeds"),
    [
        ("fl.compare(a, b, c, 3)", 3),
        ("fl.compare(a, b, c, 3, seeds=(1, 2, 3, 4))", 4),
        ("fl.simulate(a, b, c, seed=2)", 1),
    ],
)
def test_the_seeds_of_an_experiment_are_found(code: str, seeds: int) -> None:
    assert Facts.of(notebook(code)).seeds == seeds


def test_curves_are_counted() -> None:
    curve = {"label": "", "x": [1.0], "y": [2.0]}
    figure = nbformat.v4.new_output(
        "display_data", data={SERIES: {"axes": [{"series": [curve, curve]}, {"series": [curve]}]}}
    )
    assert Facts.of(notebook("1", outputs=(figure,))).curves == 3


def test_cells_that_are_not_compared_are_named_with_their_reason() -> None:
    facts = Facts.of(
        notebook("1", tags=["nbval-ignore-output"], fedlab={"why": "shows the time of day"})
    )
    assert facts.ignored == ((0, "shows the time of day"),)
    text = page({"a": facts}, {"a": 1.0}, "", date(2000, 1, 1))
    assert "- Title, code cell 1: shows the time of day" in text


def test_a_page_is_not_written_from_part_of_the_book() -> None:
    before = PAGE.read_text(encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "--status", "-q", "tests/test_skipping.py"]
    alone = {name: v for name, v in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=alone)
    assert done.returncode == 1
    assert "book/status.md is left as it was" in done.stdout
    assert PAGE.read_text(encoding="utf-8") == before
