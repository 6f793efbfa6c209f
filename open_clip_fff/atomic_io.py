"""Files and folders that are written completely or not at all."""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

from open_clip_fff.errors import UsageError, as_mistake

_UMASK = os.umask(0o077)
os.umask(_UMASK)
FILE_MODE, FOLDER_MODE = 0o666 & ~_UMASK, 0o777 & ~_UMASK  # the user's; temporary files and folders are private
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


def write_atomically(out: Path, content: str | bytes) -> None:
    """Writes a file (text as UTF-8) and its parent folders; it replaces an existing one.

    Raises OSError if it cannot be written; an existing file then stays.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("wb", prefix=f".{out.name}.", dir=out.parent, delete=False) as file:
        unfinished = Path(file.name)
        try:
            file.write(content.encode() if isinstance(content, str) else content)
            unfinished.chmod(FILE_MODE)
            sync_and_rename(file, unfinished, out)
        finally:
            unfinished.unlink(missing_ok=True)


def check_new_folder(out: Path) -> None:
    """Raises UsageError if an output folder exists with content, or cannot be made: hours before it is written."""
    with as_mistake(f"--out {out}: cannot be written", OSError):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(f"--out {out}: exists already; name another folder, or remove it")
        if out.is_dir() and out.samefile("."):
            raise UsageError(f"--out {out}: is the current folder, which a finished one cannot replace; name one in it")
        if out.resolve().is_mount():
            raise UsageError(f"--out {out}: is a mount point, which no finished folder can replace; name one in it")
    check_writable(out.resolve().parent, f"--out {out}")


def check_writable(folder: Path, flag: str) -> None:
    """Raises UsageError, which names `flag`, if a folder cannot be made or written in: hours before it is needed."""
    with as_mistake(f"{flag}: cannot be written", OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


@contextmanager
def atomic_folder(out: Path, replaces: str = "") -> Iterator[Path]:
    """A temporary folder beside `out`, which is renamed to it after the block, and removed if the block raises.

    Args:
        out: a path that does not exist by then, or an empty folder; its parents are made.
        replaces: a file's name; an existing `out` that holds this file is removed, once the new folder is on the disk.

    Raises:
        OSError: if it cannot be made or renamed.
    """
    out = out.resolve()  # a link to a folder stays one
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield unfinished
        for path in (*unfinished.rglob("*"), unfinished):
            path.chmod(FOLDER_MODE if path.is_dir() else FILE_MODE)  # safetensors' are their owner's alone
            _sync(path)
        if replaces and (out / replaces).is_file():
            shutil.rmtree(out, ignore_errors=True)
        os.replace(unfinished, out)
        _sync(out.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def atomic_file(out: Path) -> Iterator[BinaryIO]:
    """A file beside `out`, open for writing, which is renamed to it after the block, and removed if the block raises.

    Its folder must exist; what a killed process left is overwritten.

    Raises:
        BlockingIOError: if another process is writing it.
        OSError: if it cannot be written.
    """
    unfinished = out.with_name(f".{out.name}.unfinished")
    handle = os.open(unfinished, os.O_RDWR | os.O_CREAT, 0o666)  # not truncated: another process may be writing
    with os.fdopen(handle, "wb") as file:
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
    """Renames a written file, still open at `unfinished`, to `out` after it is on the disk.

    Without the sync a power cut may keep the name and lose the content.
    """
    file.flush()
    os.fsync(file.fileno())
    os.replace(unfinished, out)
    _sync(out.parent)


@contextmanager
def allow_missing_locks() -> Iterator[None]:
    """Ignores the errors of a file system without locks; a lock that is held still raises BlockingIOError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _sync(path: Path) -> None:
    """Syncs a file, or a folder's entries, to the disk, where the file system supports that."""
    with suppress(PermissionError):  # a file that its owner may not read
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # folders, on some
                raise
        finally:
            os.close(handle)
