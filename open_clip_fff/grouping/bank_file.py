"""The file of one rank's and epoch's features: a safetensors file, though one that can grow while it is written.

    features  F16 [n, 2, D]   the image's and the text's of everything that was added, in that order
    ids       I64 [m]         the distinct ids, rising
    rows      I64 [m]         where in `features` each one is

Its metadata names the version of the ids.

So any safetensors reader opens it, and ours looks ids up in the mapped file without holding anything of it.
"""

import json
import re
from pathlib import Path

import numpy as np

from open_clip_fff.data.ids import ID_VERSION
from open_clip_fff.errors import UsageError

ROOM = 512  # bytes of the header, its length included: a fixed number, as it is written last; a multiple of 8
_VERSION = "id_version"
_NAME = re.compile(r"(\.?)epoch_(\d+)_rank_\d+\.(?:safetensors|ids)")


def bank_path(folder: Path, epoch: int, rank: int) -> Path:
    """The file of one rank and epoch."""
    return folder / f"epoch_{epoch}_rank_{rank}.safetensors"


def unfinished(path: Path) -> tuple[Path, Path]:
    """What a bank is until it is whole: its features with a dot before the name, and its ids beside them."""
    hidden = path.with_name(f".{path.name}")
    return hidden, hidden.with_suffix(".ids")


def published(folder: Path, epoch: int | None = None) -> list[Path]:
    """The ranks' files of an epoch, or of all epochs."""
    names = [(path, _NAME.fullmatch(path.name)) for path in sorted(Path(folder).glob("*.safetensors"))]
    return [path for path, name in names if name and not name[1] and epoch in (None, int(name[2]))]


def bank_header(n: int, dim: int, m: int) -> bytes:
    """8 bytes of length, then JSON, which the format lets us fill up with spaces to ROOM bytes in all."""
    middle, end = 4 * n * dim, 4 * n * dim + 8 * m
    tensors = {
        "__metadata__": {_VERSION: str(ID_VERSION)},
        "features": {"dtype": "F16", "shape": [n, 2, dim], "data_offsets": [0, middle]},
        "ids": {"dtype": "I64", "shape": [m], "data_offsets": [middle, end]},
        "rows": {"dtype": "I64", "shape": [m], "data_offsets": [end, end + 8 * m]},
    }
    return (ROOM - 8).to_bytes(8, "little") + json.dumps(tensors).encode().ljust(ROOM - 8)


def discard(folder: Path, before_epoch: int) -> None:
    """Removes the files of epochs before `before_epoch`, and what killed runs left of them.

    Who has them open can go on reading. Several ranks may call it at once.
    """
    for path in Path(folder).glob("*epoch_*"):  # none where there is no folder
        name = _NAME.fullmatch(path.name)
        if name and int(name[2]) < before_epoch:
            path.unlink(missing_ok=True)


class BankFile:
    """A published file, mapped.

    Attributes:
        path: the file.
        dim: D; 0 if nothing was added.
        features: float16 [n, 2, D].
        ids: int64 [m].
        rows: int64 [m].

    Raises:
        UsageError: if it is missing, cut, or something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        remedy = f"delete {path.parent} for an epoch in random order"
        try:
            whole = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
            header = bytes(whole[:ROOM])
            tensors = json.loads(header[8:])
            version = tensors.get("__metadata__", {}).get(_VERSION, "1")
            if version != str(ID_VERSION):
                raise UsageError(
                    f"{path} finds features by image ids of version {version}, and this release's are version "
                    f"{ID_VERSION}: no image would be found; {remedy}"
                )
            (n, _, self.dim), (m,) = tensors["features"]["shape"], tensors["ids"]["shape"]
            middle, end = ROOM + 4 * n * self.dim, ROOM + 4 * n * self.dim + 16 * m
            if header != bank_header(n, self.dim, m) or len(whole) != end:
                raise ValueError(f"it has {len(whole)} bytes, and its header speaks of {end}")
            self.features = whole[ROOM:middle].view("<f2").reshape(n, 2, self.dim)
            self.ids, self.rows = whole[middle:end].view("<i8").reshape(2, m)
        except FileNotFoundError:
            raise UsageError(
                f"{path} does not exist: grouping needs the features of every rank; resume with as many ranks as "
                f"wrote {path.parent}, or {remedy}"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path} is not a whole bank of features ({error}); {remedy}") from error
