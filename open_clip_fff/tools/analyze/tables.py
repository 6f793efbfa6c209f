"""The numbers as CSV, for plots of one's own."""

import pandas as pd

from open_clip_fff.errors import printable
from open_clip_fff.tools.analyze.measure import Measured
from open_clip_fff.tools.analyze.sample import Missing, Sample
from open_clip_fff.tools.analyze.summary import Line, table

CAPTIONS, IMAGES, FREQUENCIES, SUMMARY = "captions.csv", "images.csv", "frequencies.csv", "summary.csv"
LEFT_OUT = "left-out.csv"
COLUMNS = ["kind", "caption", "words", "times", "nearest", "random_caption", "fit", "random_image"]  # of captions.csv
NAMES = (CAPTIONS, IMAGES, FREQUENCIES, SUMMARY, LEFT_OUT)


def tables(found: Measured, sample: Sample, lines: list[Line], missing: Missing) -> dict[str, str]:
    """The contents of the files, by name.

    captions.csv has columns of `Measured.captions`, with `shard` and `key` of the image in the place of its number;
    images.csv those of `Measured.images`.
    """
    captions = found.captions[[name for name in COLUMNS if name in found.captions]]
    names = found.images.loc[found.captions["image"], ["shard", "key"]].reset_index(drop=True)
    frames = {
        CAPTIONS: pd.concat([names, captions], axis=1),
        IMAGES: found.images,
        FREQUENCIES: found.frequent[["kind", "rank", "times", "share", "caption"]],
        SUMMARY: table(lines),
        LEFT_OUT: pd.DataFrame([(printable(key), why) for key, why in missing.samples], columns=["key", "reason"]),
    }
    return {name: frame.to_csv(index=False, float_format="%.6g") for name, frame in frames.items()}
