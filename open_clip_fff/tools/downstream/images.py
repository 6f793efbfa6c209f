"""The image files of the public sets, found by the names that their files have."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from open_clip_fff.errors import UsageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
SHOWN = 3


class ImageFolders:
    """The images in the folders of --images and those below, by a key of their file names without suffix.

    Raises UsageError for a folder that does not exist.
    """

    def __init__(self, folders: Sequence[Path], key: Callable[[str], str] = str) -> None:
        self.folders, self._paths = folders, dict[str, list[Path]]()
        for folder in folders:
            if not folder.is_dir():
                raise UsageError(f"--images {folder}: there is no such folder")
            for below, _, names in os.walk(folder, followlinks=True):
                for stem, suffix in map(os.path.splitext, names):
                    if suffix.lower() in SUFFIXES:
                        self._paths.setdefault(key(stem), []).append(Path(below, stem + suffix))

    def find(self, keys: Iterable[str], asked_by: Path) -> dict[str, Path]:
        """The file of each key that the file `asked_by` names. Raises UsageError if one is missing, or there twice."""
        wanted = dict.fromkeys(keys)
        if missing := [key for key in wanted if key not in self._paths]:
            shown = ", ".join(missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
            folders = " ".join(map(str, self.folders))
            lack = f"{len(missing)} of {len(wanted)} images of {asked_by} are not there: {shown}"
            raise UsageError(f"--images {folders}: {lack}")
        if twice := next((self._paths[key] for key in wanted if len(self._paths[key]) > 1), None):
            raise UsageError(f"--images: {twice[0]} and {twice[1]} are the same image of {asked_by}; name one folder")
        return {key: self._paths[key][0] for key in wanted}


def coco_key(stem: str) -> str:
    """An image id as COCO's files have it: `COCO_val2014_000000000042` and `42` are `42`; other names stay."""
    found = re.fullmatch(r"(?:COCO_\w+_)?(\d+)", stem)
    return str(int(found[1])) if found else stem
