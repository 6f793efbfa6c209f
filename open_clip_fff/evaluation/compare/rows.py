"""The rows of a comparison: from [LABEL=]NAME[,NAME…] to the scores of one or more seeds in the store."""

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from open_clip_fff.errors import UsageError, print_warnings
from open_clip_fff.evaluation.store import Score, read_score, stored
from open_clip_fff.hub.checkpoints import Position, newest_first, read_position, run_folder

SetKey = tuple[str, str]  # clip-benchmark's task and the set's name
SHOWN = 5  # models of a store, in an error line
WEIGHTS = (".pt", ".pth", ".bin", ".safetensors")


@dataclass(frozen=True)
class StoredModel:
    """A model of the store."""

    folder: Path  # STORE/MODEL
    given: str  # what open-clip-fff score was given
    path: Path | None  # of `given`, if it is one
    run: Path | None  # its run folder, if it has one
    at: Position  # how far it was trained, epoch -1 if unknown

    @cached_property
    def resolved(self) -> Path:
        """Its folder, without links."""
        return self.folder.resolve()

    @cached_property
    def sources(self) -> set[Path]:
        """What was scored, and its run, without links."""
        return {each.resolve() for each in (self.path, self.run) if each is not None}

    def has_name(self, name: str, path: Path) -> bool:
        """Whether it was scored from the run, checkpoint or folder `path` (without links), or as `name` if none exists.

        A relative path is also the name of another project's run, or of one that was there before.
        """
        if path in self.sources:
            return True
        is_checkpoint = self.run is not None and path.suffix == ".pt"
        if is_checkpoint and run_folder(path) in self.sources and self.at == _position(path):
            return True
        return self.given == name and not path.exists()


