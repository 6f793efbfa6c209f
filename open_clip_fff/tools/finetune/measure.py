"""How well a discriminator separates held-out pairs from negatives."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from open_clip_fff.config.connection import NEGATIVE_SCORE, POSITIVE_SCORE
from open_clip_fff.errors import UsageError
from open_clip_fff.matching.model import MatchingModel, match_probabilities
from open_clip_fff.tools.finetune.discriminator_losses import same_pair
from open_clip_fff.tools.finetune.pairs import ImagePair

BLOCK = 256  # images among which the hardest caption is searched, like a training batch
MetricTable = dict[str, dict[str, float | None]]


@torch.no_grad()
def measure_matching(matching: MatchingModel, pairs: Sequence[ImagePair], batch: int = 64) -> MetricTable:
    """Held-out pairs against as many negatives: with a random caption, and with the hardest by the model's cosine.

    The model is in eval mode, and at least two pairs have different captions. A hardest caption may match and still
    counts as a negative: AUC and precision are lower bounds.

    Returns, by `random` and `hardest`, the number of `pairs`, `auc`, and `precision` and `recall` of q > POSITIVE_SCORE
    and q > NEGATIVE_SCORE, from 0 to 1; a precision is None if nothing passed.

    Raises UsageError if the model's probabilities are not finite.
    """
    captions = [pair.caption for pair in pairs]
    rows, chosen = _negatives(matching, pairs, batch)
    stack = [pair.pixels for pair in pairs]

    def pixels(indices: Tensor) -> Tensor:
        return torch.stack([stack[index] for index in indices.tolist()]).to(matching.device)

    def q(texts: list[int]) -> Tensor:
        return match_probabilities(matching, pixels, rows, [captions[text] for text in texts], batch).cpu()

    matched, others = q(rows.tolist()), {name: q(texts) for name, texts in chosen.items()}
    if not bool(torch.cat([matched, *others.values()]).isfinite().all()):
        raise UsageError("match probabilities of held-out pairs are not finite: lower --lr, or name another --model")
    return {name: scores(matched, other) for name, other in others.items()}


def scores(matched: Tensor, other: Tensor) -> dict[str, float | None]:
    """Metrics of matches against negatives, given q of each, float32 [n]; chance is .5, except for a recall."""
    from sklearn.metrics import roc_auc_score

    labels = torch.cat([torch.ones(len(matched)), torch.zeros(len(other))])
    found: dict[str, Any] = {"pairs": len(matched)}
    found["auc"] = float(roc_auc_score(labels.numpy(), torch.cat([matched, other]).numpy()))
    for threshold in (POSITIVE_SCORE, NEGATIVE_SCORE):
        right, wrong = int((matched > threshold).sum()), int((other > threshold).sum())
        found[f"precision at {threshold}"] = right / (right + wrong) if right + wrong else None
        found[f"recall at {threshold}"] = right / len(matched)
    return found


def _negatives(matching: MatchingModel, pairs: Sequence[ImagePair], batch: int) -> tuple[Tensor, dict[str, list[int]]]:
    """Images with a negative in their block, and for each of them a random and the hardest one."""
    draw = torch.Generator().manual_seed(0)
    rows: list[int] = []
    chosen: dict[str, list[int]] = {"random": [], "hardest": []}
    for start in range(0, len(pairs), BLOCK):
        block = pairs[start : start + BLOCK]
        captions = [pair.caption for pair in block]
        ids, mask = matching.tokens(captions)
        other = ~same_pair(torch.tensor([pair.id for pair in block]), captions)
        parts = [torch.stack([pair.pixels for pair in block[i : i + batch]]) for i in range(0, len(block), batch)]
        cosines = torch.cat([matching.align(matching.encode(part.to(ids.device)), ids, mask) for part in parts])
        some = other.any(dim=1)
        rows += (start + some.nonzero()[:, 0]).tolist()
        random = torch.multinomial(other[some].float(), 1, generator=draw)[:, 0]
        hardest = cosines.cpu().float().masked_fill(~other, -torch.inf)[some].argmax(dim=1)
        chosen["random"] += (start + random).tolist()
        chosen["hardest"] += (start + hardest).tolist()
    return torch.tensor(rows), chosen


def format_metrics(table: MetricTable) -> str:
    columns = list(next(iter(table.values())))
    lines = [f"{'matched against':<16}" + "".join(f"{column:>18}" for column in columns)]
    for name, row in table.items():
        cells = ["–" if x is None else f"{x:,}" if isinstance(x, int) else f"{100 * x:.1f}" for x in row.values()]
        lines.append(f"{name:<16}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)
