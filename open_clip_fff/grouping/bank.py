"""The features of one epoch on disk, by sample id: from them the next epoch's groups are made.

GRIT-VLP (arXiv 2208.04060) keeps them in memory, with ids in float32, which are wrong above 16.7 million; here ids are
int64 throughout.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from open_clip_fff.errors import UsageError
from open_clip_fff.grouping.bank_file import HEADER_BYTES, BankFile, bank_header, bank_path, partial_files


class PartialBank(NamedTuple):
    """The size of an unpublished bank: its number of samples, and D, None before the first."""

    rows: int
    dim: int | None

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of the features' file and of the ids' file."""
        return HEADER_BYTES + 4 * self.rows * (self.dim or 0), 8 * self.rows


class BankWriter:
    """Writes the features that one rank's training steps of one epoch produce.

    Memory does not grow with the epoch until `publish` sorts the ids (about 40 bytes per sample). A run that is killed
    before that leaves hidden files, which the next writer of the same rank and epoch overwrites, or continues after
    `start` (see `find_partial`). The folder is made if it does not exist.

    Raises OSError, as the methods do, if nothing can be written there.
    """

    def __init__(self, folder: Path, epoch: int, rank: int, start: PartialBank | None = None) -> None:
        self.path = bank_path(Path(folder), epoch, rank)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # In the published file, ids come after all features; until then they are in a file of their own.
        self._features_path, self._ids_path = partial_files(self.path)
        mode = "r+b" if start else "wb"
        self._features, self._ids = self._features_path.open(mode), self._ids_path.open(mode)
        self._rows, self._dim = start or PartialBank(0, None)
        if start:
            for file, size in zip((self._features, self._ids), start.sizes, strict=True):
                file.truncate(size)
                file.seek(size)
        else:
            self._features.write(bytes(HEADER_BYTES))

    def flush(self) -> PartialBank:
        """Writes to the disk what was added so far, and returns how much that is."""
        for file in (self._features, self._ids):
            file.flush()
            os.fsync(file.fileno())
        return PartialBank(self._rows, self._dim)

    def add(self, ids: Tensor, image: Tensor, text: Tensor) -> None:
        """Appends B samples, in float16; of equal ids the last one counts.

        Negative ids, and samples with a feature that is not finite in float16, will not be found.

        Args:
            ids: int64 [B].
            image: [B, D], on any device; this waits for the copy to the CPU.
            text: [B, D].

        Raises:
            ValueError: if shapes do not go together, D differs from earlier samples', or ids are not int64.
        """
        _check_ids(ids)
        if image.shape != text.shape or image.ndim != 2 or len(image) != len(ids):
            raise ValueError(
                f"image and text features of {len(ids)} ids are both [{len(ids)}, D], not {list(image.shape)} and "
                f"{list(text.shape)}"
            )
        if self._dim is not None and image.shape[1] != self._dim:
            raise ValueError(f"features have D = {image.shape[1]}, those before had {self._dim}")
        self._dim = image.shape[1]
        features = torch.stack([image.detach().half(), text.detach().half()], dim=1).cpu()
        usable = features.isfinite().all(dim=2).all(dim=1)
        self._features.write(features.numpy().astype("<f2", copy=False).tobytes())
        self._rows += len(ids)
        self._ids.write(ids.cpu().where(usable, -1).numpy().astype("<i8", copy=False).tobytes())

    def publish(self) -> Path:
        """Completes the file and renames it to its final name; nothing can be added afterwards."""
        self._ids.close()
        added = np.fromfile(self._ids_path, dtype="<i8")
        rows = np.argsort(added, kind="stable")  # equal ids stay in the order in which they came
        ids = added[rows]
        chosen = ids >= 0
        chosen[:-1] &= ids[:-1] != ids[1:]  # the last of equal ones
        ids, rows = ids[chosen], rows[chosen]
        with self._features as file:
            file.write(ids.tobytes())
            file.write(rows.astype("<i8", copy=False).tobytes())
            file.seek(0)
            file.write(bank_header(len(added), self._dim or 0, len(ids)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(self._features_path, self.path)
        self._ids_path.unlink()
        return self.path


def find_partial(folder: Path, epoch: int, rank: int, bank: PartialBank, folders: Sequence[Path]) -> bool:
    """Whether a stopped run's bank is in `folder`, copied there if need be from the first of `folders` that has it."""
    for source in folders:
        files = partial_files(bank_path(Path(source), epoch, rank))
        if all(file.is_file() and file.stat().st_size >= size for file, size in zip(files, bank.sizes, strict=True)):
            Path(folder).mkdir(parents=True, exist_ok=True)
            for file, own in zip(files, partial_files(bank_path(Path(folder), epoch, rank)), strict=True):
                if not (own.exists() and own.samefile(file)):
                    shutil.copyfile(file, own)
            return True
    return False


class Bank:
    """Looks up the features that the ranks published for one epoch.

    Files are mapped, not read: opening takes no time, loader workers share the pages, and unpickling opens them again.
    For an id that several ranks saw, the features of the highest rank count.

    Args:
        folder, epoch: of the files.
        world_size: number of ranks that wrote; files of further ranks are of another run, and ignored.

    Attributes:
        dim: D; 0 if no rank saw a sample.

    Raises:
        UsageError: if a file is missing or damaged, or two differ in D.
    """

    def __init__(self, folder: Path, epoch: int, world_size: int) -> None:
        self.folder, self.epoch, self.world_size = Path(folder), epoch, world_size
        paths = [bank_path(self.folder, epoch, rank) for rank in range(world_size)]
        self._files = [file for file in map(BankFile, paths) if len(file.ids)]
        self.dim = self._files[0].dim if self._files else 0
        for file in self._files:
            if file.dim != self.dim:
                raise UsageError(
                    f"{file.path} holds features of D = {file.dim}, {self._files[0].path.name} beside it of "
                    f"{self.dim}: they are of two models; delete {self.folder} for an epoch in random order"
                )

    def __reduce__(self) -> tuple[type["Bank"], tuple[Path, int, int]]:
        return Bank, (self.folder, self.epoch, self.world_size)

    def lookup(self, ids: Tensor, serialized: Sequence[bytes] = ()) -> tuple[Tensor, Tensor, Tensor]:
        """The features of samples, by ids int64 [n] (else ValueError).

        Returns:
            image float32 [n, D] and text float32 [n, D], zeros where unknown; known, bool [n]; all on the CPU.
        """
        _check_ids(ids)
        keys = ids.cpu().numpy()
        features = np.zeros((2, len(keys), self.dim), dtype=np.float32)
        known = np.zeros(len(keys), dtype=bool)
        for file in self._files:
            position = np.minimum(np.searchsorted(file.ids, keys), len(file.ids) - 1)
            match = file.ids[position] == keys
            features[:, match] = file.features[file.rows[position[match]]].swapaxes(0, 1)
            known |= match
        return torch.from_numpy(features[0]), torch.from_numpy(features[1]), torch.from_numpy(known)


def _check_ids(ids: Tensor) -> None:
    if ids.dtype != torch.int64 or ids.ndim != 1:
        raise ValueError(f"ids are int64 [n], not {ids.dtype} {list(ids.shape)}")
