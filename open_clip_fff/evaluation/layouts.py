"""Finding evaluation sets on disk: clip-benchmark's webdataset form, or the form that torchvision reads."""

import hashlib
import os
import tarfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from open_clip_fff.data.class_texts import NAMES, TEMPLATES, odd_names
from open_clip_fff.data.row_counts import tar_entries
from open_clip_fff.data.shards import IMAGES
from open_clip_fff.data.tars import Header
from open_clip_fff.errors import UsageError, reason
from open_clip_fff.evaluation.protocol import IMAGE_TO_TEXT, PROTOCOL, RETRIEVAL, ZERO_SHOT, EvalSet

SPLIT = "test"  # clip-benchmark's name for the sets' own test or val split

# Files in torchvision's form, below its class's root: a set has all files of one group.
NATIVE: dict[str, tuple[tuple[str, ...], ...]] = {
    "cifar10": (("cifar-10-batches-py",),),
    "cifar100": (("cifar-100-python",),),
    "food101": (("food-101/images",),),
    "pets": (("oxford-iiit-pet/images",),),
    "flowers": (("flowers-102/jpg",),),
    "sun397": (("SUN397",),),
    "cars": (("stanford_cars/cars_test", "stanford_cars/cars_test_annos_withlabels.mat"),),
    "dtd": (("dtd/dtd/images",),),
    "caltech101": (("caltech101/101_ObjectCategories",),),
    "fgvc_aircraft": (("fgvc-aircraft-2013b/data/images",),),
    "imagenet1k": (("val", "meta.bin"), ("ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz")),
    "flickr30k": (("flickr30k_test_karpathy.txt",),),
    "mscoco_captions": (("val2014", "coco_test_karpathy.json"),),
}
HUB = "clip-benchmark"  # the organisation that has the sets in webdataset form
CLASS_FILES = (NAMES, TEMPLATES)  # of a classification set
PREFIXES = ("wds/vtab/", "wds/", "vtab/", "wds_vtab-", "wds_")  # of sets' names in clip-benchmark and on the hub
TYPE_FILE = "dataset_type.txt"
LABELS = {"classification": "cls", "multilabel": "npy", "retrieval": "txt"}  # the member, by what the file says
MOST_TEXT = 2**20  # bytes of a member with a label or captions
PAIR = 5  # bytes that clip-benchmark holds of each image and caption: a cosine, and whether they belong together
MUCH = 8e9  # bytes of memory
VTAB = ("caltech101", "cifar10", "cifar100", "dtd", "flowers", "pets")  # there as wds_vtab-NAME


class LocalSet(NamedTuple):
    """An evaluation set on disk."""

    spec: EvalSet  # its name, task and metric
    dataset: str  # clip-benchmark's name for it: `wds/cifar10`, `cifar10`
    root: Path  # its `--dataset_root`
    shards: int  # tars of the split; 0 for torchvision's form

    @property
    def layout(self) -> str:
        return "webdataset" if self.shards else "torchvision"

    def contents(self, split: str = SPLIT) -> str | None:
        """Two hashes that show whether a split has changed; None without tars.

        The first is of the tars' sizes and the texts beside them. The second, which older scores lack, is of the
        members' names and sizes, and of labels and captions: changed labels may leave a tar's size the same.
        """
        if not self.shards:
            return None
        tars = sorted((self.root / split).glob("*.tar"))
        sizes = [f"{path.name} {path.stat().st_size}" for path in tars]
        texts = [path.read_bytes() for name in CLASS_FILES if (path := self.root / name).is_file()]
        members = (each.digest.encode() for each in self.members(split))
        return _short_hash([*map(str.encode, sizes), *texts]) + _short_hash(members)

    def members(self, split: str = SPLIT) -> list["_Members"]:
        """What a split's tars contain; each is read once per process while it does not change."""
        found = [(path, path.stat()) for path in sorted((self.root / split).glob("*.tar"))]
        return [_members(path, stat.st_size, stat.st_mtime_ns) for path, stat in found]


def _short_hash(parts: Iterable[bytes]) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


class _Members(NamedTuple):
    """What is in a tar."""

    digest: str  # a hash of its members, by name and size, and of all that are no images
    texts: int  # members with captions, a line each
    captions: int


