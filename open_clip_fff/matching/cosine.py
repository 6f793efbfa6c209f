"""A frozen OpenCLIP model as discriminator, where there is no matching model: by its cosine alone."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from open_clip_fff.config.mining import FrozenSource
from open_clip_fff.errors import UsageError
from open_clip_fff.fingerprint import architecture_fingerprint, fingerprint, tokenizer_fingerprint
from open_clip_fff.matching.registry import DiscriminatorContext
from open_clip_fff.models.frozen import FrozenTowers, load_frozen


class Cosine:
    """q is the cosine of image and caption, 0 where it is negative: no probability, and its thresholds are cosines.

    Contrastive models know how much better one caption fits than others, and not whether it fits; turning the cosine
    into a probability would need a scale and a bias that nobody measured. `ConnectionSettings` so asks for thresholds.

    Args:
        context: `name` is an architecture and its weights, `ViT-B-32-quickgelu/openai` or `ViT-B-32/FILE`, a run's
            folder, a checkpoint in it, a folder in OpenCLIP's hub format, or `hf-hub:ORG/NAME`.

    Attributes:
        identity: of its weights, its architecture and its tokenizer, and of how it sees images.
    """

    def __init__(self, context: DiscriminatorContext) -> None:
        frozen = load_frozen(
            _source(context), context.cache_dir, context.called, "name another, as open_clip:NAME/TAG or a folder"
        )
        model = f"{fingerprint(frozen.model.state_dict())} {architecture_fingerprint(frozen.model)}"
        reading = tokenizer_fingerprint(frozen.tokenizer)
        self.towers = FrozenTowers(frozen, context.device, context.image_mean, context.image_std)
        self.device, self.batch = context.device, context.batch
        visual = frozen.model.visual
        self.identity = f"open_clip {self.towers.crops.size} {visual.image_mean} {visual.image_std} {model} {reading}"

    def __call__(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """q of P pairs, float32 [P], given crops [P, 3, H, W] and P strings."""
        return self.pairs(images, torch.arange(len(captions)), captions)

    @torch.no_grad()
    def pairs(self, images: Tensor, rows: Tensor, captions: Sequence[str]) -> Tensor:
        """q of P pairs, float32 [P], given crops [U, 3, H, W], the crop of each caption, int64 [P], and P strings."""
        if not captions:
            return torch.empty(0, device=self.device)
        seen = torch.cat([self.towers.images(part) for part in images.split(self.batch)])
        different = list(dict.fromkeys(captions))
        parts = [self._texts(different[i : i + self.batch]) for i in range(0, len(different), self.batch)]
        place = {caption: i for i, caption in enumerate(different)}
        texts = torch.cat(parts)[[place[caption] for caption in captions]]
        return (seen[rows.to(self.device)] * texts).sum(dim=-1).clamp(min=0)

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
        raise UsageError(f"{context.called}: name its weights, too, open_clip:ViT-B-32-quickgelu/openai, or a folder")
    return FrozenSource(model, weights)
