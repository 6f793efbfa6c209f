"""Calibration: embeds a sample, counts its pairs, proposes thresholds, and scores pairs near them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
import torch

from open_clip_fff.config.plan import Plan
from open_clip_fff.data.caption_rows import CaptionRow
from open_clip_fff.data.shards import SkippedSample
from open_clip_fff.errors import UsageError
from open_clip_fff.matching.scorer import PairScorer
from open_clip_fff.plural import plural, reasons
from open_clip_fff.tools.calibrate.agreement import clause_agreement, stratum_scores
from open_clip_fff.tools.calibrate.all_pairs import AllPairs
from open_clip_fff.tools.calibrate.counts import PairCounter
from open_clip_fff.tools.calibrate.curves import RateCurves, rate_curves
from open_clip_fff.tools.calibrate.histograms import CosineHistograms, cosine_histograms
from open_clip_fff.tools.calibrate.proposal import Proposal, check_size, propose
from open_clip_fff.tools.calibrate.strata import StratifiedPairs
from open_clip_fff.tools.calibrate.table import false_negatives, thresholds_table
from open_clip_fff.tools.calibrate.warnings import warnings
from open_clip_fff.tools.sampling.draw import SampleDraw
from open_clip_fff.tools.sampling.extractors import FeatureExtractor, without_raw
from open_clip_fff.tools.sampling.reading import SampleReader, concatenate


@dataclass(frozen=True)
class CalibrationSettings:
    """What to calibrate for."""

    batch: int  # the global batch N of training
    per_image: float  # captions of other images to mine per image in such batches
    match_pairs: int  # the most pairs that a discriminator scores
    seed: int  # of the random sample
    workers: int  # threads that decode
    device: torch.device  # of models and pairs
    batch_from: str = ""  # a note on what gives the batch


class Calibration(NamedTuple):
    """The result."""

    images: int  # of the sample
    captions: int  # likewise
    skipped: Counter[str]  # samples by the reason they were skipped
    histograms: CosineHistograms
    curves: RateCurves
    proposal: Proposal
    table: pd.DataFrame  # the thresholds and what they mine
    false_negatives: pd.DataFrame | None  # of batches; None if no class is known
    own_above: float | None  # share of images' own captions that outscore p1; None without p1
    warnings: list[str]  # sentences


def calibrate(
    plan: Plan, draw: SampleDraw, extractor: FeatureExtractor, scorer: PairScorer | None, settings: CalibrationSettings
) -> Calibration:
    """Proposes thresholds for a training that mines; `scorer` scores pairs near them, None for none.

    Raises UsageError if the sample is too small.
    """
    assert plan.mining is not None
    reader = SampleReader(
        draw, plan.captions, [extractor], settings.device, seed=settings.seed, workers=settings.workers
    )
    chunks = list(reader.chunks())
    rows = [sample.row for chunk in chunks for sample in chunk.samples]
    check_sample(rows, reader.skipped, plan, settings)
    (features,) = concatenate(chunks).features
    if not plan.mining.raw:
        features = without_raw(features, rows)
    labels = torch.tensor([row.label for row in rows], device=features.text.device)
    pairs = AllPairs(features, labels, plan.mining.text_text)
    histograms = cosine_histograms(pairs)
    curves = rate_curves(pairs, histograms, plan.mining)
    proposal = propose(histograms, curves, plan.mining, settings.batch, settings.per_image)
    counter = PairCounter(pairs, proposal.config)
    strata = None
    if scorer is not None:
        strata = StratifiedPairs(pairs, histograms, proposal, settings.match_pairs, settings.seed)
    for tile in pairs.tiles("counting"):
        counter.add(tile)
        if strata is not None:
            strata.add(tile)
    counts, agreements = counter.counts(), []
    if strata is not None and scorer is not None and plan.connection is not None and (drawn := strata.drawn()):
        q = stratum_scores(drawn, rows, draw, plan.captions, scorer, settings.device)
        agreements = clause_agreement(drawn, q, plan.connection)
    return Calibration(
        images=len(rows),
        captions=int(features.valid.sum()),
        skipped=Counter(each.why for each in reader.skipped),
        histograms=histograms,
        curves=curves,
        proposal=proposal,
        table=thresholds_table(proposal, counts, agreements, settings.batch),
        false_negatives=false_negatives(labels[labels >= 0].cpu().numpy()) if pairs.labelled else None,
        own_above=counts.own_above / counts.own if proposal.config.p1 is not None and counts.own else None,
        warnings=warnings(plan.mining, proposal, counts, settings.batch, settings.per_image),
    )


def check_sample(
    rows: Sequence[CaptionRow], skipped: Sequence[SkippedSample], plan: Plan, settings: CalibrationSettings
) -> None:
    """Refuses a sample that is too small, or without classes if --class-key names them. Raises UsageError."""
    left_out = f" (left out: {why})" if (why := reasons(Counter(each.why for each in skipped))) else ""
    if len(rows) < 2:
        raise UsageError(f"--train-data: {plural(len(rows), 'images')} with captions found{left_out}, and pairs take 2")
    check_size(len(rows), settings.batch, settings.per_image, "--train-data", left_out, settings.batch_from)
    key = plan.captions.class_key
    if key is not None and all(row.label < 0 for row in rows):
        raise UsageError(f"--class-key {key}: no image has it; name a tar member or a json field")
