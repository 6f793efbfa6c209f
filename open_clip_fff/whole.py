"""Files and folders that are written whole or not at all."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from open_clip_fff.errors import UsageError


def write_whole(out: Path, content: str) -> None:
    """Writes a text file beside `out`, and then gives it that name, over what was there; its parents are made.

    Raises:
        OSError: if it cannot be written; what was there then stays.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", prefix=f".{out.name}.", dir=out.parent, delete=False
    ) as file:
        unfinished = Path(file.name)
        try:
            file.write(content)
            file.flush()
            unfinished.chmod(0o644)  # temporary files are their owner's alone
            os.replace(unfinished, out)
        finally:
            unfinished.unlink(missing_ok=True)


def check_free(out: Path) -> None:
    """For a folder that will be written whole, hours before it is.

    Raises:
        UsageError: if something is there, or it cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out}: is there already; name another folder, or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written ({error})") from error


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A new folder beside `out`, which gets its name once the block is through; if that raises, nothing stays.

    Args:
        out: a path that does not exist by then, or an empty folder; its parents are made.

    Raises:
        OSError: if it cannot be made or moved.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield unfinished
        unfinished.chmod(0o755)  # temporary folders are their owner's alone
        os.replace(unfinished, out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def whole_file(out: Path) -> Iterator[BinaryIO]:
    """A file beside `out`, open for writing, which gets its name once the block is through; if that raises, it goes.

    What a killed process left there is written over. Its folder must exist.

    Raises:
        BlockingIOError: if another process is writing it.
        OSError: if it cannot be written.
    """
    unfinished = out.with_name(f".{out.name}.unfinished")
    with os.fdopen(
        os.open(unfinished, os.O_RDWR | os.O_CREAT, 0o644), "wb"
    ) as file:  # and not emptied: it may be theirs
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not (unfinished.exists() and os.path.samestat(os.fstat(file.fileno()), unfinished.stat())):
            raise BlockingIOError(f"{out} was finished by another process just now")
        try:
            file.truncate(0)
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a name may survive a power cut, and its content not
            os.replace(unfinished, out)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
