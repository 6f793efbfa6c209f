"""Mistakes of the user, which are printed as one line, and texts of errors."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

# webdataset's error for a program whose output it reads (pipe:, https:), with the program's whole command line
_FAILED_PROGRAM = re.compile(r"""^\(\(\[?["'](\S+?)["']?[ ,].*\): exit (-?\d+) \(read\).*$""")

POINTER = b"version https://git-lfs"  # start of what a clone without Git LFS has for a large file
POINTER_NOTE = "it is Git LFS's pointer to the file: git lfs pull gets the file itself"


class UsageError(Exception):
    """One line that names the flag or file, what is wrong and how to fix it.

    Commands print it without a traceback and exit with code 2.
    """


class OneRankError(UsageError):
    """A mistake that only one of several processes meets, in its share of the data; that process prints it."""


class ReportedError(UsageError):
    """A mistake that another process prints."""


def refuse(flags: Mapping[str, object], why: str) -> None:
    """Raises UsageError for the first flag whose value is true (whether it was given, or its value)."""
    for flag, value in flags.items():
        if value:
            raise UsageError(f"{flag}: {why}")


@contextmanager
def as_mistake(what: str, *errors: type[Exception], fix: str = "") -> Iterator[None]:
    """Errors of these types become a UsageError: what is wrong, the reason in brackets, and how to fix it.

    A UsageError passes unchanged.
    """
    try:
        yield
    except UsageError:
        raise
    except errors as error:
        raise UsageError(f"{what} ({reason(error)}){f'; {fix}' if fix else ''}") from error


@contextmanager
def named(flag: str) -> Iterator[None]:
    """Puts the flag that names a file before what is wrong with the file."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{flag} {error}") from error


def is_pointer(path: str) -> bool:
    """Whether a local file is Git LFS's pointer to another."""
    try:
        with open(path, "rb") as file:
            return file.read(len(POINTER)) == POINTER
    except (OSError, ValueError):
        return False


def is_first_rank() -> bool:
    """Whether this is the first of torchrun's or srun's processes, or the only one: it prints for all."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def print_warnings(lines: Iterable[str]) -> None:
    """Prints warnings of what works but may not be meant, a line each, on the first rank."""
    if is_first_rank():
        print("".join(f"{line}\n" for line in lines), end="", flush=True)


def error_message(error: BaseException) -> str:
    """An error's message, without the traceback that torch adds to errors of a loader's worker."""
    return _in_short(str(error).strip())


def _in_short(text: str) -> str:
    """A message; torch's page of text on files that might run code is reduced to its meaning."""
    if "TorchScript archives passed" in text:
        return "it is a TorchScript archive: of OpenAI's name the tag, openai; else torch.save its state_dict"
    if not text.startswith("Weights only load failed"):
        return text.splitlines()[-1].split(": ", 1)[-1] if "Original Traceback" in text else text
    if (found := re.search(r"GLOBAL (\S+)", text)) is None:
        return "it is a pickle of something else than tensors, or damaged"
    fix = "if you trust it, load it with weights_only=False and torch.save its state_dict (and optimizer) alone"
    return f"it holds {found[1]} beside tensors, which might run code; {fix}"


def printable(text: str) -> str:
    """A name for a terminal or log: control characters, and bytes that are not UTF-8, are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def reason(error: BaseException, length: int = 200) -> str:
    """A library's error message as one short line: some list every model they have, and open files."""
    more = len(error.args) > 1 and isinstance(error.args[0], str) and not isinstance(error, UnicodeError)
    message = error.args[0] if more else error  # webdataset adds arguments
    first = (_in_short(str(message).strip()) or type(error).__name__).splitlines()[0]
    text = re.sub(r"( @)? <_io\..*| dict_keys\(.*", "", first)
    text = printable(_FAILED_PROGRAM.sub(r"exit status \2 of \1", text))
    return text if len(text) <= length else f"{text[:length]}…"
