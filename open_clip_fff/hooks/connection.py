"""Connection mining (MAFA's ECM, arXiv 2312.06112): a discriminator scores each step's hardest negatives."""

from collections import deque
from collections.abc import Mapping

import torch
from torch import Tensor

from open_clip_fff.config.connection import UNDECIDED
from open_clip_fff.data.batch import Batch
from open_clip_fff.data.caption_strings import BYTES, HASHES, caption_hashes, string_bytes, strings
from open_clip_fff.data.tokens import Tokenizer
from open_clip_fff.errors import UsageError
from open_clip_fff.hooks.registry import HookContext
from open_clip_fff.matching.discriminators import make_discriminator
from open_clip_fff.matching.scorer import PairScorer, candidate_pairs


class Connection:
    """Keeps a step's images and captions, and scores the pairs that connection mining (mining/connections.py) chose.

    Adds `caption_hashes` int64 [B, K], by which match labels find their captions on other ranks.

    Candidates come from this rank's whole accumulated batch; the authors have no accumulation. The images are the ones
    that the training loop holds, not copies.
    """

    def __init__(self, context: HookContext) -> None:
        settings = context.plan.connection
        if settings is None:
            raise UsageError("--batch-hooks connection: comes by itself with --discriminator")
        discriminator = make_discriminator(
            settings, context.device, context.image_mean, context.image_std, context.cache_dir
        )
        self.settings = settings
        self.scorer = PairScorer.with_cache(discriminator, settings.cache, context.rank)
        self.tokenizers: Mapping[str, Tokenizer] = {BYTES: string_bytes, HASHES: caption_hashes}
        self._step: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=context.accumulation)
        self._last: tuple[Tensor, Tensor] | None = None  # pairs and labels of this step's last call

    def __call__(self, batch: Batch) -> Batch:
        batch, [texts] = batch.popping(BYTES)
        self._last = None
        self._step.append((batch.captions.ids, batch.images, texts))
        return batch

    def label_matches(
        self, caption: Tensor, image: Tensor, to_score: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """Match labels of pairs of the step's B images: +1 a match, 0 ambiguous, -1 none, UNDECIDED at a threshold.

        Args:
            caption: int64 [B], the position j * K + k of each image's candidate; negative for none.
            image: int64 [B, K], the position of each caption's candidate; likewise.
            to_score: bool [B] and [B, K], which pairs are scored; the others get -1. None for all.

        Returns:
            int8 [B] and [B, K]; -1 where there is no candidate.
        """
        ids, texts = (torch.cat([part[field] for part in self._step]) for field in (0, 2))
        size, k = image.shape
        pairs, scored = candidate_pairs(caption, image, to_score)
        if self._last is None or not torch.equal(self._last[0], pairs):  # under accumulation each mini-batch asks again
            images, captions = pairs[:, scored]
            labels = torch.full_like(pairs[0], -1, dtype=torch.int8)
            q = self.scorer(
                ids[images],
                strings(texts.flatten(0, 1)[captions]),
                ids[captions // k],
                lambda places: self._crops(images[places]),
            )
            labels[scored] = self.settings.match_label(q, UNDECIDED)
            self._last = pairs, labels
        labels = self._last[1]
        return labels[:size], labels[size:].view(size, k)

    def _crops(self, places: Tensor) -> Tensor:
        """Some of the step's images, [u, 3, H, W]."""
        every = [image for _, images, _ in self._step for image in images]  # views, no copies
        return torch.stack([every[place] for place in places.tolist()])
