"""Going through a folder: its pictures, and what lies there that is no picture's."""

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from open_clip_fff.errors import UsageError, printable

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
CAPTION_SUFFIXES = (".txt", ".caption")  # of files beside a picture, a caption a line
FIELDS_SUFFIX = ".json"
SHOWN = 2  # names of each kind


class Unused:
    """Files that are not used, counted by suffix."""

    def __init__(self) -> None:
        self._found: dict[str, list[str]] = defaultdict(list)
        self._counts: dict[str, int] = defaultdict(int)

    def add(self, name: str) -> None:
        """One more."""
        suffix = os.path.splitext(name)[1].lower()
        self._counts[suffix] += 1
        if self._counts[suffix] <= SHOWN:
            self._found[suffix].append(printable(name))

    @property
    def lines(self) -> list[str]:
        """`2 .parquet (00000.parquet, 00001.parquet)` and so on, most frequent first; none for none."""
        most = sorted(self._counts.items(), key=lambda entry: (-entry[1], entry[0]))
        parts = []
        for suffix, count in most:
            names = [*self._found[suffix], *(["…"] if count > SHOWN else [])]
            parts.append(f"{count:,} {suffix or 'without a suffix'} ({', '.join(names)})")
        return [", ".join(parts)] if parts else []


def unused_in(source: str, used: Iterable[str], pictures: bool) -> list[str]:
    """A line on the files right in a folder that are not used, if there are any.

    Args:
        source: a folder; there is no line for anything else.
        used: paths of those that are.
        pictures: whether its pictures are used, too.

    Raises:
        UsageError: if it cannot be read.
    """
    unused, read, folder = Unused(), {Path(path).name for path in used}, Path(source)
    if folder.is_dir():
        for name, is_folder in entries_of(folder):
            if not is_folder and name not in read and not (pictures and _suffix(name) in PICTURES):
                unused.add(name)
    return unused.lines


def images_below(
    folder: Path, unused: Unused, out: Path | None = None, beside: bool = True, known: Collection[str] = ()
) -> Iterator[Path]:
    """Pictures in a folder and below, in the order of names, folder by folder; no hidden files.

    Args:
        folder: it is gone through with all that is below it; a link that leads back up is not followed.
        unused: gets what is none.
        out: a folder that is passed over: what is being made.
        beside: whether that is not so of files that are named after a picture, as `files_beside` looks for them.
        known: paths of files that are used otherwise.

    Raises:
        UsageError: if a folder cannot be read.
    """
    owned = (*CAPTION_SUFFIXES, FIELDS_SUFFIX) if beside else ()
    passed = () if out is None or not out.is_dir() else (_place(out),)
    yield from _below(folder, passed, unused, owned, frozenset(map(Path, known)))


def files_beside(image: Path, suffixes: Iterable[str]) -> list[Path]:
    """Where what belongs to a picture may lie: `NAME.txt` and `NAME.jpg.txt`, for each suffix."""
    return [place for suffix in suffixes for place in (image.with_suffix(suffix), image.with_name(image.name + suffix))]


def _below(
    folder: Path,
    above: tuple[tuple[int, int], ...],
    unused: Unused,
    owned: tuple[str, ...],
    known: frozenset[Path],
) -> Iterator[Path]:
    here = _place(folder)
    if here in above:
        return
    found = entries_of(folder)
    pictures = {name for name, is_folder in found if not is_folder and _suffix(name) in PICTURES}
    owners = pictures | {os.path.splitext(name)[0] for name in pictures}
    for name, is_folder in found:
        if is_folder:
            yield from _below(folder / name, (*above, here), unused, owned, known)
        elif name in pictures:
            yield folder / name
        else:
            stem, suffix = os.path.splitext(name)
            if not (suffix in owned and stem in owners) and folder / name not in known:
                unused.add(name)


def _place(folder: Path) -> tuple[int, int]:
    """What a folder is, by whichever name. Raises UsageError if it cannot be looked at."""
    try:
        here = folder.stat()
    except OSError as error:
        raise UsageError(f"{folder} cannot be read ({error})") from error
    return here.st_dev, here.st_ino


def entries_of(folder: Path) -> list[tuple[str, bool]]:
    """Names in a folder, and whether they are folders; no hidden ones."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise UsageError(f"{folder} cannot be read ({error})") from error


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()
