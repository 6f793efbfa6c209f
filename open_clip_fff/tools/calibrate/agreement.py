"""Match scores of pairs near the thresholds: the share of a clause's mined pairs that a discriminator calls a match."""

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
from open_clip_fff.progress import progress
from open_clip_fff.tools.calibrate.strata import ABOVE, StratumPairs
from open_clip_fff.tools.sampling.match_scores import center_crop, score_pairs

HALF = 0.5
PAIRS = 32  # at a time


class MatchShares(NamedTuple):
    """Shares of pairs labelled match, ambiguous and no match (NaN each without pairs)."""

    match: float
    ambiguous: float
    no: float


class ClauseAgreement(NamedTuple):
    """Match labels of one clause's pairs."""

    clause: int  # 0, 1 or 2: S_it, S_ii or S_tt
    above: MatchShares  # of the pairs that it mines
    below: MatchShares  # of as many pairs just below its threshold
    half: float  # the cosine at which half of the pairs are matches, or the end of the scored range
    side: str  # `at` that cosine; `above` if even the best pairs are not half matches; `below` if even the worst are
    scored: int  # pairs, those farther below the threshold included, by which `half` is found


def stratum_scores(
    drawn: Sequence[StratumPairs],
    rows: Sequence[CaptionRow],
    samples: Iterable[dict],
    captions: CaptionSettings,
    scorer: PairScorer,
    device: torch.device,
) -> list[Tensor]:
    """q of the pairs of each stratum, float32 [m] each; reads the needed images again.

    `samples` are the undecoded samples from which `rows` were read; `scorer` takes images in [0, 1].
    """
    # sorted by image
    pairs, inverse = torch.cat([stratum.pairs for stratum in drawn]).unique(dim=0, return_inverse=True)
    all_ids = torch.tensor([row.id for row in rows])
    needed = set(all_ids[pairs[:, 0]].tolist())
    crops: dict[int, Tensor] = {}
    for sample in decoded_samples((x for x in samples if id_of(x) in needed), CaptionReader(captions), center_crop()):
        if isinstance(sample, DecodedSample):
            crops[sample.row.id] = sample.image
    scores = []
    for some in progress(pairs.split(PAIRS), desc="match scores"):
        images, others, numbers = some.unbind(dim=1)
        texts = [rows[j].captions[k] for j, k in zip(others.tolist(), numbers.tolist(), strict=True)]
        ids = all_ids[images].to(device), all_ids[others].to(device)
        scores.append(score_pairs(scorer, ids, texts, crops, ids[0]).cpu())
    return list(torch.cat(scores)[inverse].split([len(stratum.pairs) for stratum in drawn]))


def clause_agreement(
    drawn: Sequence[StratumPairs], q: Sequence[Tensor], settings: ConnectionSettings
) -> list[ClauseAgreement]:
    """The agreement of each clause; strata are weighted by their population."""
    agreements = []
    for clause in sorted({stratum.clause for stratum in drawn}):
        own = [
            (stratum, settings.match_label(x)) for stratum, x in zip(drawn, q, strict=True) if stratum.clause == clause
        ]
        above = [part for part in own if part[0].stratum < ABOVE]
        below = [part for part in own if part[0].stratum == ABOVE]
        matches = [(float(stratum.cosines.mean()), float((labels > 0).double().mean())) for stratum, labels in own]
        scored = sum(len(labels) for _, labels in own)
        agreements.append(ClauseAgreement(clause, _shares(above), _shares(below), *half_way(matches), scored))
    return agreements


def half_way(matches: Sequence[tuple[float, float]]) -> tuple[float, str]:
    """The cosine at which half of the pairs match, given cosines, the highest first, and shares of matches near them.

    Returns the interpolated cosine at which the share first falls below a half, and `at`; or the highest cosine and
    `above`; or the lowest and `below`.
    """
    for number, (cosine, share) in enumerate(matches):
        if share < HALF:
            if not number:
                return cosine, "above"
            higher, most = matches[number - 1]
            return cosine + (higher - cosine) * (HALF - share) / (most - share), "at"
    return matches[-1][0], "below"


def _shares(parts: Sequence[tuple[StratumPairs, Tensor]]) -> MatchShares:
    total = sum(stratum.population for stratum, _ in parts) or float("nan")

    def share(label: int) -> float:
        return sum(stratum.population * float((x == label).double().mean()) for stratum, x in parts) / total

    return MatchShares(share(1), share(0), share(-1))
