"""The rows of a comparison, from [LABEL=]WHAT[,WHAT…] to the scores of one or more seeds."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from open_clip_fff.errors import UsageError
from open_clip_fff.evaluation.compare.lookup import ScoreStore, StoredModel
from open_clip_fff.evaluation.store import Score, scores

SetKey = tuple[str, str]  # clip-benchmark's task and the set's name


@dataclass(frozen=True, eq=False)
class ScoredModel:
    """One seed of a row.

    Attributes:
        folder: STORE/MODEL.
        scores: by task and set.
    """

    folder: Path
    scores: Mapping[SetKey, Score]

    @cached_property
    def about(self) -> dict[str, Any]:
        """`meta["model"]`, the same in all of its scores."""
        return next(iter(self.scores.values())).meta["model"]

    @property
    def name(self) -> str:
        """For people, without the epoch."""
        return re.sub(r"-epoch_\d+$", "", self.about["name"])

    @property
    def params(self) -> dict[str, str]:
        """What it was trained with; empty where that is not known."""
        return self.about.get("params") or {}

    @property
    def run(self) -> Path | None:
        """Its run folder."""
        return Path(self.about["run"]) if self.about["run"] else None


@dataclass(frozen=True, eq=False)
class ModelRow:
    """What is compared: one training recipe, in one or more seeds."""

    label: str
    models: tuple[ScoredModel, ...]
    baseline: bool

    def has(self, key: SetKey) -> bool:
        """Whether all of its seeds are scored on a set."""
        return all(key in model.scores for model in self.models)


def read_rows(baselines: Sequence[str], others: Sequence[str], store: Path) -> tuple[ModelRow, ...]:
    """The rows, baselines first.

    Raises:
        UsageError: if a model is not in the store, its scores cannot be read, or something is compared twice.
    """
    found = ScoreStore(store)
    rows = tuple(_row(words, index < len(baselines), found) for index, words in enumerate([*baselines, *others]))
    for label, times in Counter(row.label for row in rows).items():
        if times > 1:
            raise UsageError(f"{label}: {times} rows have this label; give them others, as in LABEL=WHAT")
    for folder, times in Counter(model.folder.resolve() for row in rows for model in row.models).items():
        if times > 1:
            raise UsageError(f"{folder}: is compared {times} times; name it once")
    for row in rows:
        for run, times in Counter(model.run for model in row.models).items():
            if run is not None and times > 1:
                raise UsageError(f"{row.label}: {times} epochs of {run} are no seeds; give one of them")
    return rows


def _row(words: str, baseline: bool, store: ScoreStore) -> ModelRow:
    label, what = _split(words)
    models = tuple(_read(entry) for entry in store.find_all(what))
    return ModelRow(label or _common([model.name for model in models]), models, baseline)


def _split(words: str) -> tuple[str, str]:
    """A label stands before the first =, unless that is part of a path."""
    label, equals, what = words.partition("=")
    if not equals or "/" in label or os.path.exists(words):
        return "", words
    if not label.strip() or not what:
        raise UsageError(f"{words}: give LABEL=WHAT, or WHAT alone")
    return label.strip(), what


def _read(entry: StoredModel) -> ScoredModel:
    found = {}
    for place, each in scores(entry.folder).items():
        about = each.meta["set"]
        if lacking := [name for name in ("task", "metric", "images") if name not in about]:
            raise UsageError(
                f"{entry.folder / place}: its meta.json says no {lacking[0]} of the set; "
                "delete it and run open-clip-fff score again"
            )
        found[about["task"], about["name"]] = each
    return ScoredModel(entry.folder, found)


def _common(names: Sequence[str]) -> str:
    """What seeds have in common (fff-0, fff-1: fff), or all of their names."""
    unique = list(dict.fromkeys(names))
    if len(unique) == 1:
        return unique[0]
    stem = os.path.commonprefix(unique)  # noqa: RUF071 (characters are meant)
    if any(name[len(stem) :][:1].isdigit() for name in unique):  # seeds 10 and 12 have the 1 in common, too
        stem = stem.rstrip("0123456789")
    return re.sub(r"[-_. ]*(seed|s)?[-_. ]*$", "", stem) or ", ".join(unique)
