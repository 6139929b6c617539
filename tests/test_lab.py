"""A notebook in JupyterLab, in a real browser: open it, run all, drag the control, see it change.

Skipped, by name, where there is no Chromium. The browser reaches the local server and nothing else.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from browser import LOCAL, ROOT, Page, Route

LAB = [
    sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.port=0",
    "--ServerApp.token=secret",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
]  # fmt: skip
PATIENCE = 60_000  # milliseconds, for a machine that is busy

# The closed form of the chapter on multi-task learning, run by the simulator at each position.
CHAPTER = """\
import torch
import fedlab_helpers as fl
from fedlab_helpers.explore import Explorable, Slider
from fedlab_helpers.data import Examples, Federation

class Mean(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.m = torch.nn.Parameter(torch.zeros(1))
    def forward(self, x):
        return 0 * x + self.m

clients = [(torch.ones(8, 1), torch.full((8,), v)) for v in (-1.0, 1.0)]
table = Examples.stack(clients)
federation = Federation(table, table)
model = fl.Model(Mean, fl.squared_error, fl.rmse)

def tied(ax, lam):
    run = fl.simulate(fl.Ditto(lam=lam), model, federation, rounds=30, progress=False)
    error = run.mean[-1].item()
    ax.plot([lam], [error], "o", label="error")
    return f"At lambda {lam} the error is {error:.4f}."

Explorable(tied, lam=Slider("lambda", [0.0, 1.0, 10.0]))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, chromium) -> Iterator[str]:
    """JupyterLab on a copy of the book, and a small notebook in it; its address."""
    home = tmp_path_factory.mktemp("lab")
    (home / "book").mkdir()
    for path in [*(ROOT / "book").glob("*.md"), *(ROOT / "book").glob("*.ipynb")]:
        shutil.copy(path, home / "book")
    v4 = nbformat.v4
    notebook = v4.new_notebook(
        cells=[v4.new_markdown_cell("# Two clients"), v4.new_code_cell(CHAPTER)],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    nbformat.write(notebook, home / "book" / "two.ipynb")
    folders = {f"JUPYTER_{what}_DIR": str(home / what) for what in ("RUNTIME", "CONFIG", "DATA")}
    folders |= {"JUPYTER_CONFIG_PATH": str(ROOT / ".jupyter")}
    folders |= {"JUPYTERLAB_WORKSPACES_DIR": str(home / "w"), "IPYTHONDIR": str(home / "i")}
    log = home / "log"
    with log.open("w") as said:
        lab = subprocess.Popen(
            [*LAB, f"--ServerApp.root_dir={home}"],
            cwd=ROOT, env=os.environ | folders, stdout=said, stderr=said,
        )  # fmt: skip
        try:
            yield address(home / "RUNTIME", lab, log)
        finally:
            lab.terminate()
            lab.wait(30)


def address(runtime: Path, lab: subprocess.Popen, log: Path) -> str:
    """Where the server listens, once it says so."""
    for _ in range(PATIENCE // 100):
        for path in runtime.glob("jpserver-*.json"):
            text = path.read_text(encoding="utf-8")
            if text.endswith("}"):  # written to the end
                return str(json.loads(text)["url"]).replace("localhost", "127.0.0.1")
        if lab.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text(encoding='utf-8')[-3000:]}")


@pytest.fixture
def page(server: str, chromium) -> Iterator[Page]:
    """The front page of the book, as `make lab` opens it; the browser reaches nothing else."""
    context = chromium.new_context(viewport={"width": 1280, "height": 1000})
    outside: list[str] = []

    def guard(route: Route) -> None:
        if route.request.url.startswith((server, *LOCAL)):
            route.continue_()
        else:
            outside.append(route.request.url)
            route.abort()

    context.route("**/*", guard)
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE)
    opened.goto(f"{server}lab/tree/book/index.md?token=secret&reset")
    yield opened
    context.close()
    assert outside == []


def test_make_lab_opens_the_front_page() -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    command = ["make", "--dry-run", "--no-print-directory", "--old-file=.venv/fedlab-ready", "lab"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    last = done.stdout.splitlines()[-1]
    assert last.endswith("jupyter lab --allow-root --notebook-dir=. book/index.md")


def test_the_front_page_leads_to_the_chapters(page: Page) -> None:
    viewer = page.locator(".jp-MarkdownViewer")
    viewer.get_by_role("heading", name="Personalised federated learning").wait_for()
    assert ":::" not in viewer.inner_text()
    viewer.get_by_role("link", name="Federated averaging").first.click()
    page.locator(".jp-Notebook").get_by_role("heading", name="Federated averaging").first.wait_for()


def test_a_control_in_jupyterlab_runs_the_simulation(page: Page) -> None:
    page.get_by_text("two.ipynb", exact=True).first.dblclick()
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
    page.get_by_text(re.compile(r"^Python 3.* \| Idle$")).wait_for()  # before, it would ask
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name=re.compile("^Run All Cells")).click()
    control = page.locator(".jp-OutputArea .jupyter-widgets").first
    handle = control.locator(".noUi-handle").first
    failure = page.locator('[data-mime-type$="error"], [data-mime-type$="stderr"]')
    handle.or_(failure).first.wait_for()
    assert failure.all_inner_texts() == []
    picture = control.locator("svg").first
    picture.wait_for()
    before = control.inner_text(), picture.inner_html()
    assert "At lambda 0.0 the error is 0.0" in before[0]

    start, track = handle.bounding_box(), control.locator(".noUi-target").first.bounding_box()
    assert start
    assert track
    page.mouse.move(start["x"] + start["width"] / 2, start["y"] + start["height"] / 2)
    page.mouse.down()
    page.mouse.move(track["x"] + track["width"], start["y"] + 5, steps=8)
    page.mouse.up()
    page.wait_for_function(
        "([box, before]) => !box.innerText.includes(before)",
        arg=[control.element_handle(), "At lambda 0.0"],
    )
    assert picture.inner_html() != before[1]
    said = re.search(r"At lambda ([\d.]+) the error is (\d\.\d+)", control.inner_text())
    assert said, control.inner_text()
    lam, error = map(float, said.groups())
    assert lam > 1
    # f_k(v) = (v - x)^2 has curvature 2, so Ditto ends lam / (2 + lam) of the way to the mean, 0.
    assert error == pytest.approx(lam / (2 + lam), abs=0.02)
