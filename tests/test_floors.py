"""The package is a house: a module imports from lower floors only, and importing it is cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent / "fedlab_helpers"

FLOORS = {
    "states": 0,
    "randomness": 0,
    "hyperparameters": 0,
    "attacks": 0,
    "networks": 0,
    "plot": 0,
    "book": 0,
    "controls": 0,
    "selfcheck": 0,
    "stacked": 0,
    "chain": 0,
    "plan": 1,
    "optimisers": 1,
    "privacy": 1,
    "schedule": 2,
    "explore": 1,
    "data": 2,
    "closed_form": 3,
    "partition": 3,
    "model": 4,
    "ranking": 5,
    "train": 5,
    "workers": 5,
    "datasets": 5,
    "algorithms.base": 6,
    "algorithms.asynchronous": 7,
    "algorithms.clustered": 7,
    "algorithms.continual": 7,
    "algorithms.distillation": 7,
    "algorithms.global_model": 7,
    "algorithms.meta": 7,
    "algorithms.personal": 7,
    "algorithms.private": 7,
    "algorithms.robust": 7,
    "algorithms.recommender": 8,
    "history": 8,
    "algorithms": 9,
    "engine": 9,
    "transfer": 9,
    "experiment": 10,
    "glance": 10,
    "diagrams": 10,
    "": 11,  # the public list
}
MAY_BE_MISSING = (
    "IPython",
    "pandas",
    "matplotlib",
    "sklearn",
    "pooch",
    "ipywidgets",
    "torch._dynamo",
    "dp_accounting",
)


def name_of(path):
    """fedlab_helpers/algorithms/base.py -> "algorithms.base"."""
    parts = path.relative_to(HOUSE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(source, module, package):
    """The modules of ours that a module imports, wherever in its text."""
    here = (module.split(".") if module else []) if package else module.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            found |= {n.removeprefix("fedlab_helpers").lstrip(".") for n in names
                      if n.split(".")[0] == "fedlab_helpers"}  # fmt: skip
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = here[: len(here) - (node.level - 1)]
            elif (node.module or "").split(".")[0] == "fedlab_helpers":
                base = []
            else:
                continue
            base = [*base, *(node.module or "").removeprefix("fedlab_helpers").split(".")]
            base = ".".join(part for part in base if part)
            for alias in node.names:
                inside = f"{base}.{alias.name}".lstrip(".")
                found.add(inside if inside in FLOORS else base)
    return found


def upward(source, module, package=False):
    """What a module imports from its own floor or a higher one."""
    return {m for m in imports(source, module, package) if FLOORS[m] >= FLOORS[module]}


MODULES = {name_of(path): path for path in sorted(HOUSE.rglob("*.py"))}


def test_every_module_has_a_floor():
    assert set(MODULES) == set(FLOORS)


@pytest.mark.parametrize("module", MODULES, ids=lambda name: name or "fedlab_helpers")
def test_a_module_imports_from_lower_floors_only(module):
    path = MODULES[module]
    assert upward(path.read_text("utf-8"), module, path.name == "__init__.py") == set()


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("data", "from .engine import simulate", {"engine"}),
        ("data", "def f():\n    from .model import Model", {"model"}),
        ("data", "from . import randomness, train", {"train"}),
        ("data", "import fedlab_helpers.engine", {"engine"}),
        ("data", "import fedlab_helpers", {""}),
        ("data", "from fedlab_helpers import simulate", {""}),
        ("data", "from fedlab_helpers.model import Model", {"model"}),
        ("data", "from .schedule import Synchronous", {"schedule"}),
        ("algorithms.personal", "from .global_model import FedProx", {"algorithms.global_model"}),
        ("algorithms.base", "from . import personal", {"algorithms.personal"}),
        ("algorithms.base", "from ..engine import simulate", {"engine"}),
        ("algorithms.base", "from ..train import train", set()),
        ("engine", "from .algorithms.base import FedAvg", set()),
        ("data", "import torch\nfrom .randomness import stream", set()),
    ],
)
def test_an_upward_import_is_noticed(module, source, found):
    assert upward(source, module) == found


def test_the_public_list_is_read_as_what_it_is():
    assert imports("from .engine import simulate", "", package=True) == {"engine"}
    assert imports("from .base import FedAvg", "algorithms", package=True) == {"algorithms.base"}


def test_importing_the_package_loads_nothing_heavy():
    program = (
        f"import sys, fedlab_helpers\nprint([m for m in {MAY_BE_MISSING!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=HOUSE.parent,
    )
    assert done.stdout.strip() == "[]"
