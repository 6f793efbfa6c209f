"""Replaces names of a module during a run, or for one importer only."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class View:
    """A module, or another object, with some names replaced, for one user of it; all other names are its own."""

    def __init__(self, viewed: Any, **replaced: object) -> None:
        self._viewed = viewed
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._viewed, name)


@contextmanager
def replaced(module: object, **names: object) -> Iterator[None]:
    """Sets names of a module, class or object in the block. Raises AttributeError if one does not exist."""
    before = {name: getattr(module, name) for name in names}
    for name, value in names.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)
