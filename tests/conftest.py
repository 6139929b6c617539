"""What several test modules share: the rendered book, a browser, and `book/run.py`."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import browser as browsing
import pytest
from filelock import FileLock


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rendered book, built once per test run; what `make book` has built is used again."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    root = browsing.ROOT
    done = shared / "book-is-built"
    with FileLock(shared / "book.lock"):
        if not done.exists():
            program = Path(sys.executable).with_name("jupyter-book")
            command = [str(program), "build", str(root), "-W", "-n", "--keep-going", "-q"]
            built = subprocess.run(command, cwd=root, capture_output=True, text=True)
            if built.returncode:  # a second build would be silent about pages already read
                shutil.rmtree(root / "_build" / ".doctrees", ignore_errors=True)
            done.write_text(f"{built.returncode}\n{built.stderr[-4000:]}", encoding="utf-8")
    code, _, said = done.read_text(encoding="utf-8").partition("\n")
    assert code == "0", f"the book does not build without warnings:\n{said}"
    return browsing.HTML


@pytest.fixture(scope="module")
def chromium() -> Iterator[browsing.Browser]:
    """A headless Chromium; tests that need it are skipped where there is none."""
    if browsing.program() is None:
        pytest.skip(f"no browser: none of {', '.join(browsing.PROGRAMS)} is installed")
    with browsing.chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def run() -> ModuleType:
    """book/run.py."""
    spec = importlib.util.spec_from_file_location("run", browsing.ROOT / "book" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
