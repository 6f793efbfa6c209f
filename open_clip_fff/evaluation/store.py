"""The store of scores: a folder per model and set, written completely or not at all.

STORE/MODEL/SET/result.json   as clip-benchmark writes it; `clip_benchmark build STORE/*/*/result.json` works
                meta.json     what the metrics depend on: model, data, precision, versions
                samples.npz   the outcome of each image (and caption), for paired intervals
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from open_clip_fff.atomic_io import atomic_folder, write_atomically
from open_clip_fff.errors import as_mistake

RESULT, META, SAMPLES = "result.json", "meta.json", "samples.npz"
NEEDED: dict[str, dict[str, Any]] = {  # of meta.json, with types: whatever reads a score relies on these
    "model": {"given": str, "name": str, "weights": str, "run": str | None, "epoch": int | None},
    "set": {"name": str, "task": str, "metric": str, "images": int},
}


@dataclass(frozen=True)
class Score:
    """One model on one set."""

    result: dict[str, Any]  # clip-benchmark's JSON: dataset, model, pretrained, task, metrics, language
    # `model` (given, path, name, weights, epoch, run, params), `set` (name, title, task, metric, location, layout,
    # split, images, captions, classes, templates), `conditions` (of a probe or re-ranking), `precision`, `device`,
    # `batch_size`, `workers`, `seconds`, `versions`, `date`
    meta: dict[str, Any]
    # classification: `target` and `predicted` int64 [images]. Retrieval: `image_of_text` int64 [captions] and, under
    # the name of each recall in `result`, bool [images] or [captions]: whether it was a hit
    samples: dict[str, np.ndarray]

    @property
    def metrics(self) -> dict[str, float]:
        """By clip-benchmark's names; NaN for undefined ones, such as acc5 of fewer than 5 classes."""
        return {name: float("nan") if value is None else value for name, value in self.result["metrics"].items()}


def model_folder(store: Path, name: str, weights: str) -> Path:
    """The folder of a model's scores: readable by its name, unique by its weights' fingerprint."""
    return store / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}-{weights[:8]}"


def write_score(folder: Path, score: Score) -> None:
    """Writes or replaces `folder`, STORE/MODEL/SET. Raises UsageError if it cannot be written, or holds no score."""
    with (
        as_mistake(f"--store {folder}: cannot be written", OSError),
        atomic_folder(folder, replaces=META) as unfinished,
    ):
        result = {**score.result, "metrics": _strict(score.result["metrics"])}
        (unfinished / RESULT).write_text(json.dumps(result, allow_nan=False) + "\n")
        (unfinished / META).write_text(json.dumps(score.meta, indent=2, allow_nan=False) + "\n")
        np.savez_compressed(unfinished / SAMPLES, **score.samples)  # type: ignore[arg-type]


def read_score(folder: Path) -> Score:
    """Reads what `write_score` wrote; raises UsageError if it cannot be read."""
    fix = "delete it and run open-clip-fff score again"
    errors = (OSError, ValueError, KeyError, TypeError, AttributeError)
    with as_mistake(f"{folder}: cannot be read as a score", *errors, fix=fix):
        result, meta = (json.loads((folder / name).read_text()) for name in (RESULT, META))
        with np.load(folder / SAMPLES, allow_pickle=False) as stored:
            samples = dict(stored)
        for part, fields in NEEDED.items():
            for name, kind in fields.items():
                if not isinstance(meta[part].get(name, ...), kind):
                    raise ValueError(f"its {META} has no {name} of the {part}")
        if not all(isinstance(value, float | int | None) for value in result["metrics"].values()):
            raise ValueError(f"its {RESULT} has metrics that are no numbers")
    return Score(result, meta, samples)


def rename_model(folder: Path, about: Mapping[str, Any]) -> None:
    """Updates the model's entry in its scores' meta.json, after it was moved or named differently.

    A store that cannot be written stays unchanged.
    """
    for path in stored(folder):
        with suppress(OSError, ValueError):
            meta = {**json.loads(path.read_text()), "model": about}
            write_atomically(path, json.dumps(meta, indent=2, allow_nan=False) + "\n")


def stored(folder: Path) -> list[Path]:
    """The `meta.json` of each complete score of a model's folder."""
    return sorted(folder.glob(f"[!.]*/{META}"))


def _strict(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """NaN as None, since JSON has no NaN."""
    return {name: None if value != value else value for name, value in metrics.items()}
