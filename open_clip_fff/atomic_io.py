"""Files and folders that are written whole or not at all."""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

from open_clip_fff.errors import UsageError

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


def write_atomically(out: Path, content: str | bytes) -> None:
    """Writes a file (UTF-8) beside `out`, and then gives it that name, over what was there; its parents are made.

    Raises:
        OSError: if it cannot be written; what was there then stays.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("wb", prefix=f".{out.name}.", dir=out.parent, delete=False) as file:
        unfinished = Path(file.name)
        try:
            file.write(content.encode() if isinstance(content, str) else content)
            unfinished.chmod(0o644)  # temporary files are their owner's alone
            sync_and_rename(file, unfinished, out)
        finally:
            unfinished.unlink(missing_ok=True)


def check_new_folder(out: Path) -> None:
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
def atomic_folder(out: Path) -> Iterator[Path]:
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
        for path in (*unfinished.rglob("*"), unfinished):
            _sync(path)
        os.replace(unfinished, out)
        _sync(out.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def atomic_file(out: Path) -> Iterator[BinaryIO]:
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
        with allow_missing_locks():
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not (unfinished.exists() and os.path.samestat(os.fstat(file.fileno()), unfinished.stat())):
            raise BlockingIOError(f"{out} was finished by another process just now")
        try:
            file.truncate(0)
            yield file
            sync_and_rename(file, unfinished, out)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


def sync_and_rename(file: IO, unfinished: Path, out: Path) -> None:
    """Gives a file that was written its name, over what was there, once it is on the disk.

    Else a name may survive a power cut, and its content not.

    Args:
        file: open for writing.
        unfinished: its path.
        out: the name, in the same folder.

    Raises:
        OSError: if it cannot be written or renamed.
    """
    file.flush()
    os.fsync(file.fileno())
    os.replace(unfinished, out)
    _sync(out.parent)


@contextmanager
def allow_missing_locks() -> Iterator[None]:
    """Passes over a file system that knows no locks; one that is held is still a BlockingIOError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _sync(path: Path) -> None:
    """What is at `path`, a file or a folder's names, goes to the disk, where the file system can do that for it."""
    with suppress(PermissionError):  # a file that its owner may not read
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # folders, on some
                raise
        finally:
            os.close(handle)
