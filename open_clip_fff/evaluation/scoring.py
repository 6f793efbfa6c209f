"""Models x sets: what is there already is not scored again, and one set that fails does not cost the others."""

import datetime
import importlib.metadata
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from open_clip_fff.errors import UsageError, reason
from open_clip_fff.evaluation.benchmark import EvalOutcome, EvalSettings
from open_clip_fff.evaluation.layouts import SPLIT, LocalSet
from open_clip_fff.evaluation.store import META, Score, model_folder, read_score, write_score
from open_clip_fff.hub.loading import LoadedModel
from open_clip_fff.hub.params import read_params

VERSIONS = ("open_clip_fff", "open_clip_torch", "clip-benchmark", "torch", "torchvision", "timm", "webdataset", "numpy")

Evaluate = Callable[[Any, Callable, Callable, LocalSet, EvalSettings], EvalOutcome]


def score_set(
    loaded: LoadedModel,
    at: LocalSet,
    settings: EvalSettings,
    store: Path,
    again: bool = False,
    evaluate: Evaluate | None = None,
    task: str | None = None,
) -> tuple[Score, bool]:
    """The score of a model on a set, from the store or computed now and put there.

    Args:
        loaded: the model.
        at: the set.
        settings: how it is scored.
        store: the folder of all scores.
        again: compute it even if it is there.
        evaluate: what computes it; clip-benchmark's zero-shot evaluators unless given.
        task: clip-benchmark's name for that; the set's own unless given.

    Returns:
        The score, and whether it was computed now.

    Raises:
        UsageError: if it is there with another precision or from other data, or the set cannot be read.
    """
    from open_clip_fff.evaluation.benchmark import evaluate as zero_shot

    task = task or at.spec.task
    name = at.spec.name if task == at.spec.task else f"{at.spec.name}_{task}"
    folder = model_folder(store, loaded.name, loaded.weights) / name
    if (folder / META).is_file() and not again:
        score = read_score(folder)
        _same(score, at, settings, folder)
        return score, False
    began = time.monotonic()
    try:
        outcome = (evaluate or zero_shot)(loaded.model, loaded.preprocess, loaded.tokenizer, at, settings)
    except UsageError:
        raise
    except Exception as error:  # a tar that is cut, an image that is none, a label file that is missing
        raise UsageError(f"{at.spec.name}: {at.root} cannot be scored ({reason(error)})") from error
    result = {
        "dataset": at.dataset,
        "model": loaded.given,
        "pretrained": "" if loaded.epoch is None else f"epoch_{loaded.epoch}",
        "task": task,
        "metrics": outcome.metrics,
        "language": "en",
    }
    meta = {
        "model": _model(loaded),
        "set": _set(at, name, task, outcome),
        **_conditions(settings),
        "seconds": round(time.monotonic() - began, 1),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    score = Score(result, meta, outcome.samples)
    write_score(folder, score)
    return score, True


def _model(loaded: LoadedModel) -> dict[str, Any]:
    return {
        "given": loaded.given,
        "name": loaded.name,
        "weights": loaded.weights,
        "epoch": loaded.epoch,
        "run": None if loaded.run is None else str(loaded.run.resolve()),
        "params": None if loaded.run is None else read_params(loaded.run) or None,
        "stripped": list(loaded.stripped),
    }


def _set(at: LocalSet, name: str, task: str, outcome: EvalOutcome) -> dict[str, Any]:
    probe = task != at.spec.task
    return {
        "name": name,
        "title": f"{at.spec.title}, linear probe" if probe else at.spec.title,
        "task": task,
        "metric": "lp_acc1" if probe else at.spec.metric,
        "note": at.spec.note,
        "location": str(at.root.resolve()),
        "layout": at.layout,
        "split": SPLIT,
        **outcome.sizes,
    }


def _conditions(settings: EvalSettings) -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in VERSIONS}
    return {
        "precision": settings.precision,
        "device": settings.device,
        "batch_size": settings.batch_size,
        "workers": settings.workers,
        "versions": versions | {"python": platform.python_version()},
    }


def _same(score: Score, at: LocalSet, settings: EvalSettings, folder: Path) -> None:
    now = {"precision": settings.precision, "data": str(at.root.resolve())}
    then = {"precision": score.meta["precision"], "data": score.meta["set"]["location"]}
    for name, value in now.items():
        if then[name] != value:
            raise UsageError(
                f"{folder} was scored with {name} {then[name]}, not {value}: --again scores it anew, another --store "
                f"keeps both"
            )
