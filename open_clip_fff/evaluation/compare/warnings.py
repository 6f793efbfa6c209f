"""Warnings about a comparison: differences in training and scoring that may explain a gain."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from open_clip_fff.evaluation.compare.columns import AVERAGE, Column, set_name
from open_clip_fff.evaluation.compare.rows import ModelRow, ScoredModel, SetKey
from open_clip_fff.evaluation.protocol import PROTOCOL
from open_clip_fff.evaluation.store import Score

PRETRAINED = ("frozen", "precomputed", "text")  # mining features of a model with a training of its own


def comparison_warnings(rows: Sequence[ModelRow], columns: Sequence[Column]) -> list[str]:
    """All warnings, a paragraph each, the most important first."""
    return [*attribution(rows), *missing_sets(rows, columns), *unequal_training(rows), *unequal_evaluation(rows)]


# --- more captions as the cause of a gain


def captions(row: ModelRow) -> tuple[int, str]:
    """K and the caption policy of a row's training; (1, "first") if unknown."""
    params = row.models[0].params
    number = params.get("captions_per_image", "1")
    return int(number) if number.isdigit() else 1, params.get("caption_policy", "first")


def draws_one(row: ModelRow, baselines: Iterable[ModelRow]) -> ModelRow | None:
    """The baseline trained on one of the same K captions per visit, which isolates the method's effect."""
    number, policy = captions(row)
    if policy != "all" or number < 2:
        return None
    for baseline in baselines:
        if captions(baseline) == (number, "sample") and _data(baseline) == _data(row):
            return baseline
    return None


def attribution(rows: Sequence[ModelRow]) -> list[str]:
    """Warnings for rows with K captions in the batch and no such baseline."""
    baselines = [row for row in rows if row.baseline]
    without: dict[int, list[str]] = {}
    for row in rows:
        number, policy = captions(row)
        if policy == "all" and number > 1 and not row.baseline and draws_one(row, baselines) is None:
            without.setdefault(number, []).append(row.label)
    return [
        f"{_and(labels)} had {number} captions of each image in the batch, and no baseline was trained on one of the "
        f"same {number}: a gain may be due to the method or to more captions. Train that baseline on the same data "
        f"with --method clip --captions-per-image {number} --caption-policy sample, and add it with --baseline."
        for number, labels in without.items()
    ]


def _data(row: ModelRow) -> str | None:
    return row.models[0].params.get("train_data")


# --- sets


def missing_sets(rows: Sequence[ModelRow], columns: Sequence[Column]) -> list[str]:
    """A warning on sets that only some rows were scored on; the user's own sets first."""
    own = sorted(columns, key=lambda column: set_name(column.key) in PROTOCOL)  # stable
    titles = {column.key: column.set_title for column in own if column.metric != AVERAGE}
    partial = {key: title for key, title in titles.items() if not all(row.has(key) for row in rows)}
    lacking = []
    for row in rows:
        if without := [f"{title}{_scored_seeds(row, key)}" for key, title in partial.items() if not row.has(key)]:
            lacking.append(f"{row.label} lacks {_and(without)}")
    averages = ", and averages only use common ones" if any(each.metric == AVERAGE for each in columns) else ""
    text = f"Not all rows were scored on the same sets{averages}: {'; '.join(lacking)}."
    return [text] if lacking else []


def _scored_seeds(row: ModelRow, key: SetKey) -> str:
    have = sum(key in model.scores for model in row.models)
    return f" (only {have} of {len(row.models)} seeds have it)" if have else ""


# --- training


def unequal_training(rows: Sequence[ModelRow]) -> list[str]:
    """Warnings on differences in steps, batch size and data, and on pretrained models that helped."""
    unknown = [row.label for row in rows if not all(model.params for model in row.models)]
    known = [row for row in rows if row.label not in unknown]
    found = []
    if unknown and len(rows) > 1:
        found.append(
            f"The training of {_and(unknown)} is unknown (no params.txt): steps, batch size and training data may "
            "differ."
        )
    aspects: dict[str, Callable[[ScoredModel], Any]] = {
        "steps": steps,
        "batch size": batch_size,
        "training data": lambda model: model.params.get("train_data"),
    }
    for name, aspect in aspects.items():
        values = {row.label: list(dict.fromkeys(map(aspect, row.models))) for row in known}
        if len({value for each in values.values() for value in each if value is not None}) > 1:
            found.append(f"Trained with different {name}: {_listed(values)}.")
    helpers = {row.label: list(dict.fromkeys(name for m in row.models for name in _pretrained(m))) for row in known}
    if len(rows) > 1 and any(helpers.values()):
        listed = "; ".join(f"for {label}, {_and(each)}" for label, each in helpers.items() if each)
        found.append(f"Frozen models found false negatives, and their own training is not counted: {listed}.")
    return found