@cache
def _members(path: Path, size: int, changed: int) -> _Members:
    """Reads a tar's members except images, up to any damage; size and time of change are the cache's key."""
    digest, texts, captions = hashlib.sha256(), 0, 0
    with suppress(OSError, tarfile.TarError), tarfile.open(path, tarinfo=Header) as tar:
        for member in tar:
            is_text = member.isfile() and not member.name.lower().endswith(IMAGES) and member.size <= MOST_TEXT
            file = tar.extractfile(member) if is_text else None
            content = b"" if file is None else file.read()
            digest.update(f"{member.name} {member.size} ".encode(errors="surrogateescape") + content)
            if member.name.endswith(".txt"):
                texts, captions = texts + 1, captions + content.count(b"\n") + 1
    return _Members(digest.hexdigest(), texts, captions)


def find_sets(
    names: list[str], root: Path, flags: tuple[str, str] = ("--datasets", "--data-root")
) -> tuple[list[LocalSet], list[str]]:
    """Finds sets by name, or `["all"]`: those below `root` in webdataset form, and the paper's.

    Returns the sets found, and the names of the missing ones. Error lines name the `flags` of names and root.

    Raises UsageError if a name is a path, or neither the paper's nor a folder there, or a set lacks some of its files.
    """
    if not root.is_dir():
        raise UsageError(f"{flags[1]} {root}: there is no such folder")
    folders = sorted(root.glob("[!.]*"))  # without unfinished folders, whose names begin with a dot
    others = [path.name for path in folders if _is_webdataset(path, SPLIT)]
    if names == ["all"]:
        taken = {path.name for name in PROTOCOL for path in _folders(name, root)}
        names = [*(name for name in others if name not in taken), *PROTOCOL]  # the user's own first
        for path in folders:
            _check_complete(path)
    found, missing = [], []
    for name in names:
        local = find_set(name, root)
        prefix = next((each for each in PREFIXES if name.startswith(each)), None)
        if local is None and prefix is not None:
            name = name.removeprefix(prefix)
            local = find_set(name, root)
        at = Path(os.path.abspath(root / name))
        if name != at.name:  # scores are stored under the name, and a path would lead elsewhere
            raise UsageError(f"{flags[0]} {name}: is a path; name the set: {flags[1]} {at.parent} {flags[0]} {at.name}")
        if local is not None:
            found.append(local)
        elif name in PROTOCOL:
            missing.append(name)
        else:
            _check_complete(root / name)
            here = f", nor a set in webdataset form in {root} (there: {', '.join(others) or 'none'})"
            if (root / name).is_dir():
                fix = f"open-clip-fff class-set makes one of a folder of images, as {root / name / SPLIT}"
                raise UsageError(f"{flags[0]} {name}: {root / name} is a folder, and no set in webdataset form; {fix}")
            raise UsageError(f"{flags[0]} {name}: not one of {', '.join(PROTOCOL)}{here}")
    return found, missing


def find_set(name: str, root: Path) -> LocalSet | None:
    """Finds one set below `root`, preferably in webdataset form; None if it is missing.

    Raises UsageError if some of its files are missing.
    """
    for folder in _folders(name, root):
        _check_complete(folder)
        if _is_webdataset(folder, SPLIT):
            return LocalSet(_spec(name, folder), f"wds/{name}", folder, _shards(folder / SPLIT))
    for folder in (root / name, root):
        for group in NATIVE.get(name, ()):
            if all((folder / path).exists() for path in group):
                return LocalSet(PROTOCOL[name], name, folder, 0)
    return None


def name_warnings(sets: Iterable[LocalSet]) -> list[str]:
    """A warning for each of the user's sets with one class, or with several classes of one name (as in ImageNet)."""
    own = [at for at in sets if at.shards and at.spec.task != RETRIEVAL and at.spec.name not in PROTOCOL]
    return [line for at in own for line in odd_names(at.root, at.spec.metric == EvalSet.metric)]


def memory_warnings(sets: Iterable[LocalSet]) -> list[str]:
    """A warning for each retrieval set in webdataset form that takes more than MUCH memory to score."""
    found = []
    for at in sets:
        if at.shards and at.spec.task == RETRIEVAL:
            members = at.members()
            images, captions = sum(each.texts for each in members), sum(each.captions for each in members)
            if (size := PAIR * images * captions) > MUCH:
                pairs = f"{images:,} images x {captions:,} captions"
                found.append(
                    f"warning: {at.spec.name}: {pairs} take about {size / 1e9:,.0f} GB of memory to score; "
                    f"retrieval-set makes smaller sets, of fewer shards"
                )
    return found


def other_split(local: LocalSet, split: str) -> LocalSet | None:
    """Another split of a set in webdataset form; None if it is missing."""
    if not local.shards or not _is_webdataset(local.root, split):
        return None
    return local._replace(shards=_shards(local.root / split))


