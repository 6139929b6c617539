"""Import this first: the libraries import torchvision for data sets that are not used here, and its
package wants a build of torch of its own.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class Anything(ModuleType):
    """A module that has a class of every name that begins with a capital."""

    __path__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {}) if name[0].isupper() else Anything(name)


for name in ("", ".datasets", ".datasets.utils", ".models", ".models.resnet", ".transforms",
             ".transforms.functional", ".utils", ".io"):  # fmt: skip
    sys.modules[f"torchvision{name}"] = Anything(f"torchvision{name}")
