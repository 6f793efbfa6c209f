"""The parser of open_clip_fff's flags; its namespace holds only flags that the user gave."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from open_clip_fff.config.all_settings import OWNERS
from open_clip_fff.config.fields import Flag, as_flag, fields_by_flag, flag_of, kinds, value_text
from open_clip_fff.config.methods import METHODS
from open_clip_fff.config.name_lists import split_names
from open_clip_fff.config.parsers import OneLineParser

# the groups of the help, in order
FLAG_GROUPS = {
    "method": "method",
    "captions": "captions",
    "text": "text tower",
    "mining": "mining of false negatives (FFF Eq. 1)",
    "grouping": "grouped mini-batches (GRIT): --batch-hooks grit, or --method grit, grit-vlp, mafa, mafa-itc, cosmo",
    "connection": "connection mining by a discriminator (MAFA, COSMO)",
    "smoothing": "smoothed ITC: --loss s-itc, or --method grit-vlp, mafa, mafa-itc, cosmo",
    "fusion": "fusion model over both towers (ALBEF, GRIT-VLP, MAFA)",
    "weights": "weights",
    "safety": "safety",
    "watching": "evaluation during training",
    "logits": "logit scale and bias",
    "extend": "your own parts",
}
METHOD = Flag(
    "method", "a preset of the flags below; flags that you give win", None, "OpenCLIP's", choices=tuple(METHODS)
)


def split(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our flags as given, and OpenCLIP's words, which are all others. UsageError for a refused value of ours."""
    # a leading -- keeps torchrun from taking --logs as its own flag
    return flag_parser().parse_known_args(list(argv[1:] if argv[:1] == ["--"] else argv))


def flags_of(group: str) -> Iterator[tuple[Flag, Any]]:
    """The flags of one of GROUPS, in the order of their fields, and each field's type."""
    if group == "method":
        yield METHOD, str | None
    for owner in OWNERS:
        for field in fields_by_flag(owner).values():
            if (flag_of(field).group or owner.group) == group:
                yield flag_of(field), field.type


def flag_parser() -> argparse.ArgumentParser:
    """The parser of our flags, without defaults, so that its namespace holds only given flags."""
    parser = OneLineParser(
        prog="open_clip_fff.train", add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    for group, title in FLAG_GROUPS.items():
        section = parser.add_argument_group(title)
        for flag, hint in flags_of(group):
            add_flag(section, flag, hint)
    return parser


def add_flag(parser: argparse._ActionsContainer, flag: Flag, hint: Any) -> None:
    """Adds a flag to a parser, or to a group of its help; `hint` is its field's type."""
    parser.add_argument(as_flag(flag.name), help=f"{flag.help} (default: {default_of(flag)})", **takes(flag, hint))


def default_of(flag: Flag) -> str:
    """A flag's default, and the methods' values that differ from it."""
    by_value: dict[str, list[str]] = {}
    for method, preset in METHODS.items():
        if preset.get(flag.name, flag.default) != flag.default:
            by_value.setdefault(value_text(preset[flag.name]), []).append(method)
    return "; ".join((flag.default_text, *(f"{value} in {', '.join(names)}" for value, names in by_value.items())))


def takes(flag: Flag, hint: Any) -> dict[str, Any]:
    """A flag's arguments for argparse; what the flag leaves open follows from its field's type."""
    given, metavar = kinds(hint), {"metavar": flag.metavar}
    if flag.choices is not None:
        return {"choices": flag.choices}
    if flag.parse is not None:
        return {"type": _with_reason(flag.parse), **metavar}
    if flag.repeated:
        return {"action": "append", **metavar}
    if bool in given:
        return {"action": argparse.BooleanOptionalAction}
    if tuple in given:
        return {"type": split_names, "metavar": "'A;B'"}
    if int in given:
        return {"type": int, "metavar": flag.metavar or "N"}
    return {"type": float if float in given else str, **metavar}


def _with_reason(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Turns a ValueError into an ArgumentTypeError, whose message argparse shows."""

    def parsed(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parsed
