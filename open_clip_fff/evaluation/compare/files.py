"""The folder of a comparison: ours are the files that its comparison.json names, and no others are written over."""

import json
from collections.abc import Mapping
from pathlib import Path

from open_clip_fff.atomic_io import write_atomically
from open_clip_fff.errors import UsageError

INDEX = "comparison.json"


def check_out(out: Path, names: tuple[str, ...]) -> None:
    """Before any work is done: whether these files may be written.

    Raises:
        UsageError: if one of them is somebody else's.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: is a file; give a folder")
    if foreign := sorted({name for name in names if (out / name).exists()} - _ours(out)):
        raise UsageError(f"--out {out}: holds {', '.join(foreign)}, not of an earlier comparison; give another folder")


def write_out(out: Path, index: Mapping, files: Mapping[str, bytes]) -> None:
    """Writes each file whole; what an earlier comparison wrote and this one does not is removed.

    Args:
        out: the folder, made where it is missing.
        index: what `INDEX` holds; the names of the files are added.
        files: contents by name.
    """
    out.mkdir(parents=True, exist_ok=True)
    stale = _ours(out) - set(files) - {INDEX}
    names = [INDEX, *files]
    # first of all, so that a second start after a crash finds its files to be ours
    text = json.dumps({**index, "files": sorted({*names, *stale})}, indent=2, ensure_ascii=False)
    write_atomically(out / INDEX, text.encode() + b"\n")
    for name, content in files.items():
        write_atomically(out / name, content)
    for name in stale:
        (out / name).unlink(missing_ok=True)
    write_atomically(out / INDEX, (json.dumps({**index, "files": names}, indent=2, ensure_ascii=False) + "\n").encode())


def _ours(out: Path) -> set[str]:
    try:
        names = json.loads((out / INDEX).read_text())["files"]
        return {INDEX, *(name for name in names if Path(name).name == name)}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