class ScoreStore:
    """The models of a store, `--store` of open-clip-fff score. Raises UsageError if there is no such folder."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UsageError(f"--store {folder}: no such folder; open-clip-fff score MODEL makes it")
        self.folder = folder
        self.models = [model for each in sorted(folder.iterdir()) if (model := _stored_model(each)) is not None]

    def find_all(self, names: str) -> list[StoredModel]:
        """The models of NAME[,NAME…], in order.

        A comma may be part of a name (ViT-B-32,openai): an unknown piece is tried together with the next one.

        Raises UsageError if one is not in the store.
        """
        if self._is_named(names):
            return [self.find(names)]
        pieces, found = names.split(","), []
        while pieces:
            piece = pieces.pop(0)
            if has_magic(piece) and not self._is_named(piece):
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
        """One model; of a run, its last epoch; a warning tells of later ones that it does not have any more.

        Raises UsageError if it is missing, or several have that name.
        """
        matches = self._matches(name)
        if not matches:
            raise UsageError(
                f"{name}: no scores of this model in {self.folder} ({self._contents()}); "
                f"open-clip-fff score {name} makes them"
            )
        path = _path(name)
        saved = {_position(each) for each in ([path] if path.is_file() else newest_first(path))}
        kept = [model for model in matches if not saved or model.at in saved]
        if not kept:
            raise UsageError(
                f"{name}: is not scored as it is now, and of {_folders(matches, ' and ')} the checkpoint is not there "
                f"any more; open-clip-fff score {name} scores it, or give such a folder"
            )
        last = max(model.at for model in kept)
        runs = {model.run and model.run.resolve() for model in kept}
        newest = [model for model in kept if model.at == last or len(runs) > 1 or None in runs]
        if len(newest) > 1:
            raise UsageError(f"{name}: may be {_folders(newest, ' or ')}; give one of these")
        if gone := [model for model in matches if model.at > last]:
            why = f"{name} does not have the checkpoint of {_folders(gone, ' and ')} any more"
            print_warnings([f"warning: {why}: {newest[0].folder} is compared"])
        return newest[0]

    def _is_named(self, name: str) -> bool:
        """Whether a name with commas or brackets is one model's as it stands."""
        return bool(self._matches(name)) or os.path.exists(name)

    def _matches(self, name: str) -> list[StoredModel]:
        """The model in the store's folder `name`, else all models with that name."""
        folders = {Path(name).resolve(), (self.folder / name).resolve()} if name else set()
        in_folder, path = [model for model in self.models if model.resolved in folders], _path(name).resolve()
        return in_folder or [model for model in self.models if model.has_name(name, path)]

    def _expand(self, pattern: str) -> Sequence[str]:
        """A pattern that the shell left alone, over files, else over the store; numbers in numerical order."""
        found = [path for path in glob(pattern) if Path(path).is_dir() or path.endswith(WEIGHTS)]
        found = found or [model.folder.name for model in self.models if model.folder.match(pattern)]
        if not found:
            raise UsageError(f"{pattern}: matches neither a folder or checkpoint nor a model in {self.folder}")
        return sorted(found, key=lambda path: [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", path)])

    def _contents(self) -> str:
        names = [model.folder.name for model in self.models]
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        return "which has " + ", ".join(names[:SHOWN]) + more if names else "which is empty"


def _stored_model(folder: Path) -> StoredModel | None:
    """A model, read from any of its scores; if none can be read, just its folder: comparing it reports the error."""
    paths = stored(folder)
    for path in paths:
        with suppress(OSError, ValueError, KeyError, TypeError):
            model = json.loads(path.read_text())["model"]
            at = Position.named(model["name"].rpartition("-")[2])
            at = at or Position(-1 if model["epoch"] is None else int(model["epoch"]))
            run = Path(model["run"]) if model["run"] else None
            # older scores have no path, and what was given may be relative
            path = model.get("path", None if run else _path(model["given"]))
            return StoredModel(folder, model["given"], path and Path(path), run, at)
    return StoredModel(folder, str(folder), None, None, Position(-1)) if paths else None


def _position(checkpoint: Path) -> Position:
    at = Position.named(checkpoint.stem)
    if at is None and checkpoint.is_file():
        with suppress(UsageError):
            at = read_position(checkpoint)
    return at or Position(-1)


def _folders(models: Sequence[StoredModel], word: str) -> str:
    return word.join(str(model.folder) for model in models)


# --- rows


@dataclass(frozen=True, eq=False)
class ScoredModel:
    """One seed of a row."""

    folder: Path  # STORE/MODEL
    scores: Mapping[SetKey, Score]  # by task and set

    @cached_property
    def about(self) -> dict[str, Any]:
        """`meta["model"]`, the same in all its scores."""
        return next(iter(self.scores.values())).meta["model"]

    @property
    def name(self) -> str:
        """The name without the epoch."""
        return re.sub(r"-epoch_\d+(_step_\d+)?$", "", self.about["name"])

    @property
    def params(self) -> dict[str, str]:
        """The settings of its training; empty if unknown."""
        return self.about.get("params") or {}

    @property
    def run(self) -> Path | None:
        """Its run folder."""
        return Path(self.about["run"]) if self.about["run"] else None


@dataclass(frozen=True, eq=False)
class ModelRow:
    """A row of the table: one training recipe, in one or more seeds."""

    label: str
    models: tuple[ScoredModel, ...]
    baseline: bool

    def has(self, key: SetKey) -> bool:
        """Whether all seeds are scored on a set."""
        return all(key in model.scores for model in self.models)


def read_rows(baselines: Sequence[str], others: Sequence[str], store: Path) -> tuple[ModelRow, ...]:
    """The rows, baselines first.

    Raises UsageError if a model is not in the store, its scores cannot be read, or something is named twice.
    """
    found = ScoreStore(store)
    rows = tuple(_row(given, index < len(baselines), found) for index, given in enumerate([*baselines, *others]))
    for label, times in Counter(row.label for row in rows).items():
        if times > 1:
            raise UsageError(f"{label}: {times} rows have this label; give them others, as in LABEL=NAME")
    for folder, times in Counter(model.folder.resolve() for row in rows for model in row.models).items():
        if times > 1:
            raise UsageError(f"{folder}: is compared {times} times; name it once")
    for row in rows:
        for run, times in Counter(model.run for model in row.models).items():
            if run is not None and times > 1:
                raise UsageError(f"{row.label}: {times} epochs of {run} are no seeds; give one of them")
    return rows


def _row(given: str, baseline: bool, store: ScoreStore) -> ModelRow:
    label, equals, names = given.partition("=")
    if not equals or "/" in label or os.path.exists(given):  # no label, but a path that contains =
        label, names = "", given
    elif not label.strip() or not names:
        raise UsageError(f"{given}: give LABEL=NAME, or NAME alone")
    models = tuple(_scored_model(model.folder) for model in store.find_all(names))
    return ModelRow(label.strip() or _common([model.name for model in models]), models, baseline)


def _scored_model(folder: Path) -> ScoredModel:
    scores = [read_score(path.parent) for path in stored(folder)]
    return ScoredModel(folder, {(score.meta["set"]["task"], score.meta["set"]["name"]): score for score in scores})


def _common(names: Sequence[str]) -> str:
    """The common beginning of the names of seeds (fff-0, fff-1: fff), or all names."""
    unique = list(dict.fromkeys(names))
    if len(unique) == 1:
        return unique[0]
    stem = os.path.commonprefix(unique)  # noqa: RUF071 (characters are meant)
    if any(name[len(stem) :][:1].isdigit() for name in unique):  # seeds 10 and 12 share the 1
        stem = stem.rstrip("0123456789")
    return re.sub(r"[-_. ]*(seed|s)?[-_. ]*$", "", stem) or ", ".join(unique)


def _path(name: str) -> Path:
    return Path(name.removeprefix("local-dir:"))
