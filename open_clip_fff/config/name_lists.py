"""`A;B`: lists of names in flags, and which of the existing names they mean."""

from collections.abc import Collection


def split_names(text: str) -> tuple[str, ...]:
    """`A;B` as ("A", "B"), an empty string as (). Spaces stay: Flickr30k's own columns begin with one."""
    return tuple(name for name in text.split(";") if name.strip())


def find_name(given: str, there: Collection[str]) -> str | None:
    """The existing name for a given one: the same name, or the only one that differs in surrounding spaces."""
    if given in there:
        return given
    bare = given.strip()
    similar = [name for name in there if isinstance(name, str) and name.strip() == bare]
    return similar[0] if len(similar) == 1 else None
