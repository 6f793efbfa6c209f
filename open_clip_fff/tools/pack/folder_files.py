"""Images below a folder, and the files there that are not used."""

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from open_clip_fff.errors import as_mistake, printable
from open_clip_fff.plural import plural

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
CAPTION_SUFFIXES = (".txt", ".caption")  # of files beside an image, with a caption a line
FIELDS_SUFFIX = ".json"
SHOWN = 2  # names of each kind
FIXES = {  # by suffix: what helps with data that are not read
    ".arrow": "write a parquet with datasets: load_from_disk(FOLDER).to_parquet(FILE)",
    ".tfrecord": "write its images and captions as tars, or into a parquet",
    ".token": "write a tab and names of columns into its first line, and let it end in .tsv",
    ".xlsx": "save it as CSV",
    ".zip": "unpack it",
}


class UnusedFiles:
    """Files that are not used, counted by suffix."""

    def __init__(self) -> None:
        self._found: dict[str, list[str]] = defaultdict(list)
        self._counts: dict[str, int] = defaultdict(int)

    def add(self, name: str) -> None:
        suffix = os.path.splitext(name)[1].lower()
        self._counts[suffix] += 1
        if self._counts[suffix] <= SHOWN:
            self._found[suffix].append(printable(name))

    @property
    def lines(self) -> list[str]:
        """`2 .parquet (00000.parquet, 00001.parquet), …`, most frequent first; empty for none."""
        parts = []
        for suffix, count in sorted(self._counts.items(), key=lambda entry: (-entry[1], entry[0])):
            names = [*self._found[suffix], *["…"] * (count > SHOWN)]
            parts.append(f"{count:,} {printable(suffix) or 'without a suffix'} ({', '.join(names)})")
        return [", ".join(parts)] if parts else []


def unused_in(source: str, used: Iterable[str], images: bool) -> list[str]:
    """A line on the files directly in a source that are not `used`; none if it is no folder, or all are used.

    With `images`, its images are used, too. Raises UsageError if it cannot be read.
    """
    unused, read, folder = UnusedFiles(), {Path(path).name for path in used}, Path(source)
    for name, is_folder in folder_entries(folder) if folder.is_dir() else ():
        if not is_folder and name not in read and not (images and _suffix(name) in IMAGE_SUFFIXES):
            unused.add(name)
    return unused.lines


def image_folders_in(source: str) -> list[str]:
    """A line on the folders with images directly in a source of shards; none if it is no folder, or has none."""
    folder = Path(source)
    entries = folder_entries(folder) if folder.is_dir() else []
    names = [name for name, is_folder in entries if is_folder and has_images(folder / name)]
    shown = ", ".join([*map(printable, names[:SHOWN]), *["…"] * (len(names) > SHOWN)])
    return [f"{plural(len(names), 'folders')} with images ({shown})"] if names else []


def images_below(
    folder: Path, unused: UnusedFiles, out: Path | None = None, beside: bool = True, known: Collection[str] = ()
) -> Iterator[Path]:
    """Images in a folder and below, folder by folder, in the order of names; no hidden files.

    Links to a folder's parents are not followed, and the output folder `out` is skipped. `unused` gets all other files
    except `known` ones and, with `beside`, files named after an image, as in `files_beside`.

    Raises UsageError if a folder cannot be read.
    """
    owned = in_both_cases((*CAPTION_SUFFIXES, FIELDS_SUFFIX)) if beside else []
    paths = frozenset(map(Path, known))

    def below(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
        here = _inode(folder)
        if here in above:
            return
        found = folder_entries(folder)
        images = {name for name, is_folder in found if not is_folder and _suffix(name) in IMAGE_SUFFIXES}
        owners = images | {os.path.splitext(name)[0] for name in images}
        for name, is_folder in found:
            if is_folder:
                yield from below(folder / name, (*above, here))
            elif name in images:
                yield folder / name
            else:
                stem, suffix = os.path.splitext(name)
                if not (suffix in owned and stem in owners) and folder / name not in paths:
                    unused.add(name)

    yield from below(folder, () if out is None or not out.is_dir() else (_inode(out),))


def has_images(folder: Path) -> bool:
    """Whether there is an image in a folder or below. Raises UsageError as `images_below`."""
    return next(images_below(folder, UnusedFiles()), None) is not None


def files_beside(image: str, suffixes: Iterable[str]) -> list[str]:
    """Paths of the files that belong to an image: `NAME.txt` and `NAME.jpg.txt`, for each suffix, also in capitals."""
    stem = os.path.splitext(image)[0]
    paths = (f"{name}{suffix}" for suffix in in_both_cases(suffixes) for name in (stem, image))
    # once each: many disks find a file by its name in either case
    return list({_inode(Path(path)): path for path in paths if os.path.exists(path)}.values())


def in_both_cases(suffixes: Iterable[str]) -> list[str]:
    """Each suffix as it is, and in capitals."""
    return [each for suffix in suffixes for each in (suffix, suffix.upper())]


def _inode(path: Path) -> tuple[int, int]:
    """Device and inode of a folder or file. Raises UsageError if it cannot be read."""
    with as_mistake(f"{path} cannot be read", OSError):
        here = path.stat()
        return here.st_dev, here.st_ino


def folder_entries(folder: Path) -> list[tuple[str, bool]]:
    """Names in a folder, and whether each is a folder; without hidden entries, and those that macOS adds to zips.

    Raises UsageError if it cannot be read.
    """
    with as_mistake(f"{folder} cannot be read", OSError), os.scandir(folder) as entries:
        shown = (entry for entry in entries if not entry.name.startswith((".", "__MACOSX")))
        return sorted((entry.name, entry.is_dir()) for entry in shown)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()
