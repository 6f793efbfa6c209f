"""The file of one rank's features of one epoch: a safetensors file that can grow while it is written.

    features  F16 [n, 2, D]   image's and text's, of each added sample in order
    ids       I64 [m]         distinct ids, ascending
    rows      I64 [m]         the row of `features` of each id

Its metadata holds the version of the ids. Any safetensors reader opens it; ours looks ids up in the mapped file, and
reads nothing else of it.
"""

import json
import re
from pathlib import Path

import numpy as np

from open_clip_fff.data.ids import ID_VERSION, check_version
from open_clip_fff.errors import UsageError

HEADER_BYTES = 512  # with the 8 of its length; fixed, because the header is written last; a multiple of 8
_VERSION = "id_version"
_NAME = re.compile(r"(\.?)epoch_(\d+)_rank_\d+\.(?:safetensors|ids)")


def bank_path(folder: Path, epoch: int, rank: int) -> Path:
    """The file of one rank and epoch."""
    return folder / f"epoch_{epoch}_rank_{rank}.safetensors"


def partial_files(path: Path) -> tuple[Path, Path]:
    """The hidden files that a bank consists of until it is published: its features, and its ids."""
    hidden = path.with_name(f".{path.name}")
    return hidden, hidden.with_suffix(".ids")


def published(folder: Path, epoch: int | None = None) -> list[Path]:
    """The ranks' files of an epoch, or of all epochs."""
    names = [(path, _NAME.fullmatch(path.name)) for path in sorted(Path(folder).glob("*.safetensors"))]
    return [path for path, name in names if name and not name[1] and epoch in (None, int(name[2]))]


def discard(folder: Path, before_epoch: int) -> None:
    """Removes the files of earlier epochs, unfinished ones included; open ones can still be read.

    Several ranks may call it at once.
    """
    for path in Path(folder).glob("*epoch_*"):
        name = _NAME.fullmatch(path.name)
        if name and int(name[2]) < before_epoch:
            path.unlink(missing_ok=True)


def bank_header(n: int, dim: int, m: int) -> bytes:
    """8 bytes of length, then JSON, padded with spaces (which the format allows) to HEADER_BYTES in all."""
    middle, end = 4 * n * dim, 4 * n * dim + 8 * m
    tensors = {
        "__metadata__": {_VERSION: str(ID_VERSION)},
        "features": {"dtype": "F16", "shape": [n, 2, dim], "data_offsets": [0, middle]},
        "ids": {"dtype": "I64", "shape": [m], "data_offsets": [middle, end]},
        "rows": {"dtype": "I64", "shape": [m], "data_offsets": [end, end + 8 * m]},
    }
    return (HEADER_BYTES - 8).to_bytes(8, "little") + json.dumps(tensors).encode().ljust(HEADER_BYTES - 8)


class BankFile:
    """A published file, mapped.

    Attributes:
        path: of the file.
        dim: D; 0 if nothing was added.
        features, ids, rows: float16 [n, 2, D], int64 [m] and int64 [m].

    Raises:
        UsageError: if it is missing, truncated, or no bank.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        remedy = f"delete {path.parent} for an epoch in random order"
        try:
            content = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
            header = bytes(content[:HEADER_BYTES])
            tensors = json.loads(header[8:])
            check_version(int(tensors.get("__metadata__", {}).get(_VERSION, 1)), str(path), remedy)
            (n, _, self.dim), (m,) = tensors["features"]["shape"], tensors["ids"]["shape"]
            middle = HEADER_BYTES + 4 * n * self.dim
            end = middle + 16 * m
            if header != bank_header(n, self.dim, m) or len(content) != end:
                raise ValueError(f"it has {len(content)} bytes, and by its header {end}")
            self.features = content[HEADER_BYTES:middle].view("<f2").reshape(n, 2, self.dim)
            self.ids, self.rows = content[middle:end].view("<i8").reshape(2, m)
        except FileNotFoundError:
            raise UsageError(
                f"{path} does not exist: grouping needs the features of every rank; resume with as many ranks as "
                f"wrote {path.parent}, or {remedy}"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path} is not a complete bank of features ({error}); {remedy}") from error
