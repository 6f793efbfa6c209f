"""The most important numbers, for the terminal and the page, and the CSV files."""

from typing import NamedTuple

import pandas as pd

from open_clip_fff.data.shards import SkippedSample
from open_clip_fff.errors import printable
from open_clip_fff.tools.analyze.kinds import TOP
from open_clip_fff.tools.analyze.measure import MEAN, ONE, Measurements

OUTRANKED_BY = (1, 10, 50)  # captions, at least
APART = "captions of different images, mean cosine"
FIT = "a caption and an image, mean cosine"
SIMILAR = "captions of one image, mean cosine"
REPEATED = "repeated texts, share of captions"
CAPTIONS, IMAGES, FREQUENCIES, SUMMARY = "captions.csv", "images.csv", "frequencies.csv", "summary.csv"
LEFT_OUT = "left-out.csv"
NAMES = (CAPTIONS, IMAGES, FREQUENCIES, SUMMARY, LEFT_OUT)
COLUMNS = ["kind", "caption", "words", "times", "nearest", "random_caption", "fit", "random_image"]  # of captions.csv


class SummaryLine(NamedTuple):
    """A number for each kind of captions."""

    key: str  # its name in summary.csv
    topic: str  # heading of several lines, with what is measured
    title: str  # its name below the heading
    unit: str  # `count`, `number`, `cosine`, or `share` from 0 to 1
    values: dict[str, float]  # by kind, if it has any

    def formatted(self, kind: str) -> str:
        """The number with its unit, or a dash."""
        value = self.values.get(kind)
        if value is None:
            return "–"
        forms = {"count": "{:,.0f}", "number": "{:,.1f}", "cosine": "{:.3f}", "share": "{:.1%}"}
        return forms[self.unit].format(value).replace("-", "−").replace("%", " %")


def summary(found: Measurements) -> list[SummaryLine]:
    """The lines for which the data have measurements, grouped by topic."""
    lines = [
        *_counts(found),
        _mean(found, "nearest", APART, f"a caption and its {found.nearest} nearest"),
        _mean(found, "random_caption", APART, "two drawn at random"),
        _mean(found, "fit", FIT, "its own image"),
        _mean(found, "random_image", FIT, "another image, drawn at random"),
        *_pooled(found),
        *_similar(found),
        *_frequencies(found),
        *(line for text in (ONE, MEAN) for line in _outranked(found, text)),
    ]
    return [line for line in lines if line.values]


def csv_files(found: Measurements, lines: list[SummaryLine], skipped: list[SkippedSample]) -> dict[str, str]:
    """The contents of the CSV files, by name.

    captions.csv has columns of `Measurements.captions` (`shard` and `key` instead of the image's number), images.csv
    those of `Measurements.images`, summary.csv `measure`, `kind`, `value`, `unit`, `meaning`.
    """
    columns = ["measure", "kind", "value", "unit", "meaning"]
    rows = [(x.key, kind, value, x.unit, f"{x.topic}: {x.title}") for x in lines for kind, value in x.values.items()]
    captions = found.captions[[name for name in COLUMNS if name in found.captions]]
    names = found.images.loc[found.captions["image"], ["shard", "key"]].reset_index(drop=True)
    frames = {
        CAPTIONS: pd.concat([names, captions], axis=1),
        IMAGES: found.images,
        FREQUENCIES: found.frequent[["kind", "rank", "times", "share", "caption"]],
        SUMMARY: pd.DataFrame(rows, columns=columns),
        LEFT_OUT: pd.DataFrame([(printable(each.key), each.why) for each in skipped], columns=["key", "reason"]),
    }
    return {name: frame.to_csv(index=False, float_format="%.6g") for name, frame in frames.items()}


def _counts(found: Measurements) -> list[SummaryLine]:
    tables = {kind: found.of(kind) for kind in found.names}
    topic = "total"
    return [
        SummaryLine(
            "images", topic, "images that have any", "count", {k: t["image"].nunique() for k, t in tables.items()}
        ),
        SummaryLine("captions", topic, "captions", "count", {k: len(t) for k, t in tables.items()}),
        SummaryLine(
            "words", topic, "words of a caption", "number", {k: float(t["words"].mean()) for k, t in tables.items()}
        ),
    ]


def _mean(found: Measurements, column: str, topic: str, title: str) -> SummaryLine:
    values = {kind: float(found.of(kind)[column].mean()) for kind in found.names} if column in found.captions else {}
    return SummaryLine(column, topic, title, "cosine", values)


def _pooled(found: Measurements) -> list[SummaryLine]:
    """Of the images with several captions of a kind; for others the mean is the one caption."""
    values: dict[str, dict[str, float]] = {ONE: {}, MEAN: {}}
    for kind in found.names:
        if f"{MEAN}_{kind}" in found.images:
            several = found.images[found.images[kind] > 1]
            for text in values:
                values[text][kind] = float(several[f"{text}_{kind}"].mean())
    return [
        SummaryLine("fit_of_one", FIT, "one caption of an image that has several", "cosine", values[ONE]),
        SummaryLine("fit_of_mean", FIT, "the mean feature of its captions", "cosine", values[MEAN]),
    ]


def _similar(found: Measurements) -> list[SummaryLine]:
    columns = {kind: f"among_{kind}" for kind in found.names if f"among_{kind}" in found.images}
    values = {kind: float(found.images[column].mean()) for kind, column in columns.items()}
    lines = [SummaryLine("among", SIMILAR, "any two of them", "cosine", values)]
    if "raw_to_generated" in found.images:
        value = float(found.images["raw_to_generated"].mean())
        both = dict.fromkeys(found.names, value)
        lines.append(SummaryLine("raw_to_generated", SIMILAR, "a raw and a generated one", "cosine", both))
    return lines


def _frequencies(found: Measurements) -> list[SummaryLine]:
    held = found.frequent.groupby("kind")["share"].sum().to_dict()
    least = {kind: min(TOP / len(found.of(kind)), 1.0) for kind in found.names}
    repeated = {kind: float((found.of(kind)["times"] > 1).mean()) for kind in found.names}
    return [
        SummaryLine("frequent", REPEATED, f"those with one of the {TOP} most frequent texts", "share", held),
        SummaryLine("frequent_at_least", REPEATED, "the same if no text occurred twice", "share", least),
        SummaryLine("repeated", REPEATED, "those whose text occurs more than once", "share", repeated),
    ]


def _outranked(found: Measurements, text: str) -> list[SummaryLine]:
    columns = {kind: f"outranked_{text}_{kind}" for kind in found.names if f"outranked_{text}_{kind}" in found.images}
    called = {ONE: "by one caption each", MEAN: "by the mean of their captions"}[text]
    sizes = " or ".join(f"{size:,}" for size in sorted(set(found.batch.values())))
    return [
        SummaryLine(
            f"outranked_{text}_{least}",
            f"images outranked in batches of {sizes}, {called}",
            f"by {least} or more captions of others",
            "share",
            {
                kind: float((found.images[column].dropna() >= least).mean())
                for kind, column in columns.items()
                if least < found.batch[kind]
            },
        )
        for least in OUTRANKED_BY
    ]
