"""The one exception that a person at a terminal is meant to read."""

import os
import re


class UsageError(Exception):
    """What is wrong, in one line that names the flag or file and how to mend it.

    The doors (`train.main`, `export.main`) print it without a traceback and leave with exit code 2.
    """


class OneRankError(UsageError):
    """The same, met by one of several processes alone (in its share of the data), which therefore prints it."""


class ReportedError(UsageError):
    """The same on a process that leaves the telling to another one."""


def is_first_rank() -> bool:
    """Whether this is the first of the processes that torchrun started, or the only one: it speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def error_message(error: BaseException) -> str:
    """What an error says, without the traceback that torch writes into it where a loader's worker raised it."""
    text = str(error).strip()
    return text.splitlines()[-1].split(": ", 1)[-1] if "Original Traceback" in text else text


def printable(text: str) -> str:
    """A name for a terminal or a log; what no terminal should be told is escaped, as are bytes that are not UTF-8."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def reason(error: BaseException, length: int = 200) -> str:
    """What a library's error says, in one short line: libraries may list every model they know, and open files."""
    more = len(error.args) > 1 and isinstance(error.args[0], str) and not isinstance(error, UnicodeError)
    said = error.args[0] if more else error  # webdataset adds some
    text = re.sub(r"( @)? <_io\..*", "", (str(said).strip() or type(error).__name__).splitlines()[0])
    text = printable(text)
    return text if len(text) <= length else f"{text[:length]}…"
