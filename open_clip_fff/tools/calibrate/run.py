"""From a plan of training to thresholds for its data: a sample is seen, its pairs are counted, some are judged."""

from collections import Counter as LoaderCounters
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
from open_clip_fff.plural import plural
from open_clip_fff.tools.calibrate.agreement import Agreement, agreement, verdicts
from open_clip_fff.tools.calibrate.all_pairs import AllPairs
from open_clip_fff.tools.calibrate.curves import Curves, curves
from open_clip_fff.tools.calibrate.false_negatives import false_negatives
from open_clip_fff.tools.calibrate.proposal import Proposal, check_size, propose
from open_clip_fff.tools.calibrate.rule import Counter
from open_clip_fff.tools.calibrate.spread import Spread, spread
from open_clip_fff.tools.calibrate.strata import Strata
from open_clip_fff.tools.calibrate.table import thresholds_table
from open_clip_fff.tools.calibrate.warnings import notices
from open_clip_fff.tools.sampling.draw import Draw, Progress
from open_clip_fff.tools.sampling.extractors import FeatureExtractor, without_raw
from open_clip_fff.tools.sampling.reading import Reading, joined


@dataclass(frozen=True)
class Wanted:
    """What is asked for.

    Attributes:
        batch: the global batch N of training.
        per_image: captions of others that an image shall mine there.
        match_pairs: that a discriminator is asked about, at most.
        seed: of what is drawn.
        workers: threads that decode.
        device: where models and pairs are.
    """

    batch: int
    per_image: float
    match_pairs: int
    seed: int
    workers: int
    device: torch.device


class Findings(NamedTuple):
    """What came of it.

    Attributes:
        images, captions: of the sample.
        left_out: samples that were passed over, by why.
        spread, curves, proposal: of the sample.
        table: what is proposed, and what it does.
        false_negatives: of batches; None where no class is known.
        own_above: share of images' own captions that outscore p1; None without p1.
        notices: sentences to read before trusting it.
    """

    images: int
    captions: int
    left_out: LoaderCounters[str]
    spread: Spread
    curves: Curves
    proposal: Proposal
    table: pd.DataFrame
    false_negatives: pd.DataFrame | None
    own_above: float | None
    notices: list[str]


def calibrate(
    plan: Plan, draw: Draw, extractor: FeatureExtractor, judge: PairScorer | None, wanted: Wanted, progress: Progress
) -> Findings:
    """Proposes thresholds.

    Args:
        plan: of training; something mines there.
        draw: the sample.
        extractor: makes the features that mine.
        judge: who is asked about pairs near the thresholds; None for nobody.
        wanted: how much shall be mined.
        progress: shows how far reading and each pass are.

    Raises:
        UsageError: if the sample cannot serve.
    """
    assert plan.mining is not None
    reading = Reading(
        draw, plan.captions, [extractor], wanted.device, progress, seed=wanted.seed, workers=wanted.workers
    )
    parts = list(reading.parts())
    rows = [picture.row for part in parts for picture in part.pictures]
    check(rows, reading.left_out, plan, wanted)
    (features,) = joined(parts).features
    if not plan.mining.raw:
        features = without_raw(features, rows)
    labels = torch.tensor([row.label for row in rows], device=features.text.device)
    pairs = AllPairs(features, labels, plan.mining.text_text, progress)
    cosines = spread(pairs)
    levels = curves(pairs, cosines, plan.mining)
    proposal = propose(cosines, levels, plan.mining, wanted.batch, wanted.per_image)
    counter = Counter(pairs, proposal.config)
    strata = None if judge is None else Strata(pairs, cosines, proposal, wanted.match_pairs, wanted.seed)
    for tile in pairs.tiles("counting"):
        counter.add(tile)
        if strata is not None:
            strata.add(tile)
    counted = counter.counted()
    said = [] if strata is None or judge is None else _asked(strata, rows, draw, plan, judge, wanted.device, progress)
    return Findings(
        images=len(rows),
        captions=int(features.valid.sum()),
        left_out=LoaderCounters(each.why for each in reading.left_out),
        spread=cosines,
        curves=levels,
        proposal=proposal,
        table=thresholds_table(proposal, counted, said, wanted.batch),
        false_negatives=false_negatives(labels[labels >= 0].cpu().numpy()) if pairs.labelled else None,
        own_above=counted.own_above / counted.own if proposal.config.p1 is not None and counted.own else None,
        notices=notices(plan.mining, proposal, counted, wanted.batch, wanted.per_image),
    )


def check(rows: Sequence[CaptionRow], left_out: Sequence[SkippedSample], plan: Plan, wanted: Wanted) -> None:
    """Refuses a sample that says nothing.

    Raises:
        UsageError: if it is too small, or has no class where one is named.
    """
    if len(rows) < 2:
        whys = LoaderCounters(each.why for each in left_out).most_common()
        why = ", ".join(f"{count:,} {reason}" for reason, count in whys) or "nothing in them"
        raise UsageError(f"--train-data: {plural(len(rows), 'images')} with captions found ({why}), and pairs take 2")
    check_size(len(rows), wanted.batch, wanted.per_image)
    key = plan.captions.class_key
    if key is not None and all(row.label < 0 for row in rows):
        raise UsageError(f"--class-key {key}: no image has it; name a tar member or a json field")


def _asked(
    strata: Strata,
    rows: list[CaptionRow],
    draw: Draw,
    plan: Plan,
    judge: PairScorer,
    device: torch.device,
    progress: Progress,
) -> list[Agreement]:
    assert plan.connection is not None
    drawn = strata.drawn()
    if not drawn:
        return []
    q = verdicts(drawn, rows, draw, plan.captions, judge, device, progress)
    return agreement(drawn, q, plan.connection)
