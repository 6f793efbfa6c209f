"""Keeps the files that describe a run's training: each start rewrites them, even if it trains nothing."""

import os
from pathlib import Path

from open_clip_fff.atomic_io import write_atomically
from open_clip_fff.errors import as_mistake
from open_clip_fff.hub.description import CONFIG_NAME

NAMES = ("params.txt", CONFIG_NAME)
COPY = ".{}.epoch_latest.pt"  # --remote-sync skips such names


class RunFiles:
    """The files of a folder that another run trained in, kept until this one trains."""

    def __init__(self, run: Path) -> None:
        """Copies the files, after putting back copies of a process that was killed before it trained.

        Raises UsageError if the disk is full: a start empties the files before it writes them.
        """
        self._copies = {run / name: run / COPY.format(name) for name in NAMES}
        self.put_back()
        for path, copy in self._copies.items():
            if path.is_file():
                with as_mistake(f"{path}: cannot be kept", OSError):
                    write_atomically(copy, path.read_bytes())

    def put_back(self) -> None:
        """Restores the files, if nothing was trained."""
        for path, copy in self._copies.items():
            if copy.is_file():
                os.replace(copy, path)

    def drop(self) -> None:
        """Deletes the copies, once a step was trained: the files now describe this run."""
        for copy in self._copies.values():
            copy.unlink(missing_ok=True)
