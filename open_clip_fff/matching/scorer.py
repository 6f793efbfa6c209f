"""Asking a discriminator no more than is needed."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.data.ids import caption_hash
from open_clip_fff.errors import UsageError
from open_clip_fff.matching.cache import FLAG, VerdictCache
from open_clip_fff.matching.registry import Discriminator, SharesImages

Images = Tensor | Callable[[Tensor], Tensor]


class Judged(NamedTuple):
    """Pairs by how they were judged; they add up.

    Attributes:
        own: a caption of the image itself, which no model is asked about.
        cached: known from the disk.
        repeated: the same pair as another of the same call.
        scored: by the model.
    """

    own: int = 0
    cached: int = 0
    repeated: int = 0
    scored: int = 0

    @property
    def asked(self) -> int:
        """All that needed a verdict: own pairs do not."""
        return self.cached + self.repeated + self.scored


class Judge:
    """Verdicts on pairs: by id where the caption is the image's own, from the cache where it is known, else scored.

    Args:
        discriminator: what scores.
        cache: where verdicts are kept; None for nowhere.

    Attributes:
        total: how all pairs so far were judged.
        last: how those of the last call were.
    """

    def __init__(self, discriminator: Discriminator, cache: VerdictCache | None = None) -> None:
        self.discriminator, self.cache = discriminator, cache
        self.total, self.last = Judged(), Judged()

    @classmethod
    def keeping(cls, discriminator: Discriminator, folder: str | None, rank: int = 0) -> "Judge":
        """A judge with a cache in `folder`, where it is not None.

        Raises:
            UsageError: if the cache cannot be used, or the discriminator does not say what it is.
        """
        if folder is None:
            return cls(discriminator)
        identity = getattr(discriminator, "identity", None)
        if not identity:
            raise UsageError(
                f"{FLAG}: {type(discriminator).__name__} has no `identity`, so its verdicts cannot be kept"
            )
        return cls(discriminator, VerdictCache(folder, identity, rank))

    @torch.no_grad()
    def __call__(self, image_ids: Tensor, captions: Sequence[str], owners: Tensor, images: Images) -> Tensor:
        """q of P pairs, float32 [P] on the device of `image_ids`.

        Args:
            image_ids: int64 [P], of the images; negative for unknown ones, each of which is an image of its own.
            captions: P strings.
            owners: int64 [P], the id of the image that each caption was written for. Where it is the pair's image, q
                is 1 and nothing is asked: the same image may be in a batch twice.
            images: the crops, [P, 3, H, W], or what gives them: for places in P, int64 [u] on the device of
                `image_ids`, it returns [u, 3, H, W]. It is called once, with one place for each image that is scored,
                or not at all.
        """
        ids = image_ids.tolist()
        own = [image >= 0 and image == owner for image, owner in zip(ids, owners.tolist(), strict=True)]
        q = [1.0] * len(ids)
        # places by pair: both directions of a batch may have found the same one
        pairs: dict[tuple[int, int], list[int]] = {}
        for place, (image, caption) in enumerate(zip(ids, captions, strict=True)):
            if not own[place]:
                pairs.setdefault((image if image >= 0 else -1 - place, caption_hash(caption)), []).append(place)
        verdicts, known = self._recall(list(pairs))
        unknown = [pair for pair, found in zip(pairs, known.tolist(), strict=True) if not found]
        if unknown:
            scored = self._score(unknown, [pairs[pair][0] for pair in unknown], captions, images, image_ids.device)
            verdicts[~known] = scored
            if self.cache is not None:
                self.cache.put_many([image for image, _ in unknown], [text for _, text in unknown], scored)
        for places, verdict in zip(pairs.values(), verdicts.tolist(), strict=True):
            for place in places:
                q[place] = verdict
        asked, cached = sum(map(len, pairs.values())), int(known.sum())
        self.last = Judged(sum(own), cached, asked - len(pairs), len(unknown))
        self.total = Judged(*(a + b for a, b in zip(self.total, self.last, strict=True)))
        return torch.tensor(q, dtype=torch.float32, device=image_ids.device)

    def _recall(self, pairs: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        if self.cache is None:
            return torch.zeros(len(pairs)), torch.zeros(len(pairs), dtype=torch.bool)
        return self.cache.get_many([image for image, _ in pairs], [text for _, text in pairs])

    def _score(
        self,
        pairs: list[tuple[int, int]],
        places: list[int],
        captions: Sequence[str],
        images: Images,
        device: torch.device,
    ) -> Tensor:
        """q of pairs that stand at `places`, float32 on the CPU; each image is looked at once where that is known."""
        firsts: dict[int, int] = {}
        for (image, _), place in zip(pairs, places, strict=True):
            firsts.setdefault(image, place)
        row = {image: number for number, image in enumerate(firsts)}
        which = torch.tensor(list(firsts.values()), device=device)
        rows = torch.tensor([row[image] for image, _ in pairs], device=device)
        crops = images(which) if callable(images) else images[which]
        texts = [captions[place] for place in places]
        if isinstance(self.discriminator, SharesImages):
            q = self.discriminator.pairs(crops, rows, texts)
        else:
            q = self.discriminator(crops[rows], texts)
        if q.shape != (len(pairs),):
            raise ValueError(f"the discriminator gave q of shape {tuple(q.shape)} for {len(pairs)} pairs")
        return q.float().cpu()
