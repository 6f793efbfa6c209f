"""Replaces names of a module during a run, or for one importer only."""

from collections.abc import Iterator
from contextlib import contextmanager


class View:
    """A module with some names replaced, for one importer; all other names are the module's own."""

    def __init__(self, module: object, **replaced: object) -> None:
        self._module = module
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> object:
        return getattr(self._module, name)


@contextmanager
def replaced(module: object, **names: object) -> Iterator[None]:
    """Sets names of a module, class or object, and restores them at the end, also after an error.

    Raises:
        AttributeError: if a name does not exist, which means that another version of OpenCLIP is installed.
    """
    before = {name: getattr(module, name) for name in names}
    for name, value in names.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)
