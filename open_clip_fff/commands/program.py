"""Shared by all commands: one line for a mistake, exit codes, and how they were called."""

import io
import math
import multiprocessing
import os
import pkgutil
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from open_clip_fff.errors import OneRankError, UsageError, is_first_rank, reason
from open_clip_fff.patching import View, replaced
from open_clip_fff.tools.shards.share import Share

REPEATS = 5.0  # seconds in which a repeated SIGTERM is ignored


class Terminated(BaseException):
    """SIGTERM as an exception, so that writers can remove unfinished files."""


class OutputLost(BaseException):
    """stdout cannot be written; not an OSError, so that handlers of files' errors do not catch it."""


def as_program(prog: str, body: Callable[[], int], shared: bool = False, resumes: bool = False) -> int:
    """Runs a program's body, which returns the exit code; the errors below print one line, no traceback.

    Their exit codes: 2 for a mistake that the user can fix, 130 for Ctrl-C, 143 for SIGTERM. A closed pipe (`| head`)
    gives 141 without a line.

    Args:
        prog: how it was called, `open-clip-fff pack` or `scripts/pack.py`.
        body: what it does.
        shared: whether the processes of torchrun share its work; the first one then prints mistakes for all.
        resumes: whether a second start continues an interrupted one, as it does where work is shared.
    """
    name = prog.removeprefix("scripts/")
    prepare_process()
    try:
        with _terminable(), _output_told():
            return body()
    except UsageError as error:
        if not shared or isinstance(error, OneRankError) or is_first_rank():  # the others' line is the same
            print(f"{name}: error: {reason(error, 1_000)}", file=sys.stderr, flush=True)
        return 2
    except (KeyboardInterrupt, Terminated) as stopped:
        rest = "complete files stay, and a second start does the rest"
        kept = rest if shared or resumes else "what is not written yet is lost"
        print(f"{name}: interrupted; {kept}", file=sys.stderr)
        return 128 + (signal.SIGTERM if isinstance(stopped, Terminated) else signal.SIGINT)
    except OutputLost as lost:
        _drop_output()
        if isinstance(lost.__cause__, BrokenPipeError):
            return 128 + signal.SIGPIPE
        print(f"{name}: error: stdout cannot be written ({lost})", file=sys.stderr)
        return 2


def prepare_process() -> None:
    """Escapes characters that stdout or stderr cannot encode, which would raise; makes loaders fork their workers.

    From Python 3.14 on, Linux starts them by a fork server, and OpenCLIP's and clip-benchmark's objects cannot be
    pickled.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    unset = multiprocessing.get_start_method(allow_none=True) is None
    if unset and sys.platform == "linux" and sys.version_info >= (3, 14):
        multiprocessing.set_start_method("fork")


@contextmanager
def _output_told() -> Iterator[None]:
    """In the block, and at its end, an error in writing stdout raises OutputLost."""

    def told(write: Callable[..., Any]) -> Callable[..., Any]:
        def written(*text: str) -> Any:
            try:
                return write(*text)
            except OSError as error:
                raise OutputLost(reason(error)) from error

        return written

    if (out := sys.stdout) is None:  # closed by the caller; print ignores that
        yield
        return
    with replaced(sys, stdout=View(out, write=told(out.write), flush=told(out.flush))):
        yield
        sys.stdout.flush()


@contextmanager
def _terminable() -> Iterator[None]:
    """In the block SIGTERM raises Terminated, unless a caller has a handler of its own; in a main thread only.

    Launchers send it twice, and the second would interrupt the removal. A later one counts: Python may swallow an
    exception.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    last = -math.inf

    def terminate(*_: object) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= REPEATS:
            last = now
            raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def command(
    name: str,
    parse: Callable[[list[str], str], tuple[Any, ...]],
    run: str,
    with_line: bool = False,
    shared: bool = False,
    resumes: bool = False,
) -> Callable[..., int]:
    """The `main(argv=None, prog=name)` of a command whose work is imported once its flags are read.

    Args:
        name: the command's name, unless `prog` gives another.
        parse: from arguments and `prog` to what `run` takes.
        run: the function that does the work and returns an exit code, as `module:function`.
        with_line: whether it also takes the command line, as text to run it again.
        shared, resumes: as in `as_program`; commands that are not shared refuse torchrun with several processes.
    """

    def main(argv: Sequence[str] | None = None, prog: str = name) -> int:
        words = given_words(argv)

        def body() -> int:
            if "TORCHELASTIC_RUN_ID" in os.environ and not shared and (ranks := Share.from_environment()).together:
                raise UsageError(f"each of torchrun's {ranks.count} processes would do all of it; start it alone")
            parsed = parse(words, prog)
            line = (command_line(prog, words),) if with_line else ()
            return pkgutil.resolve_name(run)(*parsed, *line)

        return as_program(prog, body, shared, resumes)

    return main


def print_page(text: str) -> None:
    """Prints a long text; a pipe that closes early, as by `| head`, is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _drop_output()


def _drop_output() -> None:
    """Points stdout at /dev/null, so that the flush at exit raises nothing."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def given_words(argv: Sequence[str] | None) -> list[str]:
    """The arguments: those of the command line for None."""
    return list(sys.argv[1:] if argv is None else argv)


def command_line(prog: str, argv: Sequence[str]) -> str:
    """The command line, to run it again."""
    return shlex.join([*(["python", prog] if prog.endswith(".py") else prog.split()), *argv])
