"""open-clip-fff gallery: reads a sample, mines it, scores its hardest pairs, and writes the page."""

import argparse
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from open_clip_fff.atomic_io import write_atomically
from open_clip_fff.config.description import describe
from open_clip_fff.config.open_clip import Upstream
from open_clip_fff.config.plan import Plan
from open_clip_fff.config.topics import plain
from open_clip_fff.data.caption_rows import CaptionRow
from open_clip_fff.data.decoded import DecodedSample
from open_clip_fff.data.shards import SkippedSample
from open_clip_fff.errors import UsageError, printable
from open_clip_fff.hub.loading import load_model
from open_clip_fff.mining.reference import MiningFeatures
from open_clip_fff.models.frozen import FrozenModel
from open_clip_fff.plural import plural, reasons
from open_clip_fff.tools.gallery.mined import find_thresholds, mine_sample
from open_clip_fff.tools.gallery.page import GallerySection
from open_clip_fff.tools.gallery.rows import RowBuilder
from open_clip_fff.tools.gallery.scored import ScoredSample, score_batch
from open_clip_fff.tools.gallery.sections import format_thresholds, mined_sections, scored_sections
from open_clip_fff.tools.pages.html import Head, data_address, render
from open_clip_fff.tools.sampling.command import exit_code, is_own, open_shards, writing
from open_clip_fff.tools.sampling.draw import SampleDraw
from open_clip_fff.tools.sampling.extractors import FeatureExtractor, FrozenExtractor, load_extractor, without_raw
from open_clip_fff.tools.sampling.flags import GALLERY_SHARDS
from open_clip_fff.tools.sampling.match_scores import CROP, center_crop, load_scorer
from open_clip_fff.tools.sampling.reading import SampleChunk, SampleReader, concatenate, thumbnail

TITLE = "What mining finds"
TOPICS = ("captions", "mining", "discriminator")  # of the plan, shown at the top


@dataclass(frozen=True)
class GallerySettings:
    """How much is shown, and by which models."""

    show: int  # rows of each section
    batch: int  # images in a batch of training, in which hardest pairs are searched and a rate holds
    mining: FeatureExtractor | None  # the extractor that mines; None if nothing is mined
    hardest: FeatureExtractor | None  # the extractor that finds the hardest pairs; None without a discriminator
    device: torch.device  # of the discriminator


class GallerySample(NamedTuple):
    """Images with thumbnails, their features by both extractors, match scores, and skipped samples."""

    samples: list[DecodedSample[bytes]]
    mining: MiningFeatures | None
    hardest: MiningFeatures | None
    scored: ScoredSample
    skipped: list[SkippedSample]

    @property
    def rows(self) -> list[CaptionRow]:
        """Ids, and the captions that training would use in a batch."""
        return [sample.row for sample in self.samples]


def run(args: argparse.Namespace, plan: Plan, command: str) -> int:
    """Writes the page; `command` is the command line.

    Raises UsageError for shards that training would refuse, another file of that name, models that cannot be loaded,
    and too few images.
    """
    if args.out.exists() and not is_own(args.out, f"<title>{TITLE}</title>"):
        raise UsageError(f"--out {args.out}: is another file than an earlier gallery; name another one")
    plan, urls, device = open_shards(args, plan, args.out.parent)
    settings = GallerySettings(args.show, args.batch_size, *load_extractors(args, plan, device), device)
    draw = SampleDraw(urls, args.samples, 0, shards=GALLERY_SHARDS)
    try:
        html = gallery(plan, draw, settings, command)
    finally:
        code = exit_code(draw)
    with writing(args.out):
        write_atomically(args.out, html)
    print(f"{args.out} is written ({len(html) / 2**20:.1f} MiB): open it in a browser")
    return code


def load_extractors(
    args: argparse.Namespace, plan: Plan, device: torch.device
) -> tuple[FeatureExtractor | None, FeatureExtractor | None]:
    """The extractor that mines, and the one that finds the hardest pairs.

    Raises UsageError if one cannot be loaded, or none that is named can find the hardest pairs.
    """
    embeds_both = plan.features in ("frozen", "precomputed") and not plan.text_only
    if plan.connection is not None and args.hardest_by is None and not embeds_both:
        raise UsageError(
            "--discriminator: the model that is trained finds the hardest pairs; name it, or one like it: "
            "--hardest-by RUN_OR_MODEL, before the --"
        )
    mining = None if plan.mining is None else load_extractor(plan, device)
    if plan.connection is None or args.hardest_by is None:
        return mining, None if plan.connection is None else mining
    loaded = load_model(args.hardest_by, device)
    return mining, FrozenExtractor(FrozenModel(loaded.model, loaded.tokenizer))


