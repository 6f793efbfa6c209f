"""A frozen OpenCLIP model as discriminator, for data without a matching model: its match score is the cosine."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from open_clip_fff.config.mining import FrozenSource
from open_clip_fff.errors import UsageError
from open_clip_fff.fingerprint import architecture_fingerprint, fingerprint, tokenizer_fingerprint
from open_clip_fff.matching.registry import DiscriminatorContext
from open_clip_fff.models.frozen import FrozenTowers, load_frozen


class CosineDiscriminator:
    """q is the cosine of image and caption, clamped at 0: no probability, so the thresholds are cosines.

    Contrastive models rank captions and do not say whether one matches; a probability would need a calibrated scale and
    bias. So `ConnectionSettings` requires the user to give thresholds.

    Args:
        context: `name` is an architecture and its weights, `ViT-B-32-quickgelu/openai` or `ViT-B-32/FILE`, a run's
            folder, a checkpoint in it, a folder in OpenCLIP's hub format, or `hf-hub:ORG/NAME`.

    Attributes:
        identity: hash of weights, architecture, tokenizer and preprocessing.
    """

    def __init__(self, context: DiscriminatorContext) -> None:
        frozen = load_frozen(
            _source(context), context.cache_dir, context.flag, "name another, as open_clip:NAME/TAG or a folder"
        )
        model = f"{fingerprint(frozen.model.state_dict())} {architecture_fingerprint(frozen.model)}"
        tokenizer = tokenizer_fingerprint(frozen.tokenizer)
        self.towers = FrozenTowers(frozen, context.device, context.image_mean, context.image_std)
        self.device, self.batch = context.device, context.batch
        visual = frozen.model.visual
        self.identity = f"open_clip {self.towers.crops.size} {visual.image_mean} {visual.image_std} {model} {tokenizer}"

    def __call__(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """q of P pairs, float32 [P], given crops [P, 3, H, W] and P strings."""
        return self.pairs(images, torch.arange(len(captions)), captions)

    @torch.no_grad()
    def pairs(self, images: Tensor, rows: Tensor, captions: Sequence[str]) -> Tensor:
        """q of P pairs, float32 [P], given crops [U, 3, H, W], each caption's crop index, int64 [P], and P strings."""
        if not captions:
            return torch.empty(0, device=self.device)
        features = torch.cat([self.towers.images(part) for part in images.split(self.batch)])
        unique = list(dict.fromkeys(captions))
        parts = [self._texts(unique[i : i + self.batch]) for i in range(0, len(unique), self.batch)]
        index = {caption: i for i, caption in enumerate(unique)}
        texts = torch.cat(parts)[[index[caption] for caption in captions]]
        return (features[rows.to(self.device)] * texts).sum(dim=-1).clamp(min=0)

    def _texts(self, captions: list[str]) -> Tensor:
        tokens = self.towers.tokenizer(captions).to(self.device)[:, None]  # one caption each: [n, 1, L]
        return self.towers.texts(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=self.device))[:, 0]


def _source(context: DiscriminatorContext) -> FrozenSource:
    import open_clip

    name = context.name
    if name and (Path(name).exists() or open_clip.factory.parse_model_name(name)[0] is not None):
        return FrozenSource(name)
    model, _, weights = name.partition("/")
    if not model or not weights:
        raise UsageError(f"{context.flag}: name its weights, too, open_clip:ViT-B-32-quickgelu/openai, or a folder")
    return FrozenSource(model, weights)
