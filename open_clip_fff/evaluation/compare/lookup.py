"""A model's folder in the store of scores, by whatever name a person has for the model."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path

from open_clip_fff.errors import UsageError
from open_clip_fff.evaluation.store import META
from open_clip_fff.hub.checkpoints import read_epoch, run_folder

WEIGHTS = (".pt", ".pth", ".bin", ".safetensors")


@dataclass(frozen=True)
class StoredModel:
    """A model of the store.

    Attributes:
        folder: STORE/MODEL.
        given: what open-clip-fff score was given.
        run: its run folder, None where it has none.
        epoch: epochs trained, None where that is not known.
    """

    folder: Path
    given: str
    run: Path | None
    epoch: int | None


class ScoreStore:
    """What there is to compare.

    Raises:
        UsageError: if the store is no folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UsageError(f"--store {folder}: no such folder; open-clip-fff score MODEL makes it")
        self.folder = folder
        self.entries = [entry for each in sorted(folder.iterdir()) if (entry := _entry(each)) is not None]

    def find_all(self, words: str) -> list[StoredModel]:
        """The models of WHAT[,WHAT…], in order.

        A comma may be part of a name (NAME,TAG): a piece that is found nowhere is tried together with the next one.

        Raises:
            UsageError: if one is not in the store.
        """
        pieces, found = words.split(","), []
        while pieces:
            piece = pieces.pop(0)
            if has_magic(piece):
                found += [self.find(each) for each in self._expand(piece)]
            elif not self._matches(piece) and pieces and self._matches(f"{piece},{pieces[0]}"):
                found.append(self.find(f"{piece},{pieces.pop(0)}"))
            elif self._matches(piece) or not pieces or self._matches(pieces[0]):
                found.append(self.find(piece))
            else:  # neither is known, most likely a NAME,TAG that was not scored
                found.append(self.find(f"{piece},{pieces.pop(0)}"))
        return found

    def find(self, what: str) -> StoredModel:
        """One model; of a run folder, its highest epoch.

        Raises:
            UsageError: if it is not there, or more than one has that name.
        """
        matches = self._matches(what)
        if not matches:
            raise UsageError(
                f"{what}: no scores of this model in {self.folder} ({self._contents()}); "
                f"open-clip-fff score {what} makes them"
            )
        last = max(_rank(entry) for entry in matches)
        latest = [entry for entry in matches if _rank(entry) == last]
        if len(latest) > 1:
            raise UsageError(f"{what}: may be {' or '.join(str(entry.folder) for entry in latest)}; give one of these")
        return latest[0]

    def _matches(self, what: str) -> list[StoredModel]:
        """By folder first: nothing else can be meant by that."""
        places = {Path(what).resolve(), (self.folder / what).resolve()} if what else set()
        if by_folder := [entry for entry in self.entries if entry.folder.resolve() in places]:
            return by_folder
        return [entry for entry in self.entries if _is(entry, what)]

    def _expand(self, pattern: str) -> Sequence[str]:
        """A glob that the shell has left to us, over files, then over the store."""
        found = [path for path in glob(pattern) if Path(path).is_dir() or path.endswith(WEIGHTS)]
        found = found or [entry.folder.name for entry in self.entries if entry.folder.match(pattern)]
        if not found:
            raise UsageError(f"{pattern}: matches neither a folder or checkpoint nor a model in {self.folder}")
        return sorted(found, key=lambda path: [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", path)])

    def _contents(self, most: int = 5) -> str:
        names = [entry.folder.name for entry in self.entries]
        more = f" and {len(names) - most} more" if len(names) > most else ""
        return "which has " + ", ".join(names[:most]) + more if names else "which is empty"


def _entry(folder: Path) -> StoredModel | None:
    """From any of a model's scores; one that cannot be read matters only to those who compare it."""
    for path in sorted(folder.glob(f"[!.]*/{META}")):
        try:
            model = json.loads(path.read_text())["model"]
            return StoredModel(folder, model["given"], Path(model["run"]) if model["run"] else None, model["epoch"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _is(entry: StoredModel, what: str) -> bool:
    if entry.given == what:
        return True
    path = Path(what.removeprefix("local-dir:")).resolve()
    if entry.run is not None:
        run = entry.run.resolve()
        return run == path or (run == run_folder(path) and path.suffix == ".pt" and entry.epoch == _epoch(path))
    return Path(entry.given.removeprefix("local-dir:")).resolve() == path


def _epoch(checkpoint: Path) -> int | None:
    if match := re.fullmatch(r"epoch_(\d+)\.pt", checkpoint.name):
        return int(match[1])
    return read_epoch(checkpoint) if checkpoint.is_file() else None


def _rank(entry: StoredModel) -> int:
    return -1 if entry.epoch is None else entry.epoch
