"""The most important numbers, for the terminal and the page, and the CSV files."""

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from open_clip_fff.data.shards import SkippedSample
from open_clip_fff.errors import printable
from open_clip_fff.tools.analyze.kinds import TOP
from open_clip_fff.tools.analyze.measure import MEAN, ONE, Measurements

OUTRANKED_BY = (1, 10, 50)  # captions, at least
TOTAL = "total"
APART = "captions of different images, mean cosine"
FIT = "a caption and an image, mean cosine"
SIMILAR = "captions of one image, mean cosine"
REPEATED = "repeated texts, share of captions"
CAPTIONS, IMAGES, FREQUENCIES, SUMMARY = "captions.csv", "images.csv", "frequencies.csv", "summary.csv"
LEFT_OUT = "left-out.csv"
FILE_NAMES = (CAPTIONS, IMAGES, FREQUENCIES, SUMMARY, LEFT_OUT)
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


def summary_lines(found: Measurements) -> list[SummaryLine]:
    """The lines for which the data have measurements, grouped by topic."""
    images, between = found.by_kind("image"), "raw_to_generated"
    both = {kind: found.images[between] for kind in found.names if between in found.images}
    lines = [
        SummaryLine("images", TOTAL, "images that have any", "count", {k: x.nunique() for k, x in images.items()}),
        SummaryLine("captions", TOTAL, "captions", "count", {k: len(x) for k, x in images.items()}),
        _mean("words", TOTAL, "words of a caption", found.by_kind("words"), "number"),
        _mean("nearest", APART, f"a caption and its {found.nearest} nearest", found.by_kind("nearest")),
        _mean("random_caption", APART, "two drawn at random", found.by_kind("random_caption")),
        _mean("fit", FIT, "its own image", found.by_kind("fit")),
        _mean("random_image", FIT, "another image, drawn at random", found.by_kind("random_image")),
        _mean("fit_of_one", FIT, "one caption of an image that has several", found.of_several(ONE)),
        _mean("fit_of_mean", FIT, "the mean feature of its captions", found.of_several(MEAN)),
        _mean("among", SIMILAR, "any two of them", found.by_kind("among")),
        _mean(between, SIMILAR, "a raw and a generated one", both),
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


def _mean(key: str, topic: str, title: str, columns: Mapping[str, pd.Series], unit: str = "cosine") -> SummaryLine:
    return SummaryLine(key, topic, title, unit, {kind: float(each.mean()) for kind, each in columns.items()})


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
    called = {ONE: "by one caption each", MEAN: "by the mean of their captions"}[text]
    sizes = " or ".join(f"{size:,}" for size in sorted(set(found.batch.values())))
    topic, lines = f"images outranked in batches of {sizes}, {called}", []
    for least in OUTRANKED_BY:
        columns = found.by_kind(f"outranked_{text}").items()
        shares = {kind: float((x.dropna() >= least).mean()) for kind, x in columns if least < found.batch[kind]}
        title = f"by {least} or more captions of others"
        lines.append(SummaryLine(f"outranked_{text}_{least}", topic, title, "share", shares))
    return lines
