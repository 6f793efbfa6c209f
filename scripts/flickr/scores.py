"""Recalls of the study's runs, and their intervals by a bootstrap over images and seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from flickr.arms import ITC, PLAIN
from open_clip_fff.commands.score import main as score_command
from open_clip_fff.evaluation.compare.bootstrap import HitCounts, figures, resample
from open_clip_fff.evaluation.compare.rows import ScoreStore
from open_clip_fff.evaluation.compare.table import TAILS
from open_clip_fff.evaluation.protocol import IMAGE_TO_TEXT, ORDERS, RECALL_AT, RERANKING, TEXT_TO_IMAGE
from open_clip_fff.evaluation.store import Score, read_score

WAYS = {IMAGE_TO_TEXT: "image → text", TEXT_TO_IMAGE: "text → image"}
TITLES = {"": "ITC", **dict(zip(ORDERS, ("ITC", "ITM", "ITC+ITM"), strict=True))}
RESAMPLES = 2_000
SEED = 18  # of the bootstrap

Samples = Mapping[tuple[str, int], Mapping[str, np.ndarray]]  # by arm and seed: `Score.samples`


def orders_of(arm: str) -> tuple[str, ...]:
    """An arm's orders, by the names in front of its recalls."""
    return ("",) if arm == ITC else ORDERS


def score(run: Path, data: Path, split: str, candidates: int | None) -> Score:
    """A run's score on a split, with so many re-ranked; None for none. What was scored before is read."""
    more = [] if candidates is None else ["--rerank", str(candidates)]
    places = ["--data-root", str(data / "sets"), "--store", str(data / "scores")]
    if score_command([str(run), *places, "--datasets", split, "--workers", "0", *more]):
        raise SystemExit(f"{run} could not be scored on {split}")
    folder = ScoreStore(data / "scores").find(str(run)).folder
    return read_score(folder / (split if candidates is None else f"{split}_{RERANKING}{candidates}"))


def recalls(found: Score, arm: str, seed: int) -> list[dict[str, object]]:
    """A line for each order, in %."""
    lines = []
    for order in orders_of(arm):
        line: dict[str, object] = {"arm": arm, "seed": seed, "order": TITLES[order]}
        for way, title in WAYS.items():
            line |= {f"{title} R@{k}": round(100 * found.metrics[f"{order}{way}@{k}"], 3) for k in RECALL_AT}
            if order:
                line[f"{title} ceiling"] = round(100 * found.metrics[f"{way}_ceiling"], 3)
                line[f"{title} AUC"] = round(100 * found.metrics[f"{way}_auc"], 3)
        lines.append(line)
    return lines


def intervals(samples: Samples, arms: Sequence[str], seeds: Sequence[int]) -> list[dict[str, object]]:
    """Means over seeds, what re-ranking changes, what an arm changes against `plain`, and 95 % intervals, in points."""
    columns = [(arm, order) for arm in arms for order in orders_of(arm)]
    place = {column: number for number, column in enumerate(columns)}
    lines = []
    for way, title in WAYS.items():
        for k in RECALL_AT:
            counts = _counts([samples[arm, seed] for arm, _ in columns for seed in seeds], columns, way, k)
            draw = np.random.default_rng(SEED)
            drawn = 100 * resample(counts, RESAMPLES, draw).reshape(RESAMPLES, len(columns), len(seeds))
            # a seed is drawn for all columns at once, as in `open-clip-fff compare`
            chosen = np.broadcast_to(draw.integers(len(seeds), size=(RESAMPLES, 1, len(seeds))), drawn.shape)
            drawn = np.take_along_axis(drawn, chosen, axis=2).mean(axis=2)
            value = 100 * figures(counts).reshape(len(columns), len(seeds)).mean(axis=1)
            both = np.concatenate([value[None], drawn])  # [1 + RESAMPLES, columns]
            for (arm, order), own in place.items():
                line = {"way": title, "k": k, "arm": arm, "order": TITLES[order], **_interval("", both[:, own])}
                if order in ORDERS[1:]:
                    line |= _interval("against its ITC ", both[:, own] - both[:, place[arm, ORDERS[0]]])
                plain = place.get((PLAIN, order or ORDERS[0]))
                if arm != PLAIN and plain is not None:
                    line |= _interval("against plain ", both[:, own] - both[:, plain])
                lines.append(line)
    return lines


def _counts(samples: list, columns: Sequence[tuple[str, str]], way: str, k: int) -> HitCounts:
    """Hits by image, of each column and seed; an image's captions are its trials."""
    seeds = len(samples) // len(columns)
    owner = samples[0]["image_of_text"]
    trials = np.bincount(owner) if way == TEXT_TO_IMAGE else np.ones(int(owner.max()) + 1)
    hits = []
    for number, each in enumerate(samples):
        found = each[f"{columns[number // seeds][1]}{way}@{k}"]
        hits.append(np.bincount(owner, weights=found) if way == TEXT_TO_IMAGE else found)
    stacked = np.stack(hits, axis=1).astype(np.float32)
    return HitCounts(stacked, trials.astype(np.float32), np.zeros(len(trials), np.int64))


def _interval(name: str, values: np.ndarray) -> dict[str, object]:
    """The first value, and where the middle 95 % of the others are."""
    low, high = np.percentile(values[1:], TAILS)
    return {
        f"{name}{part}": round(float(x), 3)
        for part, x in zip(("value", "low", "high"), (values[0], low, high), strict=True)
    }
