"""A fusion model trained with this package as discriminator: MAFA's loop without a foreign model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from open_clip_fff.config.mining import FrozenSource
from open_clip_fff.config.text import TextSettings
from open_clip_fff.data.tokens import Tokenizer
from open_clip_fff.errors import UsageError
from open_clip_fff.matching.discriminators import MatchingDiscriminator
from open_clip_fff.matching.model import PairModel
from open_clip_fff.matching.registry import DiscriminatorContext
from open_clip_fff.models.crops import image_size
from open_clip_fff.models.frozen import load_frozen
from open_clip_fff.models.fusion import Fusion, check_match_head, load_fusion
from open_clip_fff.models.tower_tokens import TowerTokens
from open_clip_fff.models.unpadded_text import UnpaddedText


class FusedTowers(PairModel):
    """OpenCLIP's towers and tokenizer, and the fusion model that was trained with them."""

    kind = "fusion"

    def __init__(self, towers: Any, fusion: Fusion, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = nn.ModuleDict({"towers": towers, "fusion": fusion}).eval(), tokenizer
        self._towers, self._tokens = towers, TowerTokens(towers)
        self._fusion, self._unpadded_text = fusion, UnpaddedText(towers, TextSettings())

    def encode(self, pixels: Tensor) -> Tensor:
        return self._tokens.encode_images(self._towers, pixels)

    def match(self, states: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        text = self._tokens.encode_texts(self._towers, self._unpadded_text, ids)
        return self._fusion.match(self._fusion(states, text.features, text.mask), text.pooled)

    def tokens(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids = self.tokenizer(list(captions)).to(self.device)
        return ids, torch.ones_like(ids)  # `TowerTokens` knows what is padding

    @property
    def size(self) -> tuple[int, int]:
        return image_size(self._towers.visual)

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        visual = self._towers.visual
        return tuple(visual.image_mean), tuple(visual.image_std)


def load_fused(name: str, flag: str, cache_dir: str | None = None) -> FusedTowers:
    """Loads an exported folder, a run or a checkpoint that was trained with a fusion model; UsageError for none."""
    if not name:
        raise UsageError(f"{flag}: name the model, fusion:FOLDER")
    if not Path(name).exists():
        raise UsageError(f"{flag}: no such folder or checkpoint {name}")
    check_match_head(Path(name), flag)
    frozen = load_frozen(FrozenSource(name), cache_dir, flag, "name an exported folder or a run")
    return FusedTowers(frozen.model, load_fusion(Path(name)), frozen.tokenizer)


def fusion(context: DiscriminatorContext) -> MatchingDiscriminator:
    """`fusion:DIR`: an exported folder or a run with a fusion model."""
    return MatchingDiscriminator(load_fused(context.name, context.flag, context.cache_dir), context)
