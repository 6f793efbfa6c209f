"""What a discriminator says of pairs near the thresholds."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.config.connection import ConnectionSettings
from open_clip_fff.data.caption_rows import CaptionRow
from open_clip_fff.data.decoded import DecodedSample, decoded_samples
from open_clip_fff.data.shards import id_of
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.matching.scorer import PairScorer
from open_clip_fff.tools.calibrate.strata import ABOVE, Drawn
from open_clip_fff.tools.sampling.draw import Progress
from open_clip_fff.tools.sampling.match_scores import center_crop, score_pairs

HALF = 0.5
AT_A_TIME = 32  # pairs


class Said(NamedTuple):
    """Shares of some pairs that are called a match, ambiguous, and no match; NaN each where none were asked about."""

    match: float
    ambiguous: float
    no: float
    asked: int


class Agreement(NamedTuple):
    """What was said of one clause.

    Attributes:
        clause: 0, 1 or 2: S_it, S_ii or S_tt.
        above: of the pairs that it mines.
        below: of as many just below its threshold.
        half: the cosine at which half of the pairs are matches, or the end of what was asked about.
        side: `at` that cosine; `above`, where even the best are not half matches; `below`, where even the worst are.
    """

    clause: int
    above: Said
    below: Said
    half: float
    side: str


def verdicts(
    drawn: Sequence[Drawn],
    rows: Sequence[CaptionRow],
    samples: Iterable[dict],
    captions: CaptionSettings,
    judge: PairScorer,
    device: torch.device,
    progress: Progress,
) -> list[Tensor]:
    """q of the pairs of each stratum, float32 [m] each; the images are read again, only those that are asked about.

    Args:
        drawn: the pairs.
        rows: of the sample's images.
        samples: those that the sample was made of, undecoded.
        captions: where captions are.
        judge: who is asked.
        device: where it runs.
        progress: is handed the pairs, some at a time, a bar, say.
    """
    pairs, place = torch.cat([some.pairs for some in drawn]).unique(dim=0, return_inverse=True)  # sorted by image
    known = torch.tensor([row.id for row in rows])
    wanted = set(known[pairs[:, 0]].tolist())
    crops: dict[int, Tensor] = {}
    for picture in decoded_samples((x for x in samples if id_of(x) in wanted), CaptionReader(captions), center_crop()):
        if isinstance(picture, DecodedSample):
            crops[picture.row.id] = picture.image
    found = []
    for some in progress(pairs.split(AT_A_TIME), desc="judging"):
        images, others, captions_of = some.unbind(dim=1)
        texts = [rows[j].captions[k] for j, k in zip(others.tolist(), captions_of.tolist(), strict=True)]
        ids = known[images].to(device), known[others].to(device)
        found.append(score_pairs(judge, ids, texts, crops, ids[0]).cpu())
    return list(torch.cat(found)[place].split([len(some.pairs) for some in drawn]))


def agreement(drawn: Sequence[Drawn], q: Sequence[Tensor], settings: ConnectionSettings) -> list[Agreement]:
    """By clause; shares over several strata are weighted by how many pairs of the sample each stands for."""
    found = []
    for clause in sorted({some.clause for some in drawn}):
        own = [(some, settings.match_label(x)) for some, x in zip(drawn, q, strict=True) if some.clause == clause]
        above = [part for part in own if part[0].stratum < ABOVE]
        below = [part for part in own if part[0].stratum == ABOVE]
        matches = [(float(some.cosines.mean()), float((said > 0).double().mean())) for some, said in own]
        found.append(Agreement(clause, _said(above), _said(below), *half_way(matches)))
    return found


def half_way(matches: Sequence[tuple[float, float]]) -> tuple[float, str]:
    """The cosine at which half of the pairs are matches.

    Args:
        matches: cosine, and the share of matches about there, from the highest cosine down.

    Returns:
        The cosine of the first fall below a half, on a line between its neighbours, and `at`; or the highest and
        `above`, or the lowest and `below`.
    """
    for place, (cosine, share) in enumerate(matches):
        if share < HALF:
            if not place:
                return cosine, "above"
            higher, most = matches[place - 1]
            return cosine + (higher - cosine) * (HALF - share) / (most - share), "at"
    return matches[-1][0], "below"


def _said(parts: Sequence[tuple[Drawn, Tensor]]) -> Said:
    total = sum(some.population for some, _ in parts)

    def share(verdict: int) -> float:
        if not total:
            return float("nan")
        return sum(some.population * float((said == verdict).double().mean()) for some, said in parts) / total

    return Said(share(1), share(0), share(-1), sum(len(said) for _, said in parts))
