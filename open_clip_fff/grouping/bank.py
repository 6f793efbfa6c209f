"""The features of one epoch on disk, found by sample id: what the next epoch's groups are made from.

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
from open_clip_fff.grouping.bank_file import ROOM, BankFile, bank_header, bank_path, unfinished


class BankWriter:
    """Writes what one rank's training steps of one epoch produced.

    Memory does not grow with the epoch until `publish` sorts the ids (about 40 bytes per sample). A run that is killed
    before leaves hidden files, with which the next writer of the same rank and epoch goes on, or which it overwrites.

    Args:
        folder: made if it is not there.
        epoch: from 0.
        rank: this process's.
        kept: goes on behind what `keep` counted, if its files are there; see `has_kept`.

    Raises:
        OSError: if nothing can be written there.
    """

    def __init__(self, folder: Path, epoch: int, rank: int, kept: "Kept | None" = None) -> None:
        self.path = bank_path(Path(folder), epoch, rank)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # In the file, ids come after all features; until then they wait in one of their own.
        self._unfinished, self._waiting = unfinished(self.path)
        mode = "r+b" if kept else "wb"
        self._file, self._ids = self._unfinished.open(mode), self._waiting.open(mode)
        self._rows, self._dim = kept or Kept(0, None)
        if kept:
            for file, size in zip((self._file, self._ids), kept.sizes, strict=True):
                file.truncate(size)
                file.seek(size)
        else:
            self._file.write(bytes(ROOM))

    def keep(self) -> "Kept":
        """How much was added so far, once that is on the disk.

        Raises:
            OSError: if it cannot be written.
        """
        for file in (self._file, self._ids):
            file.flush()
            os.fsync(file.fileno())
        return Kept(self._rows, self._dim)

    def add(self, ids: Tensor, image: Tensor, text: Tensor) -> None:
        """Appends B samples, in float16; an id that was added before now has these features.

        Not to be found later: negative ids, and samples with a feature that is no finite number in float16.

        Args:
            ids: int64 [B].
            image: [B, D], on any device, which the copy to the CPU waits for.
            text: [B, D].

        Raises:
            ValueError: if shapes do not go together, D is not that of earlier samples, or ids are not int64.
            OSError: if it cannot be written.
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
        self._file.write(features.numpy().astype("<f2", copy=False).tobytes())
        self._rows += len(ids)
        self._ids.write(ids.cpu().where(usable, -1).numpy().astype("<i8", copy=False).tobytes())

    def publish(self) -> Path:
        """Completes the file and gives it its name, in place of one that has it; after that nothing can be added.

        Raises:
            OSError: if it cannot be written.
        """
        self._ids.close()
        added = np.fromfile(self._waiting, dtype="<i8")
        rows = np.argsort(added, kind="stable")  # equal ids stay in the order in which they came
        ids = added[rows]
        chosen = ids >= 0
        chosen[:-1] &= ids[:-1] != ids[1:]  # the last of equal ones
        ids, rows = ids[chosen], rows[chosen]
        with self._file as file:
            file.write(ids.tobytes())
            file.write(rows.astype("<i8", copy=False).tobytes())
            file.seek(0)
            file.write(bank_header(len(added), self._dim or 0, len(ids)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(self._unfinished, self.path)
        self._waiting.unlink()
        return self.path


class Kept(NamedTuple):
    """What a bank that is not whole holds: samples, and D, None before the first."""

    rows: int
    dim: int | None

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of its features' file and of its ids'."""
        return ROOM + 4 * self.rows * (self.dim or 0), 8 * self.rows


def has_kept(folder: Path, epoch: int, rank: int, kept: Kept, folders: Sequence[Path]) -> bool:
    """Whether what a stopped run kept is in `folder`; brings it there from the first of `folders` that has it.

    Raises:
        OSError: if it cannot be copied.
    """
    for place in folders:
        files = unfinished(bank_path(Path(place), epoch, rank))
        if all(file.is_file() and file.stat().st_size >= size for file, size in zip(files, kept.sizes, strict=True)):
            Path(folder).mkdir(parents=True, exist_ok=True)
            for file, own in zip(files, unfinished(bank_path(Path(folder), epoch, rank)), strict=True):
                if not (own.exists() and own.samefile(file)):
                    shutil.copyfile(file, own)
            return True
    return False


class Bank:
    """Finds the features that the ranks published of one epoch.

    Files are mapped, not read: it opens at once, loader workers share the pages, and unpickling it opens them again.
    An id that several ranks saw has the features of the highest of them.

    Args:
        folder: where the files are.
        epoch: which to open.
        world_size: the number of ranks that wrote; files of further ranks are another run's, and left alone.

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

    def lookup(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The features of some samples.

        Args:
            ids: int64 [n].

        Returns:
            image float32 [n, D] and text float32 [n, D], zeros where unknown; known, bool [n]; all on the CPU.

        Raises:
            ValueError: if ids are not int64 [n].
        """
        _check_ids(ids)
        wanted = ids.cpu().numpy()
        found = np.zeros((2, len(wanted), self.dim), dtype=np.float32)
        known = np.zeros(len(wanted), dtype=bool)
        for file in self._files:
            place = np.minimum(np.searchsorted(file.ids, wanted), len(file.ids) - 1)
            here = file.ids[place] == wanted
            found[:, here] = file.features[file.rows[place[here]]].swapaxes(0, 1)
            known |= here
        return torch.from_numpy(found[0]), torch.from_numpy(found[1]), torch.from_numpy(known)


def _check_ids(ids: Tensor) -> None:
    if ids.dtype != torch.int64 or ids.ndim != 1:
        raise ValueError(f"ids are int64 [n], not {ids.dtype} {list(ids.shape)}")
