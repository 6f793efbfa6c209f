"""`A;B`: names that are typed, and which of the names that are there they mean."""

from collections.abc import Collection


def split_names(text: str) -> tuple[str, ...]:
    """`A;B` as ("A", "B"), an empty string as (). Spaces stay: Flickr30k's own columns begin with one."""
    return tuple(name for name in text.split(";") if name.strip())


def find_name(typed: str, there: Collection[str]) -> str | None:
    """The name that is meant: the typed one if it is there, else the only one that differs by spaces around it.

    Args:
        typed: a name.
        there: those to choose from, such as a dict's keys.
    """
    if typed in there:
        return typed
    bare = typed.strip()
    alike = [name for name in there if isinstance(name, str) and name.strip() == bare]
    return alike[0] if len(alike) == 1 else None
