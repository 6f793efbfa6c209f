"""What the commands have in common: one line for a mistake, and how they were called."""

import os
import pkgutil
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

from open_clip_fff.errors import OneRankError, UsageError, is_first_rank, reason


def as_program(prog: str, body: Callable[[], int]) -> int:
    """Runs a program's body, which gives the exit code: 2 for a mistake that the user can fix, 130 for Ctrl-C.

    These are a line each and no traceback; `prog` is how it was called, `open-clip-fff pack` or `scripts/pack.py`.
    """
    name = prog.removeprefix("scripts/").removeprefix("python -m ")
    try:
        return body()
    except UsageError as error:
        if isinstance(error, OneRankError) or is_first_rank():  # the others' line is the same
            print(f"{name}: error: {reason(error, 1_000)}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted; complete files stay, and a second start does the rest", file=sys.stderr)
        return 130


def command(
    name: str, parse: Callable[[list[str], str], tuple[Any, ...]], run: str, with_line: bool = False
) -> Callable[..., int]:
    """The `main(argv=None, prog=name)` of a command whose work is imported once its flags are read.

    Args:
        name: how it is called, unless `prog` says otherwise.
        parse: from arguments and `prog` to what `run` takes.
        run: what does the work and gives an exit code, as `module:function`.
        with_line: whether it also takes a line that does the same again.
    """

    def main(argv: Sequence[str] | None = None, prog: str = name) -> int:
        words = typed(argv)

        def body() -> int:
            parsed = parse(words, prog)
            line = (command_line(prog, words),) if with_line else ()
            return pkgutil.resolve_name(run)(*parsed, *line)

        return as_program(prog, body)

    return main


def print_page(text: str) -> None:
    """Prints a long text; a pipe that is closed before its end, as by `| head`, is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit


def typed(argv: Sequence[str] | None) -> list[str]:
    """The arguments: those of the command line for None."""
    return list(sys.argv[1:] if argv is None else argv)


def command_line(prog: str, argv: Sequence[str]) -> str:
    """A line that does the same again."""
    return shlex.join([*(["python", prog] if prog.endswith(".py") else prog.split()), *argv])
