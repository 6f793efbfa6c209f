"""The few numbers that a person wants first, and how a person would say them."""

from typing import NamedTuple

import pandas as pd

from open_clip_fff.tools.analyze.frequencies import TOP
from open_clip_fff.tools.analyze.measure import MEAN, ONE, Measured

BEATEN = (1, 10, 50)  # others at least
APART = "captions of different images, mean cosine"
FIT = "a caption and an image, mean cosine"
ALIKE = "captions of one image, mean cosine"
REPEATED = "texts that come again, share of captions"


class Line(NamedTuple):
    """A number for each kind.

    Attributes:
        key: its name in summary.csv.
        topic: what several lines are about, with what is measured.
        words: its name for people, under the topic.
        unit: `count`, `number`, `cosine`, or `share` from 0 to 1.
        values: by kind; a kind without any is not there.
    """

    key: str
    topic: str
    words: str
    unit: str
    values: dict[str, float]

    def said(self, kind: str) -> str:
        """The number as a person reads it, or a dash."""
        value = self.values.get(kind)
        if value is None:
            return "–"
        forms = {"count": "{:,.0f}", "number": "{:,.1f}", "cosine": "{:.3f}", "share": "{:.1%}"}
        return forms[self.unit].format(value).replace("-", "−").replace("%", " %")


def summary(found: Measured) -> list[Line]:
    """The lines that these data have numbers for; those of a topic stand together."""
    lines = [
        *_counts(found),
        _mean(found, "nearest", APART, f"a caption and its {found.nearest} nearest"),
        _mean(found, "random_caption", APART, "two drawn at random"),
        _mean(found, "fit", FIT, "its own image"),
        _mean(found, "random_image", FIT, "another image, drawn at random"),
        *_pooled(found),
        *_alike(found),
        *_frequencies(found),
        *(line for text in (ONE, MEAN) for line in _beaten(found, text)),
    ]
    return [line for line in lines if line.values]


def table(lines: list[Line]) -> pd.DataFrame:
    """summary.csv: `measure`, `kind`, `value`, `unit`, `meaning`."""
    columns = ["measure", "kind", "value", "unit", "meaning"]
    rows = [(x.key, kind, value, x.unit, f"{x.topic}: {x.words}") for x in lines for kind, value in x.values.items()]
    return pd.DataFrame(rows, columns=columns)


def _counts(found: Measured) -> list[Line]:
    tables = {kind: found.of(kind) for kind in found.names}
    topic = "in all"
    return [
        Line("images", topic, "images that have any", "count", {k: t["image"].nunique() for k, t in tables.items()}),
        Line("captions", topic, "captions", "count", {k: len(t) for k, t in tables.items()}),
        Line("words", topic, "words of a caption", "number", {k: float(t["words"].mean()) for k, t in tables.items()}),
    ]


def _mean(found: Measured, column: str, topic: str, words: str) -> Line:
    values = {kind: float(found.of(kind)[column].mean()) for kind in found.names} if column in found.captions else {}
    return Line(column, topic, words, "cosine", values)


def _pooled(found: Measured) -> list[Line]:
    """Of the images that have several captions of a kind: for others the mean is the one."""
    values: dict[str, dict[str, float]] = {ONE: {}, MEAN: {}}
    for kind in found.names:
        if f"{MEAN}_{kind}" in found.images:
            several = found.images[found.images[kind] > 1]
            for text in values:
                values[text][kind] = float(several[f"{text}_{kind}"].mean())
    return [
        Line("fit_of_one", FIT, "one caption of an image that has several", "cosine", values[ONE]),
        Line("fit_of_mean", FIT, "the mean feature of its captions", "cosine", values[MEAN]),
    ]


def _alike(found: Measured) -> list[Line]:
    columns = {kind: f"among_{kind}" for kind in found.names if f"among_{kind}" in found.images}
    values = {kind: float(found.images[column].mean()) for kind, column in columns.items()}
    lines = [Line("among", ALIKE, "any two of them", "cosine", values)]
    if "raw_to_generated" in found.images:
        value = float(found.images["raw_to_generated"].mean())
        both = dict.fromkeys(found.names, value)
        lines.append(Line("raw_to_generated", ALIKE, "a raw and a generated one", "cosine", both))
    return lines


def _frequencies(found: Measured) -> list[Line]:
    held = found.frequent.groupby("kind")["share"].sum().to_dict()
    least = {kind: min(TOP / len(found.of(kind)), 1.0) for kind in found.names}
    again = {kind: float((found.of(kind)["times"] > 1).mean()) for kind in found.names}
    return [
        Line("frequent", REPEATED, f"those with one of the {TOP} most frequent texts", "share", held),
        Line("frequent_at_least", REPEATED, "the same if no text came twice", "share", least),
        Line("repeated", REPEATED, "those whose text comes more than once", "share", again),
    ]


def _beaten(found: Measured, text: str) -> list[Line]:
    columns = {kind: f"outranked_{text}_{kind}" for kind in found.names if f"outranked_{text}_{kind}" in found.images}
    called = {ONE: "by one caption each", MEAN: "by the mean of their captions"}[text]
    sizes = " or ".join(f"{size:,}" for size in sorted(set(found.batch.values())))
    return [
        Line(
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
        for least in BEATEN
    ]
