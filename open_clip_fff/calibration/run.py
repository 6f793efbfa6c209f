"""From a plan of training to thresholds for its data: a sample is seen, its pairs are counted, some are judged."""

from collections import Counter as Tally
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
import torch

from open_clip_fff.calibration.agreement import Agreement, agreement, verdicts
from open_clip_fff.calibration.all_pairs import AllPairs, Progress
from open_clip_fff.calibration.curves import Curves, curves
from open_clip_fff.calibration.draw import Draw
from open_clip_fff.calibration.eyes import Eyes
from open_clip_fff.calibration.notices import notices
from open_clip_fff.calibration.proposal import Proposal, check_size, propose
from open_clip_fff.calibration.rule import Counter
from open_clip_fff.calibration.seen import Seen, see
from open_clip_fff.calibration.spread import Spread, spread
from open_clip_fff.calibration.strata import Strata
from open_clip_fff.calibration.table import thresholds_table
from open_clip_fff.connection.judge import Judge
from open_clip_fff.errors import UsageError
from open_clip_fff.plural import plural
from open_clip_fff.settings.plan import Plan


@dataclass(frozen=True)
class Wanted:
    """What is asked for.

    Attributes:
        batch: the global batch N of training.
        per_image: captions of others that an image shall mine there.
        judge_pairs: that a discriminator is asked about, at most.
        seed: of what is drawn.
        workers: threads that decode.
        device: where models and pairs are.
    """

    batch: int
    per_image: float
    judge_pairs: int
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
        own_above: share of images' own captions that outscore p1; None without p1.
        notices: sentences to read before trusting it.
    """

    images: int
    captions: int
    left_out: Tally[str]
    spread: Spread
    curves: Curves
    proposal: Proposal
    table: pd.DataFrame
    own_above: float | None
    notices: list[str]


def calibrate(plan: Plan, draw: Draw, eyes: Eyes, judge: Judge | None, wanted: Wanted, progress: Progress) -> Findings:
    """Proposes thresholds.

    Args:
        plan: of training; something mines there.
        draw: the sample.
        eyes: what mines.
        judge: who is asked about pairs near the thresholds; None for nobody.
        wanted: how much shall be mined.
        progress: shows how far reading and each pass are.

    Raises:
        UsageError: if the sample cannot serve.
    """
    assert plan.mining is not None
    bar = lambda found: progress(found, total=len(draw), unit=" images", desc="features")  # noqa: E731
    seen = see(draw, plan.captions, eyes, plan.mining.raw, wanted.device, wanted.seed, wanted.workers, bar)
    check(seen, plan, wanted)
    pairs = AllPairs(seen.sample, plan.mining.text_text, progress)
    cosines = spread(pairs)
    levels = curves(pairs, cosines, plan.mining)
    proposal = propose(cosines, levels, plan.mining, wanted.batch, wanted.per_image)
    counter = Counter(pairs, proposal.config)
    strata = None if judge is None else Strata(pairs, cosines, proposal, wanted.judge_pairs, wanted.seed)
    for tile in pairs.tiles("counting"):
        counter.add(tile)
        if strata is not None:
            strata.add(tile)
    counted = counter.counted()
    said = [] if strata is None or judge is None else _asked(strata, seen, draw, plan, judge, wanted.device, progress)
    return Findings(
        images=len(seen.rows),
        captions=int(seen.sample.features.valid.sum()),
        left_out=seen.left_out,
        spread=cosines,
        curves=levels,
        proposal=proposal,
        table=thresholds_table(proposal, counted, said, wanted.batch),
        own_above=counted.own_above / counted.own if proposal.config.p1 is not None and counted.own else None,
        notices=notices(plan.mining, proposal, counted, wanted.batch, wanted.per_image),
    )


def check(seen: Seen, plan: Plan, wanted: Wanted) -> None:
    """Refuses a sample that says nothing.

    Raises:
        UsageError: if it is too small, or has no class where one is named.
    """
    if len(seen.rows) < 2:
        why = ", ".join(f"{count:,} {reason}" for reason, count in seen.left_out.most_common()) or "nothing in them"
        raise UsageError(
            f"--train-data: {plural(len(seen.rows), 'images')} with captions found ({why}), and pairs take 2"
        )
    check_size(len(seen.rows), wanted.batch, wanted.per_image)
    key = plan.captions.class_key
    if key is not None and bool((seen.sample.labels < 0).all()):
        raise UsageError(f"--class-key {key}: no image has it; name a tar member or a json field")


def _asked(
    strata: Strata, seen: Seen, draw: Draw, plan: Plan, judge: Judge, device: torch.device, progress: Progress
) -> list[Agreement]:
    assert plan.connection is not None
    drawn = strata.drawn()
    if not drawn:
        return []
    q = verdicts(drawn, seen.rows, draw, plan.captions, judge, device, progress)
    return agreement(drawn, q, plan.connection)