def _pretrained(model: ScoredModel) -> list[str]:
    """The frozen models that mined and scored pairs for a run."""
    names = ["discriminator"] + ["mining_model"] * (model.params.get("mining_features") in PRETRAINED)
    found = {name: value for name in names if (value := model.params.get(name, "None")) != "None"}
    if "mining_model" in found and (weights := model.params.get("mining_pretrained", "None")) != "None":
        found["mining_model"] += f" ({weights})"
    return list(found.values())


def batch_size(model: ScoredModel) -> int | None:
    """Images per optimizer step, over all ranks."""
    sizes = [model.params.get(name, "1") for name in ("batch_size", "world_size", "accum_freq")]
    if not all(size.isdigit() for size in sizes) or "batch_size" not in model.params:
        return None
    return int(sizes[0]) * int(sizes[1]) * int(sizes[2])


def steps(model: ScoredModel) -> int | None:
    """Optimizer steps up to the scored epoch, as OpenCLIP counts them for shards."""
    samples, epoch, batch = model.params.get("train_num_samples", ""), model.about["epoch"], batch_size(model)
    if not samples.isdigit() or epoch is None or batch is None:
        return None
    accumulated, workers = (int(model.params.get(name, "1")) or 1 for name in ("accum_freq", "workers"))
    batches = -(-int(samples) // (batch // accumulated))
    return epoch * (-(-batches // workers) * workers // accumulated)  # each worker gives as many batches


# --- evaluation


def unequal_evaluation(rows: Sequence[ModelRow]) -> list[str]:
    """For differences in the sets' data, precision and versions."""
    found: dict[str, list[str]] = {}
    for key in dict.fromkeys(key for row in rows for model in row.models for key in model.scores):
        scored = {row.label: [each.scores[key] for each in row.models if key in each.scores] for row in rows}
        scored = {label: each for label, each in scored.items() if each}
        for name in _conditions(next(iter(scored.values()))[0]):
            values = {
                label: list(dict.fromkeys(_conditions(each)[name] for each in seeds)) for label, seeds in scored.items()
            }
            if len({value for each in values.values() for value in each}) > 1:
                found.setdefault(f"Scored with different {name}: {_listed(values)}", []).append(key[1])
    return [f"{text} ({', '.join(dict.fromkeys(names))})." for text, names in found.items()]


def _conditions(score: Score) -> dict[str, str | int | None]:
    about, versions, shots = score.meta["set"], score.meta.get("versions", {}), score.result["metrics"].get("fewshot_k")
    return {
        "precision": score.meta.get("precision"),
        "data": about.get("location"),
        "contents of the data": (about.get("contents") or "")[:16] or None,  # older scores have the first half
        "splits": about.get("split"),
        "numbers of classes": about.get("classes"),
        "numbers of templates": about.get("templates"),
        "training images per class": {-1: "all"}.get(shots, shots),
        "versions of clip-benchmark": versions.get("clip-benchmark", versions.get("clip_benchmark")),
        "versions of torch": versions.get("torch"),
    }


def _listed(values: dict[str, list]) -> str:
    """`clip: 3,200; fff, grit: 6,400`: labels with equal values together."""
    together: dict[str, list[str]] = {}
    for label, each in values.items():
        text = " or ".join("unknown" if x is None else f"{x:,}" if isinstance(x, int) else str(x) for x in each)
        together.setdefault(text, []).append(label)
    return "; ".join(f"{', '.join(labels)}: {text}" for text, labels in together.items())


def _and(words: Sequence[str]) -> str:
    return " and ".join([*([", ".join(words[:-1])] if len(words) > 1 else []), words[-1]])
