"""A dataclass field that knows its flag: plans are filled from flags, and say what they are, by this alone."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from open_clip_fff.settings.numbers import number

Kind = TypeVar("Kind")
_FLAG = "flag"


def setting(
    flag: str,
    default: Any = dataclasses.MISSING,
    *,
    shown: Callable[[Any], str] | None = None,
    when: Callable[[Any], bool] | None = None,
) -> Any:
    """A field of a settings class that a flag fills.

    Args:
        flag: its name with underscores.
        default: the field's; none where it has to be given.
        shown: from the object to the field's value as text, where `value_text` would not do.
        when: from the object to whether the field has an effect beside its other fields; None for always.
    """
    return dataclasses.field(default=default, metadata={_FLAG: flag, "shown": shown, "when": when})


def fields_by_flag(kind: type) -> dict[str, dataclasses.Field]:
    """The fields that flags fill, in order."""
    return {field.metadata[_FLAG]: field for field in dataclasses.fields(kind) if _FLAG in field.metadata}


def filled(kind: type[Kind], values: Mapping[str, Any], /, **others: Any) -> Kind:
    """An object of a settings class.

    Args:
        kind: the class.
        values: by flag; those of other classes are passed over.
        others: fields that no flag fills.
    """
    return kind(**{field.name: values[flag] for flag, field in fields_by_flag(kind).items()}, **others)


def has_effect(field: dataclasses.Field, owner: object) -> bool:
    """Whether a field does anything beside the others of its object."""
    when = field.metadata["when"]
    return when is None or when(owner)


def field_text(field: dataclasses.Field, owner: object) -> str:
    """A field's value as text."""
    shown = field.metadata["shown"]
    return value_text(getattr(owner, field.name)) if shown is None else shown(owner)


def value_text(value: object) -> str:
    """A setting's value much as one would type it."""
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    return ";".join(map(str, value)) if isinstance(value, tuple) else str(value)
