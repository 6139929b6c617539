"""Execute chapters again and store what they say, in a form whose `git diff` stays readable.

    python book/run.py                  every chapter
    python book/run.py multitask        one chapter
    python book/run.py --tidy           execute nothing; store every chapter in that form
    python book/run.py --check          execute nothing; say which are not stored in that form

Each chapter has a first cell that installs the package where it is missing, as on Colab, from the
repository that `_config.yml` names. Running a chapter puts it in. A cell that takes a few seconds
says so in its first line, in round numbers; running the chapter measures it again. A chapter that
raises leaves its file as it was. `make run` calls this with the pinned environment.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import psutil  # type: ignore[import-untyped]
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

BOOK = Path(__file__).parent
CELL_SECONDS = 600
LAUNCH = """\
# Where the package is missing, as on Colab, this installs it.
from importlib.util import find_spec

if find_spec("fedlab_helpers") is None:
    package = "git+{url}"
    get_ipython().run_line_magic("pip", f"install -q {package}")"""
LONG = 3  # seconds; a cell that takes longer says so
BUDGETS = (5, 10, 20, 50, 100, 200, 500)
BUDGET = re.compile(r"# Takes about (\d+) seconds\.\n")
KERNEL = {
    "display_name": "Python 3",
    "language": "python",
    "name": "python3",
}
LANGUAGE = {
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
}
# What the editor or the day left in a cell, and what the text of the book decides for it.
KEPT = ("tags", "fedlab", "mystnb", "jupyter", "editable", "slideshow")
WIDGET = "application/vnd.jupyter.widget-view+json"
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TQDM_DISABLE": "1",
    "PYTHONHASHSEED": "0",
}


def chapters(names: list[str]) -> list[Path]:
    """The notebooks of the book, or those with the given names."""
    every = sorted(BOOK.glob("*.ipynb"))
    wanted = [Path(name).stem for name in names]
    unknown = sorted(set(wanted) - {path.stem for path in every})
    if unknown:
        known = ", ".join(path.stem for path in every) or "none yet"
        raise SystemExit(
            f"There is no chapter {', '.join(unknown)}. The chapters are: {known}."
        )
    return [path for path in every if not wanted or path.stem in wanted]


def execute(path: Path) -> nbformat.NotebookNode:
    """Run a chapter from top to bottom in a fresh kernel."""
    notebook = launchable(nbformat.read(path, as_version=4))
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name=KERNEL["name"],
        resources={"metadata": {"path": str(BOOK)}},
        record_timing=False,
        store_widget_state=False,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    )
    began, ended = {}, {}

    def begins(cell_index: int, **_: Any) -> None:
        began[cell_index] = seconds_of(client)

    def ends(cell_index: int, **_: Any) -> None:
        ended[cell_index] = seconds_of(client)

    client.on_cell_execute, client.on_cell_executed = begins, ends
    client.execute()
    for number in ended:
        cell = notebook.cells[number]
        cell.source = budgeted(cell.source, ended[number] - began[number])
    return notebook


def seconds_of(client: NotebookClient) -> float:
    """What the kernel has computed so far; other work on the machine does not count."""
    kernel: Any = client.km
    times = psutil.Process(kernel.provisioner.pid).cpu_times()
    return float(times.user + times.system)


def budgeted(code: str, seconds: float) -> str:
    """The code of a cell, with a first line that says how long it takes if that is long.

    What a cell says stays while it is right within a factor of two: machines differ.
    """
    said = BUDGET.match(code)
    if said and 0.5 <= seconds / int(said[1]) <= 2:
        return code
    code = BUDGET.sub("", code, count=1) if said else code
    if seconds <= LONG:
        return code
    near = min(BUDGETS, key=lambda budget: abs(math.log(budget / seconds)))
    return f"# Takes about {near} seconds.\n{code}"


def launchable(
    notebook: nbformat.NotebookNode,
) -> nbformat.NotebookNode:
    """The notebook with a first cell, under its title, that installs the package if need be."""
    others = [cell for cell in notebook.cells if cell.get("id") != "launch"]
    notebook.cells = [*others[:1], launch_cell(), *others[1:]]
    return notebook


def launch_cell() -> nbformat.NotebookNode:
    """The first cell of every chapter; hidden on the page, folded in JupyterLab."""
    config = (BOOK.parent / "_config.yml").read_text(encoding="utf-8")
    url = yaml.safe_load(config)["repository"]["url"]
    return nbformat.v4.new_code_cell(
        LAUNCH.replace("{url}", url),
        id="launch",
        metadata={
            "tags": ["remove-cell"],
            "jupyter": {"source_hidden": True},
        },
    )


def normal(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without what changes from run to run or from machine to machine."""
    cells = []
    for number, cell in enumerate(notebook.cells):
        metadata = {
            key: cell.metadata[key] for key in KEPT if key in cell.metadata
        }
        kept = {
            "cell_type": cell.cell_type,
            "id": cell.get("id") or f"cell-{number}",
            "metadata": metadata,
            "source": cell.source,
        }
        if cell.cell_type == "code":
            kept["execution_count"] = cell.execution_count
            kept["outputs"] = outputs(cell)
        elif "attachments" in cell:
            kept["attachments"] = cell.attachments
        cells.append(kept)
    return nbformat.from_dict(
        {
            "cells": cells,
            "metadata": {"kernelspec": KERNEL, "language_info": LANGUAGE},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
    )


def outputs(cell: nbformat.NotebookNode) -> list[dict[str, Any]]:
    """The outputs of a code cell: printed text in one piece, no stderr, no live widgets."""
    kept: list[dict[str, Any]] = []
    printed: dict[str, Any] | None = None
    for output in cell.outputs:
        output = dict(output)
        if output["output_type"] == "stream":
            if output["name"] != "stdout":
                continue
            if printed is not None:
                printed["text"] += output["text"]
                continue
            printed = output
        if "data" in output:
            if WIDGET in output["data"] and set(output["data"]) <= {
                WIDGET,
                "text/plain",
            }:
                continue
            output["data"] = {
                mime: v
                for mime, v in output["data"].items()
                if mime != WIDGET
            }
        if output["output_type"] == "execute_result":
            output["execution_count"] = cell.execution_count
        output.pop("transient", None)
        kept.append(output)
    return kept


def text(notebook: nbformat.NotebookNode) -> str:
    """The notebook as it stands in its file."""
    return str(nbformat.writes(notebook)) + "\n"


def store(path: Path, notebook: nbformat.NotebookNode) -> None:
    """Write a notebook in one step: never half a file."""
    nbformat.validate(notebook)
    part = path.with_suffix(".part")
    part.write_text(text(notebook), encoding="utf-8", newline="\n")
    part.replace(path)


def run(paths: list[Path]) -> int:
    """Execute and store chapters; the number of those that failed."""
    os.environ.update(
        {k: os.environ.get(k, v) for k, v in ENVIRONMENT.items()}
    )
    if os.environ.get("FEDLAB_DATA"):
        os.environ["FEDLAB_DATA"] = os.path.abspath(
            os.environ["FEDLAB_DATA"]
        )
    failed = 0
    for path in paths:
        start = time.perf_counter()
        print(f"{path.stem} ...", end=" ", flush=True)
        try:
            notebook = execute(path)
        except (CellExecutionError, CellTimeoutError) as error:
            failed += 1
            print(
                f"failed, {path.name} is left as it was\n{error}",
                flush=True,
            )
            continue
        store(path, normal(notebook))
        print(f"{time.perf_counter() - start:.1f} s", flush=True)
    return failed


def check(paths: list[Path]) -> int:
    """Say which chapters are not stored in the normal form; their number."""
    bad = [
        path
        for path in paths
        if path.read_text(encoding="utf-8")
        != text(normal(nbformat.read(path, as_version=4)))
    ]
    for path in bad:
        print(
            f"book/{path.name} is not stored as `make run CHAPTER={path.stem}` stores it"
        )
    return len(bad)


def tidy(paths: list[Path]) -> int:
    """Store chapters in the normal form as they are, after their text was edited."""
    for path in paths:
        store(path, normal(nbformat.read(path, as_version=4)))
    return 0


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "chapter", nargs="*", help="names of chapters (default: all)"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="execute nothing, check the files",
    )
    parser.add_argument(
        "--tidy",
        action="store_true",
        help="execute nothing, tidy the files",
    )
    asked = parser.parse_args()
    paths = chapters(asked.chapter)
    return int(
        (check if asked.check else tidy if asked.tidy else run)(paths) > 0
    )


if __name__ == "__main__":
    sys.exit(main())
