"""From shards to the page: take a sample, measure it, put it in words and figures."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.errors import UsageError
from open_clip_fff.plural import plural
from open_clip_fff.tools.analyze.constants import PAGE
from open_clip_fff.tools.analyze.measure import ONE, Measured, measure
from open_clip_fff.tools.analyze.page import page
from open_clip_fff.tools.analyze.sample import Missing, Sample, take
from open_clip_fff.tools.analyze.sections import left_out, sections
from open_clip_fff.tools.analyze.summary import Line, summary
from open_clip_fff.tools.analyze.tables import LEFT_OUT, tables
from open_clip_fff.tools.pages.html import Head
from open_clip_fff.tools.sampling.draw import Draw, Progress
from open_clip_fff.tools.sampling.extractors import FeatureExtractor
from open_clip_fff.tools.sampling.reading import Reading, thumbnail

TITLE = "What the captions are like"


@dataclass(frozen=True)
class Wanted:
    """What is looked at, and by whom.

    Attributes:
        batch: images in a batch of the ranks.
        show: images of each part with examples.
        extractor: the model's, or features that it left beside the images.
        model: what it is called; None for the model that made the first stored features.
        device: where it runs.
        workers: threads that decode.
    """

    batch: int
    show: int
    extractor: FeatureExtractor
    model: str | None
    device: torch.device
    workers: int


@dataclass(frozen=True)
class Analysis:
    """What is written, and what is printed.

    Attributes:
        files: contents by name, the page last.
        lines: of the summary.
        kinds: its columns.
        about: the sample and the model.
        missing: what could not be looked at.
    """

    files: dict[str, str]
    lines: list[Line]
    kinds: list[str]
    about: str
    missing: Missing


def analyse(
    draw: Draw,
    captions: CaptionSettings,
    wanted: Wanted,
    plan: list[tuple[str, str]],
    command: str,
    progress: Progress,
) -> Analysis:
    """All of it.

    Args:
        draw: the samples.
        captions: where captions are.
        wanted: how much is looked at.
        plan: what the flags mean, for the page.
        command: as it was typed, likewise.
        progress: shows how far it is.

    Raises:
        UsageError: if too little can be read.
    """
    device, workers = wanted.device, wanted.workers
    reading = Reading(draw, captions, [wanted.extractor], device, progress, keep=thumbnail, workers=workers)
    sample, missing = take(draw, reading)
    check(sample, missing)
    found = measure(sample, wanted.batch, progress)
    if not found.kinds:
        raise UsageError("--train-data: no two images have a caption of the same kind, and all here is comparison")
    stored = wanted.extractor.stored
    model = wanted.model or (stored.model if stored is not None else None) or "a model without a name"
    about = (
        f"{plural(len(sample.keys), 'images')} with {plural(len(sample.captions), 'captions')} from "
        f"{plural(len(set(sample.shards)), 'shards')}, as {model} sees them."
    )
    lines = summary(found)
    head = Head(TITLE, about, notices(found, sample, missing, model, wanted), plan, command)
    files = tables(found, sample, lines, missing)
    files[PAGE] = page(head, lead(found, lines), found.names, lines, sections(found, sample, wanted.show), sample)
    return Analysis(files, lines, found.names, about, missing)


def check(sample: Sample, missing: Missing) -> None:
    """Whether there is anything to compare.

    Raises:
        UsageError: if fewer than two images were read.
    """
    if len(sample.keys) < 2:
        whys = [*missing.shards, *(f"{found.key}: {found.why}" for found in missing.samples)]
        because = f" ({'; '.join(whys[:3])}{'; …' if len(whys) > 3 else ''})" if whys else ""
        raise UsageError(
            f"--train-data: {plural(len(sample.keys), 'images')} with captions read, and two are needed{because}"
        )


def lead(found: Measured, lines: Sequence[Line]) -> str:
    """The sentence that tells most, where images were seen."""
    beaten = next((line for line in lines if line.key == f"outranked_{ONE}_1"), None)
    if beaten is None:
        return ""
    size = f"{max(found.batch.values()):,}"
    shares = " and ".join(f"{beaten.said(kind)} of images (by one {kind} caption each)" for kind in beaten.values)
    return f"In batches of {size}, {shares} have a caption of another image that fits at least as well as their own."


def notices(found: Measured, sample: Sample, missing: Missing, model: str, wanted: Wanted) -> list[str]:
    """What to know before looking."""
    said = [f"All cosines are those of {model}, and relative to it: cosines of different models do not compare."]
    said += left_out(found, sample, model)
    small = {size for size in found.batch.values() if size < wanted.batch}
    if small:
        said.append(f"There are too few images for batches of {wanted.batch:,}: they are of {min(small):,}.")
    if missing.samples:
        said.append(f"{plural(len(missing.samples), 'samples')} left out; {LEFT_OUT} says which and why.")
    if missing.shards:
        said.append(f"Not read to the end: {'; '.join(missing.shards[:5])}{'; …' if len(missing.shards) > 5 else ''}.")
    return said
