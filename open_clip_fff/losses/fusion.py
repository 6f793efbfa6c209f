"""The fusion model's loss: image-text matching (ITM) and masked language modelling (MLM), by MAFA's rules.

As in ALBEF (arXiv 2107.07651), GRIT-VLP (arXiv 2208.04060) and MAFA (arXiv 2312.06112): pairs come from this rank's own
batch, gradients reach both towers, and MLM covers own pairs and the pairs that the discriminator labelled as matches.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from open_clip_fff.config.fusion import FusionSettings
from open_clip_fff.distributed import mean_over_ranks, sum_over_ranks
from open_clip_fff.losses.fusion_counts import COUNTS_LENGTH, MLM, PAIR_KINDS
from open_clip_fff.mining.counts import RunningSums
from open_clip_fff.mining.hardest import Hardest, drawn_negatives, hardest_negatives
from open_clip_fff.mining.itm import CONVERTED, OWN, ItmPairs, itm_targets
from open_clip_fff.mining.labels import known_ids
from open_clip_fff.numerics import full_precision

Labelled = tuple[Hardest, Tensor, Tensor]  # hardest negatives and their match labels (`ConnectionMiner.last`)


class Tokens(Protocol):
    """Tokens of n captions: features [n, L, W], mask bool [n, L], and position of the pooled feature, int64 [n]."""

    @property
    def features(self) -> Tensor: ...

    @property
    def mask(self) -> Tensor: ...

    @property
    def pooled(self) -> Tensor: ...


@dataclass(frozen=True)
class Vocabulary:
    """The text tower's tokens, for masked language modelling."""

    size: int  # number of token ids
    mask: int  # id of the mask token
    padding: int  # id of the padding token
    embedding: Callable[[], Tensor]  # returns the text tower's embedding [size, W]
    # from masked ids and original ids, int64 [n, L] each, to the masked captions' tokens, with gradient
    encode: Callable[[Tensor, Tensor], Tokens]


def mask_tokens(ids: Tensor, vocabulary: Vocabulary, probability: float) -> tuple[Tensor, Tensor]:
    """BERT's masking: of the chosen tokens 80 % become the mask, 10 % a random one, 10 % stay.

    Never the first token or padding. From ids int64 [n, L] to the masked ones, and which were chosen, bool [n, L].
    """
    chosen = torch.rand(ids.shape, device=ids.device) < probability
    chosen &= ids != vocabulary.padding
    chosen[:, 0] = False
    how = torch.rand(ids.shape, device=ids.device)
    masked = torch.where(chosen & (how < 0.8), vocabulary.mask, ids)
    drawn = torch.randint_like(ids, vocabulary.size)
    return torch.where(chosen & (how >= 0.8) & (how < 0.9), drawn, masked), chosen


