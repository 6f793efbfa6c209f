"""What a flag can choose, by name: a dict that refuses duplicates."""

import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from open_clip_fff.errors import UsageError

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps the names that a flag accepts to what they stand for.

    Args:
        kind: what is registered, as the user would call it ("loss", "batch hook").
        flag: the flag that chooses among the names, for error lines.
        built_in: our own entries, as `module:attribute`; imported when they are first read.
        others: what the flag accepts beside the entries, for error lines.
    """

    def __init__(self, kind: str, flag: str, built_in: Mapping[str, str], others: Sequence[str] = ()) -> None:
        self.kind, self.flag, self._others = kind, flag, others
        self._built_in = dict(built_in)
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> None:
        """Raises ValueError if `name` is taken: a silent override would train the wrong thing for days."""
        if name in self:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._entries[name] = entry

    def registering(self, name: str) -> Callable[[T], T]:
        """A decorator that adds what it decorates under `name`."""

        def decorate(entry: T) -> T:
            self.add(name, entry)
            return entry

        return decorate

    def check(self, name: str | None) -> None:
        """Raises UsageError, with the known names, for an unknown one; imports nothing."""
        if name not in self:
            raise UsageError(
                f"{self.flag}: no {self.kind} is called {name!r}; there are: {', '.join((*self._others, *self))} "
                f"(your own come with --plugin MODULE)"
            )

    def __getitem__(self, name: str | None) -> T:
        """Raises UsageError, with the known names, for an unknown one."""
        self.check(name)
        assert name is not None
        if name not in self._entries:
            self._entries[name] = pkgutil.resolve_name(self._built_in[name])
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self._built_in

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._entries, *self._built_in}))
