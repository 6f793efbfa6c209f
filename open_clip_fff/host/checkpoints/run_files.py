"""What a run's folder says of its training, which OpenCLIP writes anew at each start, even if that trains nothing."""

import os
from pathlib import Path

from open_clip_fff.atomic_io import write_atomically
from open_clip_fff.errors import as_mistake
from open_clip_fff.hub.description import CONFIG_NAME

NAMES = ("params.txt", CONFIG_NAME)
COPY = ".{}.epoch_latest.pt"  # --remote-sync passes over such names


class RunFiles:
    """The files of a folder that another run trained in, kept until this one trains."""

    def __init__(self, run: Path) -> None:
        """Copies them; those of a process that was killed before it trained come back first.

        Raises UsageError if there is no space: OpenCLIP empties the files before it writes them.
        """
        self._copies = {run / name: run / COPY.format(name) for name in NAMES}
        self.put_back()
        for path, copy in self._copies.items():
            if path.is_file():
                with as_mistake(f"{path}: cannot be kept", OSError):
                    write_atomically(copy, path.read_bytes())

    def put_back(self) -> None:
        """Nothing was trained: the files are as they were."""
        for path, copy in self._copies.items():
            if copy.is_file():
                os.replace(copy, path)

    def drop(self) -> None:
        """A step was trained: the files are this run's from now on."""
        for copy in self._copies.values():
            copy.unlink(missing_ok=True)
