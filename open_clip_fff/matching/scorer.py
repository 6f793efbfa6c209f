"""Match scores of pairs with as few forward passes of the discriminator as possible."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from open_clip_fff.data.ids import text_hash
from open_clip_fff.errors import UsageError
from open_clip_fff.matching.registry import Discriminator, SharesImages
from open_clip_fff.matching.score_cache import FLAG, ScoreCache

Images = Tensor | Callable[[Tensor], Tensor]


class PairScorer:
    """Match scores of pairs: 1 for an image's own caption, by id; else from the cache, or the discriminator."""

    def __init__(self, discriminator: Discriminator, cache: ScoreCache | None = None) -> None:
        self.discriminator, self.cache = discriminator, cache

    @classmethod
    def with_cache(cls, discriminator: Discriminator, folder: str | None, rank: int = 0) -> "PairScorer":
        """A scorer with a cache in `folder`, or without one for None.

        Raises UsageError if the cache cannot be used, or the discriminator has no `identity`.
        """
        if folder is None:
            return cls(discriminator)
        identity = getattr(discriminator, "identity", None)
        if not isinstance(identity, str) or not identity:
            raise UsageError(
                f"{FLAG}: {type(discriminator).__name__} has no `identity`, a string: its match scores cannot be cached"
            )
        return cls(discriminator, ScoreCache(folder, identity, rank))

    @torch.no_grad()
    def __call__(self, image_ids: Tensor, captions: Sequence[str], owners: Tensor, images: Images) -> Tensor:
        """q of P pairs, float32 [P] on the device of `image_ids`.

        Args:
            image_ids: int64 [P]; negative for unknown images, each of which counts as another image.
            captions: P strings.
            owners: int64 [P], the id of the image that each caption was written for. Where it is the pair's image, q
                is 1 without a forward pass: the same image may be in a batch twice.
            images: crops [P, 3, H, W], or a function from indices into P, int64 [u] on the device of `image_ids`, to
                [u, 3, H, W]. It is called at most once, with one index per image to be scored.
        """
        ids = image_ids.tolist()
        q = [1.0] * len(ids)
        # indices by pair: both directions of a batch may have found the same one
        pairs: dict[tuple[int, int], list[int]] = {}
        for index, (image, caption, owner) in enumerate(zip(ids, captions, owners.tolist(), strict=True)):
            if image < 0 or image != owner:
                pairs.setdefault((image if image >= 0 else -1 - index, text_hash(caption)), []).append(index)
        scores, known = self._cached(list(pairs))
        unknown = [pair for pair, is_known in zip(pairs, known.tolist(), strict=True) if not is_known]
        if unknown:
            scored = self._score(unknown, [pairs[pair][0] for pair in unknown], captions, images, image_ids.device)
            scores[~known] = scored
            if self.cache is not None:
                self.cache.put_many([image for image, _ in unknown], [text for _, text in unknown], scored)
        for indices, score in zip(pairs.values(), scores.tolist(), strict=True):
            for index in indices:
                q[index] = score
        return torch.tensor(q, dtype=torch.float32, device=image_ids.device)

    def _cached(self, pairs: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        if self.cache is None:
            return torch.zeros(len(pairs)), torch.zeros(len(pairs), dtype=torch.bool)
        return self.cache.get_many([image for image, _ in pairs], [text for _, text in pairs])

    def _score(
        self,
        pairs: list[tuple[int, int]],
        indices: list[int],
        captions: Sequence[str],
        images: Images,
        device: torch.device,
    ) -> Tensor:
        """q of pairs at `indices`, float32 on the CPU; a known image is encoded once."""
        first: dict[int, int] = {}
        for (image, _), index in zip(pairs, indices, strict=True):
            first.setdefault(image, index)
        row = {image: number for number, image in enumerate(first)}
        unique = torch.tensor(list(first.values()), device=device)
        rows = torch.tensor([row[image] for image, _ in pairs], device=device)
        crops = images(unique) if callable(images) else images[unique]
        texts = [captions[index] for index in indices]
        if isinstance(self.discriminator, SharesImages):
            q = self.discriminator.pairs(crops, rows, texts)
        else:
            q = self.discriminator(crops[rows], texts)
        who = f"--discriminator: {type(self.discriminator).__name__}"
        if not isinstance(q, Tensor) or q.shape != (len(pairs),):
            found = list(q.shape) if isinstance(q, Tensor) else type(q).__name__
            raise UsageError(f"{who} gave match scores {found} of {len(pairs)} pairs: a tensor, one a pair")
        q = q.float().cpu()
        if not bool(((q >= 0) & (q <= 1)).all()):
            raise UsageError(f"{who} gave match scores from {q.min():.3g} to {q.max():.3g}: they are from 0 to 1")
        return q


def candidate_pairs(caption: Tensor, image: Tensor, above_gate: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """The hardest negatives of a batch of B images as pairs: each image's caption, then each caption's image.

    Args:
        caption: int64 [B], the column j * K + k of each image's candidate; negative for none.
        image: int64 [B, K], the row of each caption's candidate; likewise.
        above_gate: bool [B] and [B, K], the pairs worth scoring; None for all.

    Returns:
        Rows and columns, int64 [2, B + B*K], and which pairs to score, bool [B + B*K].
    """
    size, k = image.shape
    images = torch.cat([torch.arange(size, device=image.device), image.flatten()])
    captions = torch.cat([caption, torch.arange(size * k, device=image.device)])
    to_score = (images >= 0) & (captions >= 0)
    if above_gate is not None:
        to_score &= torch.cat([part.flatten() for part in above_gate])
    return torch.stack([images, captions]), to_score
