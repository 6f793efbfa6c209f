"""Packages whose names are imported when somebody first asks for one (PEP 562): `--help` need not wait for torch."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's `__getattr__` and `__dir__`.

    Args:
        package: its `__name__`.
        homes: the module of each name, relative to the package.

    Example:
        >>> __getattr__, __dir__ = lazy_names("open_clip_fff", {"FFFLoss": ".losses.sigmoid"})
        >>> __getattr__("FFFLoss").__name__
        'FFFLoss'
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(homes[name], package), name)
        setattr(sys.modules[package], name, value)  # the next time it is there
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return get, names