def where_to_get(names: Sequence[str], root: Path) -> str:
    """A table of where sets of the paper can be downloaded, and of the files that torchvision's form has."""
    rows = [("not in " + str(root), "webdataset form, on the hub", "or torchvision's form, in DIR/SET or DIR")]
    rows += [(name, repositories(name)[0], " or ".join(map(" + ".join, NATIVE[name]))) for name in names]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{name:<{widths[0]}}   {hub:<{widths[1]}}   {native}" for name, hub, native in rows]
    return "\n".join([*lines, "--download gets the webdataset form; its folder may be named as on the hub"])


def download(name: str, root: Path) -> None:
    """Downloads the test split of a paper's set from the hub into `root`/`name`. Raises UsageError if it cannot."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    files = [f"{SPLIT}/*", "*.txt"]
    for repository in repositories(name):
        try:
            snapshot_download(repository, repo_type="dataset", local_dir=root / name, allow_patterns=files)
            return
        except RepositoryNotFoundError:
            continue
        except Exception as error:
            raise UsageError(f"--download: {repository} cannot be downloaded ({reason(error)})") from error
    raise UsageError(f"--download: the hub has neither of {', '.join(repositories(name))}")


def repositories(name: str) -> list[str]:
    """Hub repositories that may have a set of the paper in webdataset form, the likelier one first."""
    names = [f"{HUB}/wds_{name}", f"{HUB}/wds_vtab-{name}"]
    return names[::-1] if name in VTAB else names


def _folders(name: str, root: Path) -> list[Path]:
    """Folders that may hold a set in webdataset form: by its name, the hub's names, or `root` itself."""
    names = (name, f"wds_{name}", f"wds_vtab-{name}")
    return [root / each for each in names] + ([root] if root.resolve().name in names else [])


def _is_webdataset(folder: Path, split: str) -> bool:
    return (folder / split / "nshards.txt").is_file()


def _check_complete(folder: Path) -> None:
    """Raises UsageError for a folder that has some of the files of a set in webdataset form, and not all."""
    split = folder / SPLIT
    if not any((folder / name).is_file() for name in (*CLASS_FILES, TYPE_FILE)) and not any(split.glob("*.tar")):
        return
    _check_label(folder, split / "0.tar")
    wanted = [split / "nshards.txt", *(() if _type(folder) == "retrieval" else (folder / name for name in CLASS_FILES))]
    if missing := [str(path.relative_to(folder)) for path in wanted if not path.is_file()]:
        raise UsageError(
            f"{folder}: is a set in webdataset form without {' and '.join(missing)}; open-clip-fff class-set and "
            "retrieval-set make complete ones"
        )


def _check_label(folder: Path, tar: Path) -> None:
    """Raises UsageError if the first sample of a split lacks the label that the set's type needs."""
    found, label = [], LABELS[_type(folder)]
    with suppress(OSError, tarfile.TarError):  # reported when the set is scored
        _, entries = next(groupby(tar_entries(str(tar), "r"), itemgetter(0)), ("", ()))
        for _, extension, _ in entries:  # members before any damage count, too
            found.append(extension.lower())
    if found and label not in found:
        kinds = ", ".join(f"{member} for {kind}" for kind, member in LABELS.items())
        raise UsageError(
            f"{tar}: its first sample has {' + '.join(found)}, and no {label}, as a set for {_type(folder)} has; "
            f"{folder / TYPE_FILE} says what a set is for ({kinds})"
        )


def _type(folder: Path) -> str:
    """`classification`, `multilabel` or `retrieval`."""
    path = folder / TYPE_FILE
    found = path.read_text().strip().lower() if path.is_file() else ""
    return found if found in LABELS else "classification"


def _spec(name: str, folder: Path) -> EvalSet:
    if name in PROTOCOL:
        return PROTOCOL[name]
    match _type(folder):
        case "retrieval":
            return EvalSet(name, name, RETRIEVAL, f"{IMAGE_TO_TEXT}@1")
        case "multilabel":
            return EvalSet(name, name, ZERO_SHOT, "mean_average_precision")
        case _:
            return EvalSet(name, name)


def _shards(split: Path) -> int:
    content = (split / "nshards.txt").read_text().strip()
    if not content.isdigit() or int(content) < 1:
        raise UsageError(f"{split / 'nshards.txt'}: not a number of tars: {content[:40]!r}")
    for shard in range(int(content)):
        if not (split / f"{shard}.tar").is_file():
            raise UsageError(
                f"{split / f'{shard}.tar'}: missing, but nshards.txt counts {content}; download the set again"
            )
    return int(content)
