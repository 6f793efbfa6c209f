"""A setting is written once: as a dataclass field with its flag, help, default, range and how it is shown."""

import dataclasses
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, ClassVar, TypeVar, get_args, get_origin

from open_clip_fff.config.numbers import number

Kind = TypeVar("Kind")
NUMBERS = {int: (Integral, "a whole number"), float: (Real, "a number")}
REQUIRED = dataclasses.MISSING  # the default of a field whose object is made only if its flag has a value


@dataclasses.dataclass(frozen=True)
class Flag:
    """The flag that fills a field; stored in the field's metadata."""

    name: str  # with underscores
    help: str  # without the default
    # the value if neither the user nor a method gives one; None also if it follows from other settings (`resolve.py`)
    default: Any
    default_text: str  # the default as text
    metavar: str | None = None  # as in argparse; None for what the field's type implies
    choices: tuple[str, ...] | None = None  # as in argparse, like the next one
    parse: Callable[[str], Any] | None = None
    repeated: bool = False  # whether it may be given several times
    group: str | None = None  # group of the help (`flags.FLAG_GROUPS`); None for the class's
    # a test of a valid value, and the error line for an invalid one: `{}` stands for the value, a colon precedes what
    # is accepted
    check: tuple[Callable[[Any], bool], str] | None = None
    shown: Callable[[Any], str] | None = None  # the value as text, from the object; None for `value_text`
    # whether the value has an effect, given the object's other fields; None for always
    when: Callable[[Any], bool] | None = None
    needs: str = ""  # another flag that is needed for an effect; without it this flag is refused


def setting(flag: str, default: Any, help: str, *, unset: str = "", follows: str = "", **more: Any) -> Any:
    """A field of a settings class that a flag fills.

    Args:
        flag: its name with underscores.
        default: the field's; REQUIRED for none.
        help: without the default, which is added.
        unset: the default as text, if `value_text` does not describe it.
        follows: the default as text, if it follows from other settings.
        more: further attributes of `Flag`.
    """
    value = None if default is REQUIRED or follows else default
    about = Flag(flag, help, value, follows or unset or value_text(value), **more)
    return dataclasses.field(default=default, metadata={Flag: about})


class Settings:
    """A frozen dataclass of settings.

    Raises:
        ValueError: for a value out of range, or no number where one is needed, in one line that names its flag.
    """

    group: ClassVar[str] = ""  # group of the help, for the flags of all fields
    needs: ClassVar[str] = ""  # the flag that switches these settings on; without it their flags are refused

    def __post_init__(self) -> None:
        for field in fields_by_flag(type(self)).values():
            about, value = flag_of(field), getattr(self, field.name)
            flag = as_flag(about.name)
            if value is None:
                continue
            kind, *others = kinds(field.type) - {NoneType}
            wrong = kind in NUMBERS and (isinstance(value, bool) or not isinstance(value, NUMBERS[kind][0]))
            if wrong and not others:
                raise ValueError(f"{field.name} is {value!r}: it is {NUMBERS[kind][1]} ({flag})")
            if about.choices is not None and value not in about.choices:
                raise ValueError(f"{field.name} is {value!r}: choose from {', '.join(about.choices)} ({flag})")
            if about.check is not None and not about.check[0](value):
                message = about.check[1].format(value)
                raise ValueError(message if flag in message else f"{message} ({flag})")


def as_flag(name: str) -> str:
    """A setting's name as its flag: `p1_prime` as `--p1-prime`."""
    return "--" + name.replace("_", "-")


def flag_of(field: dataclasses.Field) -> Flag:
    """The flag of a field that `setting` made."""
    return field.metadata[Flag]  # type: ignore[index]


def fields_by_flag(kind: type) -> dict[str, dataclasses.Field]:
    """The fields that flags fill, in order."""
    return {flag_of(field).name: field for field in dataclasses.fields(kind) if Flag in field.metadata}


def filled(kind: type[Kind], values: Mapping[str, Any], /, **others: Any) -> Kind:
    """An object of a settings class from values by flag (others are ignored) and fields without a flag."""
    return kind(**{field.name: values[flag] for flag, field in fields_by_flag(kind).items()}, **others)


def has_effect(field: dataclasses.Field, owner: object) -> bool:
    """Whether a field has an effect, given the others of its object."""
    when = flag_of(field).when
    return when is None or when(owner)


def field_text(field: dataclasses.Field, owner: object) -> str:
    """A field's value as text."""
    shown = flag_of(field).shown
    return value_text(getattr(owner, field.name)) if shown is None else shown(owner)


def kinds(hint: Any) -> set[Any]:
    """The types that a field's annotation allows, generic ones by their origin."""
    return {get_origin(kind) or kind for kind in (get_args(hint) if isinstance(hint, UnionType) else (hint,))}


def value_text(value: object) -> str:
    """A setting's value about as it would be given."""
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    return ";".join(map(str, value)) if isinstance(value, tuple) else str(value)
