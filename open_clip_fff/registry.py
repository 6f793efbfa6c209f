"""Names for things that flags can choose. Small on purpose: a dict that refuses duplicates."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from open_clip_fff.errors import UsageError

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps the names that a flag accepts to what they stand for.

    Args:
        kind: what is registered, as the user would call it ("loss", "batch hook").
        flag: the flag that chooses among the names, for error lines.
    """

    def __init__(self, kind: str, flag: str) -> None:
        self.kind, self.flag = kind, flag
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> None:
        """Raises ValueError if `name` is taken: a silent override is a bug that trains for days."""
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._entries[name] = entry

    def registering(self, name: str) -> Callable[[T], T]:
        """A decorator that adds what it decorates under `name`."""

        def decorate(entry: T) -> T:
            self.add(name, entry)
            return entry

        return decorate

    def __getitem__(self, name: str | None) -> T:
        """Raises UsageError, with the names there are, for an unknown one."""
        if name is None or name not in self._entries:
            raise UsageError(
                f"{self.flag}: no {self.kind} is called {name!r}; there are: {', '.join(self)} "
                f"(your own come with --plugin MODULE)"
            )
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))
