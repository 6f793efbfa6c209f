"""Locks a run's folder: a second run resumed in it would overwrite the first one's checkpoints."""

import fcntl
import os
import socket
from collections.abc import Callable
from pathlib import Path

from open_clip_fff.atomic_io import allow_missing_locks
from open_clip_fff.errors import UsageError, as_mistake

# --remote-sync-protocol fsspec skips names with epoch_latest.pt: a process that closes the file loses its lock
NAME = ".epoch_latest.pt.lock"


def lock_run(folder: Path) -> Callable[[], None]:
    """Locks a run's folder for this process until the returned function is called, or the process ends.

    The lock is a POSIX record lock: no child inherits it, so a loader worker that outlives its run holds nothing. Other
    machines see it if the file system shares locks; if it has no locks, nothing is locked. Raises UsageError if another
    process holds the lock.
    """
    with as_mistake(f"{folder / NAME}: cannot be written", OSError):
        handle = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            with allow_missing_locks():
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.truncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        except BlockingIOError as error:
            holder = os.read(handle, 200).decode(errors="replace") or "another process"
            os.close(handle)
            raise UsageError(
                f"{folder}: a run lives in this folder ({holder}); wait for its end, or start under another --name"
            ) from error
    return lambda: os.close(handle)
