"""Parsers of command lines: one layout of help for all commands, one line for a mistake."""

import argparse
import difflib
import math
import re
import textwrap
from collections.abc import Iterable
from typing import Any, NoReturn

from open_clip_fff.config.fields import as_flag
from open_clip_fff.errors import UsageError

UNKNOWN = "unrecognized arguments: "  # argparse's words
DATA = re.compile(r"\.(tar|csv|tsv|parquet|jsonl?)(\.\w+)?$")  # names of shards and tables, compressed or not
CLOSE = 0.7  # of difflib's ratio, without the dashes; below it a suggestion is a guess


class OneLineParser(argparse.ArgumentParser):
    """A parser that raises a UsageError of one line for a mistake, without printing usage; it refuses inf and nan."""

    def error(self, message: str) -> NoReturn:
        first, *others = message.partition(UNKNOWN)[2].split() or [""]
        if DATA.search(first):
            more = f" and {len(others):,} more" if others else ""
            fix = "where the shell has expanded braces or *, quote them, as in 'data/{00000..00099}.tar'"
            raise UsageError(f"{UNKNOWN}{first}{more}; {fix}")
        raise UsageError(message)

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        value = super()._get_value(action, arg_string)
        if isinstance(value, float) and not math.isfinite(value):
            raise argparse.ArgumentError(action, f"{arg_string} is not a finite number")
        return value


class CommandParser(OneLineParser):
    """The parser of a command.

    Args:
        prog: how the command was called.
        about: its module's docstring, which the help shows.
        training: what the help says of training's flags; None for a command that takes none.
        every: whether it takes all of them.
    """

    def __init__(self, prog: str, about: str | None, training: str | None = None, every: bool = True) -> None:
        raw = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=prog, description=(about or "").strip(), allow_abbrev=False, formatter_class=raw)
        self.training, self.every = training, every
        self._positionals.title, self._optionals.title = "arguments", "its flags"

    def format_help(self) -> str:
        """Usage, what the command does, its flags, and a word on training's."""
        self.usage = " ".join(self._usage())
        text = super().format_help()
        if self.training is None:
            return text
        more = f"{self.training}; open-clip-fff train --help lists them. They may stand among the command's own, or "
        both = ", where each flag is training's, also one that the command has, too (--workers, say)"
        more += f"after --{both if self.every else ''}."
        return f"{text}\ntraining's flags:\n{textwrap.indent(textwrap.fill(more, 77, break_on_hyphens=False), '  ')}\n"

    def _usage(self) -> Iterable[str]:
        """What has to be given, and what may be."""
        yield self.prog
        for action in self._actions:
            if not action.option_strings:
                name = str(action.metavar or action.dest)
                yield {"*": f"[{name} ...]", "+": f"{name} ..."}.get(str(action.nargs), name)
            elif action.required:
                yield _flag_usage(action)
        for group in self._mutually_exclusive_groups:
            if group.required:
                yield f"({' | '.join(map(_flag_usage, group._group_actions))})"
        yield "[its flags]"
        if self.training is not None:
            yield "[training's flags]"


def _flag_usage(action: argparse.Action) -> str:
    return f"{action.option_strings[0]} {action.metavar or action.dest.upper()}"


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """` (did you mean NAME?)`, or nothing where no name is close; dashes in front do not make names alike."""
    bare = {name.lstrip("-"): name for name in known}
    close = difflib.get_close_matches(given.lstrip("-"), bare, n=1, cutoff=CLOSE)
    return f" (did you mean {bare[close[0]]}?)" if close else ""


def check_least(args: argparse.Namespace, **least: int) -> None:
    """Raises UsageError for a number below the least that its flag takes; None is passed over."""
    for name, low in least.items():
        if (value := getattr(args, name)) is not None and value < low:
            raise UsageError(f"{as_flag(name)} {value}: must be {low} or more")
