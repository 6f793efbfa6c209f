"""What a library raised, in one line: its words, and where they come from."""

import logging
import os
import re
import sysconfig
import traceback
from pathlib import Path

import open_clip
import open_clip_train

import open_clip_fff
from open_clip_fff.errors import error_message

LONGEST = 300  # characters; some list every model that there is
_PACKAGES = {
    f"{Path(package.__path__[0])}{os.sep}": name
    for package, name in (
        (open_clip, "OpenCLIP"),
        (open_clip_train, "OpenCLIP"),
        (open_clip_fff, "open_clip_fff"),
    )
}
_LIBRARIES = tuple(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def in_one_line(error: BaseException, said: str = "") -> str:
    """Who stopped before the first step, what it says, and the line of code.

    Args:
        error: that was raised; of a loader's worker, whose traceback is in the message, too.
        said: the last that was logged as an error, for those that exit and say nothing.
    """
    frames = [(frame.filename, frame.lineno, frame.line) for frame in traceback.extract_tb(error.__traceback__)]
    in_worker = re.findall(r'File "(.+?)", line (\d+)', str(error))
    who, file, number, code = _place([*frames, *((*place, None) for place in in_worker)])
    text = (
        said or "it gives no reason" if isinstance(error, SystemExit) else error_message(error) or code or "no reason"
    )
    text = " ".join(text.split())
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    return (
        f"{who} stopped before the first step: {text} "
        f"({type(error).__name__} in {file}, line {number}; --debug shows the traceback)"
    )


def _place(frames: list[tuple]) -> tuple:
    """The innermost line that is OpenCLIP's, ours, or a plugin's: whoever called the library that raised."""
    for file, number, code in reversed(frames):
        for folder, name in _PACKAGES.items():
            if file.startswith(folder):
                return name, file.removeprefix(str(Path(folder).parent) + os.sep), number, code
        if os.path.isabs(file) and not file.startswith(_LIBRARIES):
            return Path(file).name, file, number, code
    return "Python", *frames[-1]


class LastError(logging.Handler):
    """Remembers the last error that was logged.

    Attributes:
        text: its message; empty where there was none.
    """

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()