def gallery(plan: Plan, draw: SampleDraw, settings: GallerySettings, command: str) -> str:
    """The page as HTML. Raises UsageError if there are too few images, or the discriminator cannot be loaded."""
    sample = read_gallery_sample(plan, draw, settings)
    images, captions = len(sample.samples), sum(len(row.captions) for row in sample.rows)
    why = reasons(Counter(each.why for each in sample.skipped))
    if images < 2:
        left_out = f" (left out: {why})" if why else ""
        raise UsageError(f"--train-data: {plural(images, 'images')} with captions read{left_out}, and pairs take 2")
    described = describe(plan, Upstream(dataset_type="webdataset"))
    topics = [(topic.name, plain("; ".join(topic.parts))) for topic in described if topic.name in TOPICS]
    sections, warnings = _sections(plan, sample, settings, topics)
    if why:
        warnings.append(f"{plural(len(sample.skipped), 'samples')} left out: {why}.")
    warnings += draw.warnings()
    shards = plural(len(draw.indices), "shards")
    about = f"{plural(images, 'images')} of {shards}, {captions / images:.2f} captions each."
    return render(
        Path(__file__).parent,
        Head(TITLE, about, warnings, topics, printable(command)),
        batch=settings.batch,
        sections=sections,
        keys=[printable(each.key) for each in sample.samples],
        address=lambda image: data_address(sample.samples[image].image, "image/jpeg"),
    )


def read_gallery_sample(plan: Plan, draw: SampleDraw, settings: GallerySettings) -> GallerySample:
    """Decodes, embeds and scores, a batch at a time."""
    extractors = [each for each in dict.fromkeys((settings.mining, settings.hardest)) if each is not None]
    scorer = None
    if settings.hardest is not None and plan.connection is not None:
        scorer = load_scorer(plan.connection, settings.device)
    crop = center_crop() if scorer is not None else lambda _: torch.empty(0)
    reader = SampleReader(
        draw, plan.captions, extractors, settings.device, lambda image: (thumbnail(image), crop(image))
    )
    scored, chunks, start = ScoredSample([], []), list[SampleChunk](), 0
    for batch in reader.chunks(settings.batch):
        if scorer is not None and plan.connection is not None:
            captions, crops = zip(*((each.row.captions, each.image[1]) for each in batch.samples), strict=True)
            gate, hardest = batch.features[0], batch.features[-1]
            scored = scored + score_batch(hardest, gate, captions, crops, scorer, plan.connection, start)
        start += len(batch.samples)
        chunks.append(batch._replace(samples=[each._replace(image=each.image[0]) for each in batch.samples]))
    everything = concatenate(chunks) if chunks else SampleChunk([], [])
    features: dict[FeatureExtractor | None, MiningFeatures] = dict(zip(extractors, everything.features, strict=False))
    by = features.get(settings.mining), features.get(settings.hardest)
    return GallerySample(everything.samples, *by, scored, reader.skipped)


def _sections(
    plan: Plan, sample: GallerySample, settings: GallerySettings, topics: list[tuple[str, str]]
) -> tuple[list[GallerySection], list[str]]:
    """The page's sections, and warnings; thresholds found on the sample join the topics."""
    sections, warnings = [], []
    labels = torch.tensor([row.label for row in sample.rows])
    if plan.mining is not None and sample.mining is not None:
        features = sample.mining if plan.mining.raw else without_raw(sample.mining, sample.rows)
        thresholds = find_thresholds(features, plan.mining, settings.batch)
        mined = mine_sample(features, plan.mining, thresholds, settings.show, labels.to(features.text.device))
        sections += mined_sections(mined, RowBuilder(sample.rows, features, labels), settings.batch)
        if plan.mining.per_image is not None:
            topics.append(("thresholds", f"{format_thresholds(thresholds)}, found on this sample"))
            if plan.mining.cap is not None and settings.batch > len(sample.samples):
                warnings.append(
                    f"With a cap, thresholds are those of batches as large as the sample; --samples {settings.batch:,} "
                    f"or more finds those of batches of {settings.batch:,}."
                )
        if plan.mining.cap is not None:
            warnings.append("The cap cuts the sample as one batch; smaller batches are cut less, larger ones more.")
    if plan.connection is not None and sample.hardest is not None:
        builder = RowBuilder(sample.rows, sample.hardest, labels)
        sections += scored_sections(sample.scored, builder, plan.connection, settings.batch, settings.show)
        warnings.append(
            f"The discriminator scored the centre of each image at {CROP} × {CROP} pixels; in training it gets the "
            f"crops, and the model that is trained finds the hardest pairs."
        )
        if sample.scored.unscored:
            count = plural(sample.scored.unscored, "pairs")
            warnings.append(f"{count} below --match-gate: negatives, without being scored.")
    return sections, warnings
