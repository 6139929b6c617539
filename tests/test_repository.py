"""The parts of the project agree with each other, and hold nothing that does not belong in them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import mutants
import pytest
import yaml
from browser import ROOT, pages

import fedlab_helpers
from fedlab_helpers import algorithms

BOOK = ROOT / "book"
TEXT = {
    ".py",
    ".md",
    ".toml",
    ".txt",
    ".yml",
    ".yaml",
    ".cff",
    ".css",
    ".svg",
    ".bib",
    ".ipynb",
    "",
}


def tracked() -> list[Path]:
    """The files of the project: what git knows or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this copy of the project is not under git")
    paths = (ROOT / name for name in listed.stdout.split("\0") if name)
    return [path for path in paths if path.is_file()]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# --- versions ------------------------------------------------------------------------------------


def test_the_version_is_the_same_everywhere():
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    assert yaml.safe_load(read("CITATION.cff"))["version"] == version
    assert fedlab_helpers.__version__ == version


def test_every_requirement_is_pinned():
    lines = [re.sub("#.*", "", line).strip() for line in read("requirements.txt").splitlines()]
    assert [line for line in lines if line and not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []


def test_the_package_and_the_environment_want_the_same():
    pinned = {line.split("==")[0] for line in read("requirements.txt").splitlines() if "==" in line}
    wanted = tomllib.loads(read("pyproject.toml"))["project"]["dependencies"]
    assert {re.split("[><=]", name)[0] for name in wanted} <= pinned


# --- the book ------------------------------------------------------------------------------------


def test_every_page_of_the_table_of_contents_exists():
    missing = [
        p for p in pages() if not any((ROOT / f"{p}{e}").is_file() for e in (".md", ".ipynb"))
    ]
    assert missing == []


def test_every_notebook_is_in_the_table_of_contents():
    notebooks = {f"book/{path.stem}" for path in BOOK.glob("*.ipynb")}
    assert notebooks - set(pages()) == set()


def test_the_map_of_the_book_names_every_page():
    index = (BOOK / "index.md").read_text(encoding="utf-8")
    others = [Path(page).name for page in pages() if page != "book/index"]
    assert [page for page in others if not re.search(rf"\]\({page}(\.md|\.ipynb)?\)", index)] == []


def test_every_module_is_in_the_reference():
    package = ROOT / "fedlab_helpers"
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in package.rglob("*.py")
        if path.name != "__init__.py"
    }
    shown = set(re.findall(r"automodule:: ([\w.]+)", read("book/api.md")))
    assert modules == shown


def test_every_key_of_the_bibliography_is_an_author_and_a_year():
    keys = re.findall(r"^@\w+\{([^,]+),", read("book/references.bib"), re.MULTILINE)
    assert len(keys) == len(set(keys))
    assert all(re.fullmatch(r"[a-z]+(19|20)\d\d[a-z]*", key) for key in keys)


# --- the package ---------------------------------------------------------------------------------


def test_every_algorithm_is_public():
    assert [name for name in algorithms.__all__ if not hasattr(fedlab_helpers, name)] == []


def test_every_class_of_the_algorithms_is_exported():
    folder = ROOT / "fedlab_helpers" / "algorithms"
    defined = {
        node.name
        for path in folder.glob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    }
    assert defined - set(algorithms.__all__) == set()


def test_the_algorithm_in_the_readme_runs():
    import torch

    (code,) = re.findall(r"```python\n(.*?)```", read("README.md"), re.DOTALL)
    names: dict = {}
    exec(code, names)
    uploads = torch.tensor([[1.0, 5.0], [2.0, 6.0], [9.0, 7.0]])
    assert names["FedMedian"]().aggregate(None, None, uploads, None).tolist() == [2.0, 6.0]


# --- commands ------------------------------------------------------------------------------------


def test_the_commands_of_the_readme_exist():
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    named = set(re.findall(r"`?make ([a-z]+)", read("README.md") + read("CONTRIBUTING.md")))
    assert named <= targets


def test_the_tests_that_contributing_promises_exist():
    promised = set(re.findall(r"`(test_\w+)`", read("CONTRIBUTING.md")))
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py")]
    there = set(re.findall(r"def (test_\w+)", "\n".join(sources)))
    assert promised - there == set()


# --- what does not belong here -------------------------------------------------------------------

FORBIDDEN = {
    "a package registry": [
        "py" + "pi.org",
        "python" + "hosted.org",
        "download.py" + "torch.org",
        "registry.np" + "mjs.org",
        "deb." + "debian.org",
    ],
    "a path of one machine": ["/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/", "/tm" + "p/"],
    "unfinished work": ["TO" + "DO", "FIX" + "ME", "X" * 3, "NotImplemented" + "Error"],
    "a test that tests nothing": ["@pytest.mark." + "skip(", "assert " + "True"],
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what: str):
    found = []
    for path in tracked():
        if path.suffix not in TEXT:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [f"{path.relative_to(ROOT)}: {s.strip()}" for s in FORBIDDEN[what] if s in text]
    assert found == []


def test_no_error_is_swallowed():
    pattern = re.compile(r"except(?: Exception)?:\s*(?:#.*)?\n\s*(?:pass|\.\.\.|continue)\b")
    python = [path for path in tracked() if path.suffix == ".py"]
    assert [p.name for p in python if pattern.search(p.read_text(encoding="utf-8"))] == []


def test_no_file_is_large():
    limits = {".ipynb": 2_500_000}
    large = [p.name for p in tracked() if p.stat().st_size > limits.get(p.suffix, 1_000_000)]
    assert large == []


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
    ],
    ids=" ".join,
)
def test_lint(command: list[str]):
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_bug_to_plant_has_its_place():
    found = {
        bug.what: (ROOT / "fedlab_helpers" / bug.file).read_text(encoding="utf-8").count(bug.old)
        for bug in mutants.BUGS
    }
    assert [what for what, places in found.items() if places != 1] == []
