"""Stages of a loader's pipeline."""

from collections.abc import Callable, Iterable, Iterator


class Chain:
    """One stage after another; a class, so that workers that do not fork can have it."""

    def __init__(self, first: Callable, second: Callable) -> None:
        self.first, self.second = first, second

    def __call__(self, source: Iterable) -> Iterator:
        return self.second(self.first(source))
