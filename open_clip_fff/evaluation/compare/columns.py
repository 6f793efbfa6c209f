"""The figures that are compared: the paper's metric of each set, the averages, and recalls."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from open_clip_fff.errors import UsageError
from open_clip_fff.evaluation.compare.rows import ModelRow, ScoredModel, SetKey
from open_clip_fff.evaluation.protocol import (
    ELEVEN,
    IMAGE_TO_TEXT,
    LINEAR_PROBE,
    ORDERS,
    PROTOCOL,
    RECALL_AT,
    RERANKING,
    RETRIEVAL,
    TEXT_TO_IMAGE,
    ZERO_SHOT,
)
from open_clip_fff.evaluation.store import Score

PAPER, OTHER, RECALL, PROBE = (
    "Zero-shot classification",
    "Zero-shot, outside of the paper's sets",
    "Zero-shot retrieval",
    "Linear probe",
)
AVERAGE = "average"
DIRECTIONS = {IMAGE_TO_TEXT: "image → text", TEXT_TO_IMAGE: "text → image"}
DETAILS = {"acc1": "", "mean_per_class_recall": "per class"}
OF_PROTOCOL = {each.name for each in ELEVEN}


@dataclass(frozen=True)
class Column:
    """One figure of the table."""

    group: str  # `PAPER`, `OTHER`, `RECALL` or `PROBE`
    key: SetKey  # the set, as scores name it; `AVERAGE` as the set's name for the average
    title: str  # the set's title
    metric: str  # clip-benchmark's field
    detail: str = ""  # the metric in words
    sets: tuple[str, ...] = ()  # the sets of an average

    @property
    def set_title(self) -> str:
        """The set's title where the group's heading is not shown."""
        return f"{self.title} (linear probe)" if self.group == PROBE else self.title

    @property
    def name(self) -> str:
        """Set and detail in one line."""
        return f"{self.set_title}, {self.detail}" if self.detail else self.set_title


def columns_of(rows: Sequence[ModelRow]) -> list[Column]:
    """All figures that any row has, in the table's order; the average is over the sets that all rows have."""
    scores = {key: score for row in rows for model in row.models for key, score in model.scores.items()}
    found = [column for key in sorted(scores, key=_order) for column in _columns(key, scores[key])]
    shared = [each for each in found if each.group == PAPER and all(row.has(each.key) for row in rows)]
    if shared:
        count = f"{len(shared)} of {len(ELEVEN)}" if len(shared) < len(ELEVEN) else f"all {len(ELEVEN)}"
        names = tuple(each.key[1] for each in shared)
        found.append(Column(PAPER, (ZERO_SHOT, AVERAGE), "Average", AVERAGE, count, names))
    groups = (PAPER, RECALL, OTHER, PROBE)
    return sorted(found, key=lambda column: groups.index(column.group))  # stable


def set_name(key: SetKey) -> str:
    """The set's own name: a probe's score has a name of its own, beside the zero-shot score."""
    return key[1].removesuffix(f"_{LINEAR_PROBE}")


def _order(key: SetKey) -> tuple[int, str]:
    names, name = list(PROTOCOL), set_name(key)
    return names.index(name) if name in names else len(names), name


def _columns(key: SetKey, score: Score) -> list[Column]:
    task, name = key[0], set_name(key)
    title = PROTOCOL[name].title if name in PROTOCOL else score.meta["set"].get("title") or name
    title = title.removesuffix(", linear probe")  # the column's group says so
    if is_retrieval(task):
        orders = {"": ""} if task == RETRIEVAL else dict(zip(ORDERS, ("", ", ITM", ", ITC+ITM"), strict=True))
        return [
            Column(RECALL, key, title, metric, f"{text} R@{k}{by}")
            for order, by in orders.items()
            for way, text in DIRECTIONS.items()
            for k in RECALL_AT
            if (metric := f"{order}{way}@{k}") in score.metrics
        ]
    group = PROBE if task == LINEAR_PROBE else PAPER if name in OF_PROTOCOL else OTHER
    metric = score.meta["set"]["metric"]
    return [Column(group, key, title, metric, DETAILS.get(metric.removeprefix("lp_"), metric))]


def is_retrieval(task: str) -> bool:
    """Whether a task's outcomes are recalls, re-ranked ones included."""
    return task == RETRIEVAL or task.startswith(RERANKING)


def sample_order(model: ScoredModel, key: SetKey) -> tuple[object, ...]:
    """A key that is equal for two scores if image n of one is image n of the other.

    Raises UsageError if a score does not hold an outcome for each image.
    """
    score = model.scores[key]
    images, retrieval = score.meta["set"]["images"], is_retrieval(key[0])
    truth = score.samples.get("image_of_text" if retrieval else "target")
    if truth is None or (truth.max(initial=-1) >= images if retrieval else len(truth) != images):
        raise UsageError(
            f"{model.folder / key[1]}: its samples are not of its {images:,} images; "
            "delete it and run open-clip-fff score again"
        )
    workers = score.meta.get("workers") or 0
    webdataset = str(score.meta["set"].get("layout", "")).startswith(("wds", "webdataset"))
    # webdataset takes batches from its workers in turn
    batches = (workers, score.meta.get("batch_size")) if workers > 1 and webdataset else None
    return truth.tobytes(), batches


def hits_of(score: Score, column: Column) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each image's hits, trials and class: float32 [N], float32 [N], int64 [N] (see bootstrap.py).

    Raises KeyError for a metric that cannot be resampled by images.
    """
    samples = score.samples
    if is_retrieval(column.key[0]):
        hit = samples[column.metric].astype(np.float32)
        if f"{IMAGE_TO_TEXT}@" in column.metric:
            return hit, np.ones_like(hit), np.zeros(len(hit), np.int64)
        owner, images = samples["image_of_text"], score.meta["set"]["images"]
        hits, trials = (np.bincount(owner, each, minlength=images) for each in (hit, np.ones_like(hit)))
        return hits.astype(np.float32), trials.astype(np.float32), np.zeros(len(hits), np.int64)
    target = samples["target"]
    metric = column.metric.removeprefix("lp_")
    chosen = samples["first" if metric == "acc1" and "first" in samples else "predicted"]
    if metric not in DETAILS:
        raise KeyError(metric)
    hit = (chosen == target).astype(np.float32)
    group = np.unique(target, return_inverse=True)[1] if metric == "mean_per_class_recall" else np.zeros_like(target)
    return hit, np.ones_like(hit), group