class FusionLoss:
    """ITM and MLM of a batch.

    Args:
        network: the fusion model (`models.fusion.Fusion`).
        describe: from the captions' token features [n, L, W] and ids int64 [n, L] to `Tokens`.
        settings: weights and how negatives are found.
        vocabulary: of the text tower; None where it has no mask token.

    Attributes:
        counts: pairs and masked tokens, and how many of them were right, since the last read (fusion_counts.py).
    """

    def __init__(
        self,
        network: Any,
        describe: Callable[[Tensor, Tensor], Tokens],
        settings: FusionSettings,
        vocabulary: Vocabulary | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.network, self.describe, self.settings = network, describe, settings
        self.vocabulary = vocabulary if settings.mlm_weight else None
        self.rank, self.world_size = rank, world_size
        self.counts = RunningSums(COUNTS_LENGTH)

    def __call__(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        image_tokens: Tensor,
        text_tokens: Tensor,
        tokens: Tensor,
        caption_valid: Tensor,
        image_ids: Tensor,
        labelled: Labelled | None = None,
        negatives: Tensor | None = None,
        **_: Any,
    ) -> dict[str, Tensor]:
        """The weighted terms by name; each is the global batch's mean, with this rank's share of the gradient.

        Args:
            image_features, text_features, logit_scale: of the trained model, [B, D] and [B, K, D].
            image_tokens: [B, T, W'].
            text_tokens: [B*K, L', W].
            tokens: ids, int64 [B, K, L].
            caption_valid: bool [B, K].
            image_ids: int64 [B].
            labelled: the hardest negatives with their match labels; None where no discriminator scored them.
            negatives: bool [B, B], pairs of images that may be no match; None for all.
        """
        ids, flat = known_ids(image_ids, self.rank), tokens.flatten(0, 1)
        pairs = self.pairs(image_features, text_features, logit_scale, ids, caption_valid, labelled, negatives)
        terms, counts = {}, torch.zeros(COUNTS_LENGTH, dtype=torch.int64, device=tokens.device)
        if self.settings.itm_weight:
            text = self.describe(text_tokens, flat)
            states = self.network(image_tokens[pairs.image], text.features[pairs.caption], text.mask[pairs.caption])
            logits = full_precision(self.network.match(states, text.pooled[pairs.caption]))
            terms["itm_loss"] = self.settings.itm_weight * self._mean(logits, pairs.match)
            right = logits.argmax(dim=1) == pairs.match
            for kind in PAIR_KINDS:
                of_kind = pairs.kind == kind
                counts[2 * kind], counts[2 * kind + 1] = of_kind.sum(), (right & of_kind).sum()
        if self.vocabulary is not None:
            mlm = self._mlm(self.vocabulary, pairs, image_tokens, flat, counts)
            terms["mlm_loss"] = self.settings.mlm_weight * mlm
        self.counts.add_sums(counts)
        return terms

    def pairs(
        self,
        image: Tensor,
        text: Tensor,
        scale: Tensor,
        ids: Tensor,
        valid: Tensor,
        labelled: Labelled | None,
        negatives: Tensor | None = None,
    ) -> ItmPairs:
        """The pairs of ITM and their kinds, from features [B, D] and [B, K, D]; other arguments as in `__call__`."""
        if labelled is None:
            if self.settings.itm_negatives == "hardest":
                found = hardest_negatives(image, text, ids, valid, negatives=negatives)
            else:
                evenly = self.settings.itm_negatives == "random"
                scale = torch.zeros_like(scale) if evenly else scale
                found = drawn_negatives(image, text, scale, ids, valid, negatives)
            return itm_targets(valid, found, found)
        hardest, by_image, by_text = labelled
        second = hardest_negatives(image, text, ids, valid, hardest, negatives)
        return itm_targets(valid, hardest, second, by_image, by_text)

    def _mlm(
        self, vocabulary: Vocabulary, pairs: ItmPairs, image_tokens: Tensor, ids: Tensor, counts: Tensor
    ) -> Tensor:
        used = (pairs.kind == OWN) | (pairs.kind == CONVERTED)
        images, captions, kind = pairs.image[used], pairs.caption[used], pairs.kind[used]
        original = ids[captions]
        masked, chosen = mask_tokens(original, vocabulary, self.settings.mlm_probability)
        text = vocabulary.encode(masked, original)
        length = text.features.shape[1]
        chosen = chosen[:, :length]
        states = self.network(image_tokens[images], text.features, text.mask)
        target = original[:, :length][chosen]
        logits = full_precision(self.network.predict(states[chosen], vocabulary.embedding()))
        right = logits.argmax(dim=1) == target
        converted = (kind == CONVERTED)[:, None].expand_as(chosen)[chosen]
        for place, part in ((MLM, ~converted), (MLM + 2, converted)):
            counts[place], counts[place + 1] = part.sum(), (right & part).sum()
        return self._mean(logits, target)

    def _mean(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy, averaged over all ranks' rows."""
        rows = sum_over_ranks(logits.new_tensor(len(target)), self.world_size)
        total = F.cross_entropy(logits, target, reduction="sum")
        return mean_over_ranks(total * self.world_size / rows.clamp(min=1), self.world_size)
