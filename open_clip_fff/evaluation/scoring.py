"""Scoring one model on one set, unless its score is in the store already."""

import datetime
import hashlib
import importlib.metadata
import json
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from open_clip_fff import __version__
from open_clip_fff.atomic_io import check_writable
from open_clip_fff.errors import UsageError, as_mistake
from open_clip_fff.evaluation.benchmark import EvalOutcome, EvalSettings, evaluate
from open_clip_fff.evaluation.layouts import SPLIT, LocalSet
from open_clip_fff.evaluation.protocol import IMAGE_TO_TEXT, LINEAR_PROBE, RERANKING
from open_clip_fff.evaluation.store import META, Score, model_folder, read_score, rename_model, write_score
from open_clip_fff.fingerprint import architecture_fingerprint
from open_clip_fff.hub.loading import LoadedModel, local_path
from open_clip_fff.hub.params import read_params

VERSIONS = ("open_clip_torch", "clip-benchmark", "torch", "torchvision", "timm", "webdataset", "numpy")


def zero_shot(loaded: LoadedModel, local: LocalSet, settings: EvalSettings) -> EvalOutcome:
    """By clip-benchmark's zero-shot evaluators."""
    return evaluate(loaded.model, loaded.preprocess, loaded.tokenizer, local, settings)


class Evaluation(NamedTuple):
    """A way to score a model on a set."""

    evaluate: Callable[[LoadedModel, LocalSet, EvalSettings], EvalOutcome] = zero_shot
    task: str | None = None  # clip-benchmark's name of it; None for the set's own
    # what else a score depends on, such as a probe's number of training images
    conditions: Callable[[LoadedModel, LocalSet], Mapping[str, int | str | None]] = lambda *_: {}


BY_CLIP_BENCHMARK = Evaluation()


def score_set(
    loaded: LoadedModel,
    local: LocalSet,
    settings: EvalSettings,
    store: Path,
    again: bool = False,
    way: Evaluation = BY_CLIP_BENCHMARK,
) -> tuple[Score, bool]:
    """The score of a model on a set, from the store (unless `again`), or computed and stored; and whether it is new.

    Raises UsageError if the stored score has another precision, other conditions or other data, or the set cannot be
    read.
    """
    task, conditions = way.task or local.spec.task, dict(way.conditions(loaded, local))
    name = local.spec.name if task == local.spec.task else f"{local.spec.name}_{task}"
    folder, about = model_folder(store, loaded.name, loaded.weights) / name, _about_model(loaded)
    if (folder / META).is_file() and not again:
        score = read_score(folder)
        _check_conditions(score, local, settings, conditions, folder)
        then = score.meta["model"].get("settings", about["settings"])  # older scores have none
        if then != about["settings"] and score.meta.get("versions") == _versions():  # other modules have other fields
            raise UsageError(
                f"{folder}: architecture or preprocessing of {loaded.given} have changed since it was scored; --again "
                f"scores it anew"
            )
        if score.meta["model"] != about:
            rename_model(folder.parent, about)
        return score, False
    if folder.is_dir() and any(folder.iterdir()) and not (folder / META).is_file():
        raise UsageError(
            f"--store {store}: {folder} holds other files than a score; remove it, or name another --store"
        )
    check_writable(store, f"--store {store}")
    began = time.monotonic()
    # a truncated tar, a broken image, a missing label file
    with as_mistake(f"{local.spec.name}: {local.root} cannot be scored", Exception):
        outcome = way.evaluate(loaded, local, settings)
    result = {
        "dataset": local.dataset,
        "model": loaded.given,
        "pretrained": "" if loaded.epoch is None else f"epoch_{loaded.epoch}",
        "task": task,
        "metrics": outcome.metrics,
        "language": "en",
    }
    meta = {
        "model": about,
        "set": _about_set(local, name, task, outcome),
        "conditions": conditions,
        "precision": settings.precision,
        "device": settings.device,
        "batch_size": settings.batch_size,
        "workers": min(settings.workers, local.shards) if local.shards else settings.workers,  # as `make_loader`
        "versions": _versions(),
        "seconds": round(time.monotonic() - began, 1),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    score = Score(result, meta, outcome.samples)
    write_score(folder, score)
    return score, True


def _about_model(loaded: LoadedModel) -> dict[str, Any]:
    path = local_path(loaded.given)
    return {
        "given": loaded.given,
        "path": None if path is None else str(path.resolve()),
        "name": loaded.name,
        "weights": loaded.weights,
        "epoch": loaded.epoch,
        "run": None if loaded.run is None else str(loaded.run.resolve()),
        "params": None if loaded.run is None else read_params(loaded.run) or None,
        "stripped": list(loaded.stripped),
        "settings": _settings(loaded),
    }


def _settings(loaded: LoadedModel) -> str:
    """A hash of architecture and preprocessing: equal weights may score differently with others."""
    preprocessing = getattr(getattr(loaded.model, "visual", None), "preprocess_cfg", None)
    text = f"{architecture_fingerprint(loaded.model)} {json.dumps(preprocessing, sort_keys=True, default=str)}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _versions() -> dict[str, str]:
    # ours also where it is not installed, but on the path
    versions = {"open_clip_fff": __version__} | {name: importlib.metadata.version(name) for name in VERSIONS}
    return versions | {"python": platform.python_version()}


def _about_set(local: LocalSet, name: str, task: str, outcome: EvalOutcome) -> dict[str, Any]:
    title, metric = local.spec.title, local.spec.metric
    if task == LINEAR_PROBE:
        title, metric = f"{title}, linear probe", "lp_acc1"
    elif task.startswith(RERANKING):
        title, metric = f"{title}, {task.removeprefix(RERANKING)} re-ranked", f"itm_{IMAGE_TO_TEXT}@1"
    return {
        "name": name,
        "title": title,
        "task": task,
        "metric": metric,
        "note": local.spec.note,
        "location": str(local.root.resolve()),
        "contents": local.contents(),
        "layout": local.layout,
        "split": SPLIT,
        **outcome.sizes,
    }


def _check_conditions(
    score: Score, local: LocalSet, settings: EvalSettings, conditions: Mapping[str, object], folder: Path
) -> None:
    probe = {"shots": score.metrics.get("fewshot_k"), "seed": score.metrics.get("seed")}  # older probes have only these
    known = {name: value for name, value in probe.items() if value is not None} | score.meta.get("conditions", {})
    now = {"precision": settings.precision, "data": str(local.root.resolve()), **conditions}
    stored = {"precision": score.meta["precision"], "data": score.meta["set"]["location"], **known}
    for name, value in now.items():
        if stored.get(name, value) != value:
            raise UsageError(
                f"{folder} was scored with {name} {stored[name]}, not {value}: --again scores it anew, another --store "
                f"keeps both"
            )
    contents = local.contents()
    older = score.meta["set"].get("contents", contents)  # older scores have none, or only the first half
    if older != contents and not (older and contents and contents.startswith(older)):
        raise UsageError(f"{folder}: {local.root} has changed since it was scored; --again scores it anew")
