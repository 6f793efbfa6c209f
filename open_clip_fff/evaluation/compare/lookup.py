"""Finding a model's scores in the store, by any of the model's names."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path

from open_clip_fff.errors import UsageError
from open_clip_fff.evaluation.store import META
from open_clip_fff.hub.checkpoints import Position, read_epoch, run_folder

WEIGHTS = (".pt", ".pth", ".bin", ".safetensors")


@dataclass(frozen=True)
class StoredModel:
    """A model of the store."""

    folder: Path  # STORE/MODEL
    given: str  # what open-clip-fff score was given
    run: Path | None  # its run folder, if it has one
    epoch: int  # epochs trained, -1 if unknown

    def has_name(self, name: str) -> bool:
        """Whether it was scored as `name`, or from that run, checkpoint or folder."""
        if self.given == name:
            return True
        path = Path(name.removeprefix("local-dir:")).resolve()
        if self.run is None:
            return Path(self.given.removeprefix("local-dir:")).resolve() == path
        run = self.run.resolve()
        return run == path or (run == run_folder(path) and path.suffix == ".pt" and self.epoch == _epoch(path))


class ScoreStore:
    """The models of a store.

    Args:
        folder: `--store` of open-clip-fff score.

    Raises:
        UsageError: if there is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UsageError(f"--store {folder}: no such folder; open-clip-fff score MODEL makes it")
        self.folder = folder
        self.models = [model for each in sorted(folder.iterdir()) if (model := _read(each)) is not None]

    def find_all(self, names: str) -> list[StoredModel]:
        """The models of NAME[,NAME…], in order.

        A comma may be part of a name (ViT-B-32,openai): an unknown piece is tried together with the next one.

        Raises UsageError if one is not in the store.
        """
        pieces, found = names.split(","), []
        while pieces:
            piece = pieces.pop(0)
            if has_magic(piece):
                found += [self.find(each) for each in self._expand(piece)]
                continue
            # joined if only the pair is known, or if neither piece is: most likely an unscored NAME,TAG
            if pieces and not self._matches(piece):
                pair = f"{piece},{pieces[0]}"
                if self._matches(pair) or not self._matches(pieces[0]):
                    pieces.pop(0)
                    piece = pair
            found.append(self.find(piece))
        return found

    def find(self, name: str) -> StoredModel:
        """One model; of a run folder, its last epoch.

        Raises UsageError if it is missing, or several have that name.
        """
        matches = self._matches(name)
        if not matches:
            raise UsageError(
                f"{name}: no scores of this model in {self.folder} ({self._contents()}); "
                f"open-clip-fff score {name} makes them"
            )
        last = max(model.epoch for model in matches)
        newest = [model for model in matches if model.epoch == last]
        if len(newest) > 1:
            raise UsageError(f"{name}: may be {' or '.join(str(model.folder) for model in newest)}; give one of these")
        return newest[0]

    def _matches(self, name: str) -> list[StoredModel]:
        """The models of that folder of the store, else all with that name."""
        folders = {Path(name).resolve(), (self.folder / name).resolve()} if name else set()
        in_folder = [model for model in self.models if model.folder.resolve() in folders]
        return in_folder or [model for model in self.models if model.has_name(name)]

    def _expand(self, pattern: str) -> Sequence[str]:
        """A pattern that the shell left alone, over files, else over the store; numbers in numerical order."""
        found = [path for path in glob(pattern) if Path(path).is_dir() or path.endswith(WEIGHTS)]
        found = found or [model.folder.name for model in self.models if model.folder.match(pattern)]
        if not found:
            raise UsageError(f"{pattern}: matches neither a folder or checkpoint nor a model in {self.folder}")
        return sorted(found, key=lambda path: [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", path)])

    def _contents(self, most: int = 5) -> str:
        names = [model.folder.name for model in self.models]
        more = f" and {len(names) - most} more" if len(names) > most else ""
        return "which has " + ", ".join(names[:most]) + more if names else "which is empty"


def _read(folder: Path) -> StoredModel | None:
    """From any of a model's scores; unreadable ones are reported when they are compared."""
    for path in sorted(folder.glob(f"[!.]*/{META}")):
        try:
            model = json.loads(path.read_text())["model"]
            epoch = -1 if model["epoch"] is None else model["epoch"]
            return StoredModel(folder, model["given"], Path(model["run"]) if model["run"] else None, epoch)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _epoch(checkpoint: Path) -> int:
    at = Position.named(checkpoint.stem)
    epoch = at.epoch if at is not None else read_epoch(checkpoint) if checkpoint.is_file() else None
    return -1 if epoch is None else epoch
