"""The rows of a comparison, from [LABEL=]NAME[,NAME…] to the scores of one or more seeds."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from open_clip_fff.errors import UsageError
from open_clip_fff.evaluation.compare.lookup import ScoreStore
from open_clip_fff.evaluation.store import Score, scores

SetKey = tuple[str, str]  # clip-benchmark's task and the set's name


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
        return re.sub(r"-epoch_\d+$", "", self.about["name"])

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
    models = tuple(_read(model.folder) for model in store.find_all(names))
    return ModelRow(label.strip() or _common([model.name for model in models]), models, baseline)


def _read(folder: Path) -> ScoredModel:
    found = {}
    for name, score in scores(folder).items():
        about = score.meta["set"]
        if missing := [key for key in ("task", "metric", "images") if key not in about]:
            raise UsageError(
                f"{folder / name}: its meta.json has no {missing[0]} of the set; "
                "delete it and run open-clip-fff score again"
            )
        found[about["task"], about["name"]] = score
    return ScoredModel(folder, found)


def _common(names: Sequence[str]) -> str:
    """The common beginning of the names of seeds (fff-0, fff-1: fff), or all names."""
    unique = list(dict.fromkeys(names))
    if len(unique) == 1:
        return unique[0]
    stem = os.path.commonprefix(unique)  # noqa: RUF071 (characters are meant)
    if any(name[len(stem) :][:1].isdigit() for name in unique):  # seeds 10 and 12 share the 1
        stem = stem.rstrip("0123456789")
    return re.sub(r"[-_. ]*(seed|s)?[-_. ]*$", "", stem) or ", ".join(unique)
