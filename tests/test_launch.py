"""Launch buttons: where they lead, and what the first cell of a chapter does when it gets there."""

from __future__ import annotations

import importlib.util
import os
import re
import tomllib
from pathlib import Path
from types import ModuleType
from unittest.mock import Mock

import nbformat
import pytest
import yaml
from browser import ROOT, pages

CHAPTERS = [page for page in pages() if (ROOT / f"{page}.ipynb").is_file()]
URL = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
OTHER_NAME = {"torch": "pytorch-cpu"}


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_chapter_starts_with_the_cell_that_installs_the_package(
    run: ModuleType, chapter: str
) -> None:
    title, first, *_ = nbformat.read(ROOT / f"{chapter}.ipynb", as_version=4).cells
    wanted = run.launch_cell()
    assert title.cell_type == "markdown"
    assert (first.id, first.source) == (wanted.id, wanted.source), "run `make run`"
    assert first.metadata == wanted.metadata
    assert first.outputs == []


def test_the_cell_installs_nothing_where_the_package_is(
    run: ModuleType, capsys: pytest.CaptureFixture
) -> None:
    shell = Mock()
    exec(run.launch_cell().source, {"get_ipython": lambda: shell})
    assert shell.mock_calls == []
    assert capsys.readouterr() == ("", "")


def test_the_cell_installs_the_package_where_it_is_missing(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = Mock()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    exec(run.launch_cell().source, {"get_ipython": lambda: shell})
    shell.run_line_magic.assert_called_once_with("pip", f"install -q git+{URL}")


def test_a_chapter_is_given_the_cell_once(run: ModuleType) -> None:
    v4 = nbformat.v4
    notebook = v4.new_notebook(cells=[v4.new_markdown_cell("# Title"), v4.new_code_cell("1")])
    once = [cell.source for cell in run.launchable(notebook).cells]
    assert once == ["# Title", run.launch_cell().source, "1"]
    assert [cell.source for cell in run.launchable(notebook).cells] == once


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_buttons_of_a_chapter_lead_to_its_notebook(book: Path, chapter: str) -> None:
    owner_and_name = URL.removeprefix("https://github.com/")
    page = (book / f"{chapter}.html").read_text(encoding="utf-8")
    links = set(re.findall(r'href="(https://(?:colab|mybinder)[^"]*)"', page))
    assert links == {
        f"https://colab.research.google.com/github/{owner_and_name}/blob/main/{chapter}.ipynb",
        f"https://mybinder.org/v2/gh/{owner_and_name}/main?urlpath=lab/tree/{chapter}.ipynb",
    }


def test_binder_installs_what_the_package_needs() -> None:
    binder = ROOT / ".binder"
    text = (binder / "environment.yml").read_text(encoding="utf-8")
    *conda, pip = yaml.safe_load(text)["dependencies"]
    installed = {re.split("=", name)[0] for name in conda + pip["pip"]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {re.split("[><=]", name)[0] for name in project["dependencies"]}
    assert {OTHER_NAME.get(name, name) for name in wanted} <= installed
    assert os.access(binder / "postBuild", os.X_OK)
