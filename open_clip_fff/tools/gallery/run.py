"""From a plan of training to the page: look at a sample, mine it, have it judged, put it in words."""

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import torch

from open_clip_fff.config.plan import Plan
from open_clip_fff.data.caption_rows import CaptionRow
from open_clip_fff.data.decoded import DecodedSample
from open_clip_fff.data.shards import SkippedSample
from open_clip_fff.errors import UsageError, printable
from open_clip_fff.mining.reference import MiningFeatures
from open_clip_fff.plural import plural
from open_clip_fff.tools.gallery.matched import Verdicts, score_batch
from open_clip_fff.tools.gallery.mined import find, find_thresholds
from open_clip_fff.tools.gallery.page import page
from open_clip_fff.tools.gallery.parts import Part, Words
from open_clip_fff.tools.gallery.sections import mined_parts, scored_parts, threshold_words
from open_clip_fff.tools.pages.html import Head
from open_clip_fff.tools.sampling.draw import Draw, Progress
from open_clip_fff.tools.sampling.extractors import FeatureExtractor, without_raw
from open_clip_fff.tools.sampling.match_scores import CROP, center_crop, load_scorer
from open_clip_fff.tools.sampling.reading import Part as Images
from open_clip_fff.tools.sampling.reading import Reading, joined, thumbnail

TITLE = "What the miners find"


@dataclass(frozen=True)
class Wanted:
    """What is looked at.

    Attributes:
        show: rows of each part of the page.
        batch: images of a batch of training: hardest pairs are looked for there, and a rate holds there.
        mining: what mines; None where nothing does.
        hardest: what finds the hardest pairs; None where nobody judges them.
        device: where a discriminator runs.
    """

    show: int
    batch: int
    mining: FeatureExtractor | None
    hardest: FeatureExtractor | None
    device: torch.device


class Gathered(NamedTuple):
    """The sample: images with thumbnails, features of those extractors that there are, match scores, what is lost."""

    pictures: list[DecodedSample[bytes]]
    mining: MiningFeatures | None
    hardest: MiningFeatures | None
    said: Verdicts
    left_out: list[SkippedSample]

    @property
    def rows(self) -> list[CaptionRow]:
        """Ids, and the captions that training would have in a batch."""
        return [picture.row for picture in self.pictures]


def gallery(
    plan: Plan, draw: Draw, wanted: Wanted, topics: list[tuple[str, str]], command: str, progress: Progress
) -> str:
    """The page, HTML.

    Args:
        plan: of training.
        draw: the samples.
        wanted: how much of it, and who looks.
        topics: what the flags mean, for the page's top.
        command: as it was typed, likewise.
        progress: shows how far reading and mining are.

    Raises:
        UsageError: if the samples hold too little, or the discriminator cannot be had.
    """
    sample = gather(plan, draw, wanted, progress)
    images, captions = len(sample.pictures), sum(len(row.captions) for row in sample.rows)
    if images < 2:
        raise UsageError(f"--samples {len(draw)}: {plural(images, 'images')} with captions read, and pairs take 2")
    topics = list(topics)
    parts, notices = _parts(plan, sample, wanted, topics, progress)
    if sample.left_out:
        whys = Counter(each.why for each in sample.left_out).most_common()
        told = ", ".join(f"{count:,} {why}" for why, count in whys)
        notices.append(f"{plural(len(sample.left_out), 'samples')} left out: {told}.")
    notices += draw.sentences()
    shards = plural(len(draw.places), "shards")
    about = f"{plural(images, 'images')} of {shards}, {captions / images:.2f} captions each."
    head = Head(TITLE, about, notices, topics, command)
    keys = [printable(each.key) for each in sample.pictures]
    return page(head, wanted.batch, parts, [each.image for each in sample.pictures], keys)


def gather(plan: Plan, draw: Draw, wanted: Wanted, progress: Progress) -> Gathered:
    """Reads, extracts and asks, a batch at a time."""
    extractors = [each for each in dict.fromkeys((wanted.mining, wanted.hardest)) if each is not None]
    judge = None
    if wanted.hardest is not None and plan.connection is not None:
        judge = load_scorer(plan.connection, wanted.device)
    crop = center_crop() if judge is not None else lambda _: torch.empty(0)
    reading = Reading(
        draw, plan.captions, extractors, wanted.device, progress, lambda picture: (thumbnail(picture), crop(picture))
    )
    said, parts = Verdicts([], []), list[Images]()
    for batch in reading.parts(wanted.batch):
        if judge is not None and plan.connection is not None:
            captions, crops = zip(*((each.row.captions, each.image[1]) for each in batch.pictures), strict=True)
            start, gate, hardest = sum(len(part.pictures) for part in parts), batch.features[0], batch.features[-1]
            said = said + score_batch(hardest, gate, captions, crops, judge, plan.connection, start)
        parts.append(batch._replace(pictures=[each._replace(image=each.image[0]) for each in batch.pictures]))
    whole = joined(parts) if parts else Images([], [])
    features: dict[FeatureExtractor | None, MiningFeatures] = dict(zip(extractors, whole.features, strict=False))
    by = features.get(wanted.mining), features.get(wanted.hardest)
    return Gathered(whole.pictures, *by, said, reading.left_out)


def _parts(
    plan: Plan, sample: Gathered, wanted: Wanted, topics: list[tuple[str, str]], progress: Progress
) -> tuple[list[Part], list[str]]:
    """The page's parts, and what to know before looking at them; thresholds that were found join the topics."""
    parts, notices = [], []
    labels = torch.tensor([row.label for row in sample.rows])
    if plan.mining is not None and sample.mining is not None:
        features = sample.mining
        if not plan.mining.raw:
            features = without_raw(features, sample.rows)
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
        parts += scored_parts(sample.said, words, plan.connection, wanted.batch, wanted.show)
        notices.append(
            f"The judge saw the middle of each image at {CROP} × {CROP} pixels; in training it sees the crops, and the "
            f"model that is trained finds the hardest pairs."
        )
        if sample.said.unasked:
            notices.append(
                f"{plural(sample.said.unasked, 'pairs')} below --match-gate: negatives, without being asked."
            )
    return parts, notices
