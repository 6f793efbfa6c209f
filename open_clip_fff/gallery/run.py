"""From a plan of training to the page: look at a sample, mine it, have it judged, put it in words."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from open_clip_fff.assignment.reference import MiningFeatures
from open_clip_fff.calibration.eyes import Eyes, together, valid_and_raw
from open_clip_fff.connection.outside import CROP, judge_of
from open_clip_fff.data.rows import Row
from open_clip_fff.errors import UsageError
from open_clip_fff.gallery.judged import Verdicts, judge_batch
from open_clip_fff.gallery.looking import Pictures, look
from open_clip_fff.gallery.mined import find, find_thresholds
from open_clip_fff.gallery.page import page
from open_clip_fff.gallery.parts import Part, Words
from open_clip_fff.gallery.sections import judged_parts, mined_parts, threshold_words
from open_clip_fff.pages.html import Head
from open_clip_fff.plural import plural
from open_clip_fff.settings.plan import Plan

TITLE = "What the miners find"
Progress = Callable[..., Iterable[Any]]  # a tqdm


@dataclass(frozen=True)
class Wanted:
    """What is looked at.

    Attributes:
        samples: to read, from the first shard on.
        show: rows of each part of the page.
        batch: images of a batch of training: hardest pairs are looked for there, and a rate holds there.
        mining: what mines; None where nothing does.
        hardest: what finds the hardest pairs; None where nobody judges them.
        device: where a discriminator runs.
    """

    samples: int
    show: int
    batch: int
    mining: Eyes | None
    hardest: Eyes | None
    device: torch.device


class Gathered(NamedTuple):
    """The sample: names, captions and thumbnails of n images, features of those eyes that there are, verdicts."""

    keys: list[str]
    rows: list[Row]
    thumbnails: list[bytes]
    mining: MiningFeatures | None
    hardest: MiningFeatures | None
    said: Verdicts
    left_out: int


def gallery(
    plan: Plan, urls: Sequence[str], wanted: Wanted, topics: list[tuple[str, str]], command: str, progress: Progress
) -> str:
    """The page, HTML.

    Args:
        plan: of training.
        urls: shards.
        wanted: how much of it, and who looks.
        topics: what the flags mean, for the page's top.
        command: as it was typed, likewise.
        progress: shows how far reading and mining are.

    Raises:
        UsageError: if the shards cannot be read, hold too little, or the discriminator cannot be had.
    """
    sample = gather(plan, urls, wanted, progress)
    images, captions = len(sample.rows), sum(len(row.captions) for row in sample.rows)
    if images < 2:
        raise UsageError(f"--samples {wanted.samples}: {plural(images, 'images')} with captions read, and pairs take 2")
    topics = list(topics)
    parts, notices = _parts(plan, sample, wanted, topics, progress)
    if sample.left_out:
        notices.append(
            f"{plural(sample.left_out, 'samples')} left out: no captions, no whole image, or no stored features."
        )
    shards = urls[0].rsplit("/", 1)[-1] + (" and on" if len(urls) > 1 else "")
    about = f"{plural(images, 'images')} of {shards}, {captions / images:.2f} captions each."
    head = Head(TITLE, about, notices, topics, command)
    return page(head, wanted.batch, parts, sample.thumbnails, sample.keys)


def gather(plan: Plan, urls: Sequence[str], wanted: Wanted, progress: Progress) -> Gathered:
    """Reads, looks and asks, a batch at a time."""
    eyes = [each for each in dict.fromkeys((wanted.mining, wanted.hardest)) if each is not None]
    judge = None
    if wanted.hardest is not None and plan.connection is not None:
        judge = judge_of(plan.connection, wanted.device)
    bar = lambda found: progress(found, total=wanted.samples, unit=" samples")  # noqa: E731
    whole = Pictures(urls, plan.captions, eyes, wanted.samples, judge is not None, bar)
    sample, parts = Gathered([], [], [], None, None, Verdicts([], []), 0), []
    for batch in look(whole, wanted.batch):
        if judge is not None and plan.connection is not None:
            hardest, gate = batch.features[-1], batch.features[0]
            captions = [row.captions for row in batch.rows]
            said = judge_batch(hardest, gate, captions, batch.crops, judge, plan.connection, len(sample.rows))
            sample = sample._replace(said=sample.said + said)
        sample.keys.extend(batch.keys)
        sample.rows.extend(batch.rows)
        sample.thumbnails.extend(batch.thumbnails)
        parts.append(batch.features)
    features: dict[Eyes | None, MiningFeatures] = dict(
        zip(eyes, (together(part) for part in zip(*parts, strict=True)), strict=False)
    )
    return sample._replace(
        mining=features.get(wanted.mining), hardest=features.get(wanted.hardest), left_out=whole.left_out
    )


def _parts(
    plan: Plan, sample: Gathered, wanted: Wanted, topics: list[tuple[str, str]], progress: Progress
) -> tuple[list[Part], list[str]]:
    """The page's parts, and what to know before looking at them; thresholds that were found join the topics."""
    parts, notices = [], []
    labels = torch.tensor([row.label for row in sample.rows])
    if plan.mining is not None and sample.mining is not None:
        features = sample.mining
        if not plan.mining.raw:
            _, raw = valid_and_raw(sample.rows, plan.captions.columns, features.text.device)
            features = features._replace(valid=features.valid & ~raw)
        thresholds = find_thresholds(features, plan.mining, wanted.batch)
        bar = lambda tiles: progress(tiles, desc="mining", leave=False)  # noqa: E731
        found = find(features, plan.mining, thresholds, wanted.show, labels.to(features.text.device), bar)
        parts += mined_parts(found, Words(sample.rows, features, labels), wanted.batch)
        if plan.mining.per_image is not None:
            topics.append(("thresholds", f"{threshold_words(thresholds)}, found on this sample"))
        if plan.mining.cap is not None:
            notices.append("The cap cuts the sample as one batch; smaller batches are cut less, larger ones more.")
    if plan.connection is not None and sample.hardest is not None:
        words = Words(sample.rows, sample.hardest, labels)
        parts += judged_parts(sample.said, words, plan.connection, wanted.batch, wanted.show)
        notices.append(
            f"The judge saw the middle of each image at {CROP} × {CROP} pixels; in training it sees the crops, and the "
            f"model that is trained finds the hardest pairs."
        )
        if sample.said.unasked:
            notices.append(
                f"{plural(sample.said.unasked, 'pairs')} below --match-gate: negatives, without being asked."
            )
    return parts, notices
