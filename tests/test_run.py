"""What `make run` writes into a chapter about how long its cells take."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import nbformat
import pytest


@pytest.mark.parametrize(
    ("seconds", "said"), [(3.1, 5), (6.9, 5), (7.2, 10), (14, 10), (15, 20), (40, 50), (600, 500)]
)
def test_a_long_cell_says_how_long_in_round_numbers(
    run: ModuleType, seconds: float, said: int
) -> None:
    assert run.budgeted("train()", seconds) == f"# Takes about {said} seconds.\ntrain()"


@pytest.mark.parametrize("seconds", [0.0, 2.9])
def test_a_short_cell_says_nothing(run: ModuleType, seconds: float) -> None:
    assert run.budgeted("train()", seconds) == "train()"


@pytest.mark.parametrize("seconds", [5.1, 10, 19.9])
def test_what_is_said_stays_while_it_is_nearly_right(run: ModuleType, seconds: float) -> None:
    code = "# Takes about 10 seconds.\ntrain()"
    assert run.budgeted(code, seconds) == code


@pytest.mark.parametrize(("seconds", "head"), [(1, ""), (4, "# Takes about 5 seconds.\n")])
def test_what_is_no_longer_right_is_put_right(run: ModuleType, seconds: float, head: str) -> None:
    assert run.budgeted("# Takes about 10 seconds.\ntrain()", seconds) == f"{head}train()"


def test_running_a_chapter_measures_each_of_its_cells(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    v4 = nbformat.v4
    cells = [v4.new_code_cell("pass"), v4.new_code_cell("sum(range(10**7))")]
    path = tmp_path / "chapter.ipynb"
    nbformat.write(v4.new_notebook(cells=[v4.new_markdown_cell("# Title"), *cells]), path)
    seconds = []
    monkeypatch.setattr(run, "budgeted", lambda code, s: seconds.append((code, s)) or f"# {code}")
    notebook = run.execute(path)
    sources = [cell.source for cell in notebook.cells]
    assert sources[2:] == ["# pass", "# sum(range(10**7))"]
    measured = dict(seconds)
    assert 0 <= measured["pass"] < measured["sum(range(10**7))"]
