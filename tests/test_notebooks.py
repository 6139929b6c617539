"""The notebooks as files: stored in one form, with what a comparison and a reader need.

That they still say the same when executed is tested by nbval, cell by cell: notebook_plugin.py.
"""

from __future__ import annotations

import re

import nbformat
import pytest
from browser import ROOT
from comparator import IGNORE_TAG, REAL_DATA_TAG, SERIES, code_cells, needs, refusals, source, tags

from fedlab_helpers.datasets import SOURCES

PATHS = sorted((ROOT / "book").glob("*.ipynb"))
NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4) for path in PATHS}
every_notebook = pytest.mark.parametrize("name", NOTEBOOKS)

PER_NOTEBOOK, IN_ALL = 2, 6
PICTURES = {"image/svg+xml", "image/png", "image/jpeg"}


def outputs(name):
    """(number of the cell, output) for every output that holds data."""
    for number, cell in enumerate(code_cells(NOTEBOOKS[name])):
        for output in cell["outputs"]:
            if "data" in output:
                yield number, cell, output


@every_notebook
def test_a_notebook_is_fit_to_be_compared(name):
    assert refusals(NOTEBOOKS[name]) == []


def test_few_cells_are_not_compared():
    ignored = {
        name: sum(IGNORE_TAG in tags(cell) for cell in code_cells(notebook))
        for name, notebook in NOTEBOOKS.items()
    }
    assert {name: n for name, n in ignored.items() if n > PER_NOTEBOOK} == {}
    assert sum(ignored.values()) <= IN_ALL


def test_notebooks_are_stored_as_make_run_stores_them():
    import importlib.util

    spec = importlib.util.spec_from_file_location("run", ROOT / "book" / "run.py")
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    different = [
        path.name
        for path in PATHS
        if path.read_text(encoding="utf-8") != run.text(run.normal(NOTEBOOKS[path.stem]))
    ]
    assert different == [], "run `make run`, or `python book/run.py --tidy` after editing text only"


def is_diagram(output):
    """Whether nothing is plotted: of a diagram, its words are compared."""
    return "".join(output["data"]["text/plain"]).startswith("[diagram: ")


@every_notebook
def test_every_figure_has_its_numbers(name):
    without = [
        number
        for number, cell, output in outputs(name)
        if PICTURES & set(output["data"])
        and SERIES not in output["data"]
        and IGNORE_TAG not in tags(cell)
        and not is_diagram(output)
    ]
    assert without == []


@every_notebook
def test_every_figure_has_its_words(name):
    without = [
        number
        for number, _, output in outputs(name)
        for svg in [output["data"].get("image/svg+xml")]
        if svg and not re.search(r'aria-label="[^"]{10,}"|<title>[^<]{10,}', svg)
    ]
    assert without == []


@every_notebook
def test_cells_that_load_real_data_say_so(name):
    downloaded = [key for key, entry in SOURCES.items() if entry.files]
    calls = re.compile(rf"\b({'|'.join(downloaded)})\(")
    silent = [
        (number, found)
        for number, cell in enumerate(code_cells(NOTEBOOKS[name]))
        for found in sorted(set(calls.findall(source(cell))))
        if found not in needs(cell) or REAL_DATA_TAG not in tags(cell)
    ]
    assert silent == []


@every_notebook
def test_the_data_that_a_cell_names_exist(name):
    named = {key for cell in code_cells(NOTEBOOKS[name]) for key in needs(cell)}
    assert named <= set(SOURCES)


@every_notebook
def test_a_notebook_starts_with_its_title(name):
    first = NOTEBOOKS[name]["cells"][0]
    assert first["cell_type"] == "markdown"
    assert first["source"].startswith("# ")


@every_notebook
def test_cells_have_names_of_their_own(name):
    ids = [cell["id"] for cell in NOTEBOOKS[name]["cells"]]
    assert len(ids) == len(set(ids))
