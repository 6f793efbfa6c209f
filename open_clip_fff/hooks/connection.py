"""Connection mining (MAFA's ECM, arXiv 2312.06112): a discriminator judges each step's hardest negatives."""

from collections import deque
from collections.abc import Mapping

import torch
from torch import Tensor

from open_clip_fff.data.batch import Batch
from open_clip_fff.data.caption_strings import BYTES, HASHES, CaptionHashes, StringTokenizer, strings
from open_clip_fff.data.tokens import Tokenizer
from open_clip_fff.errors import UsageError
from open_clip_fff.hooks.registry import HookContext
from open_clip_fff.matching.candidates import candidate_pairs
from open_clip_fff.matching.choose import make_discriminator
from open_clip_fff.matching.scorer import Judge


class Connection:
    """Keeps a step's images and captions at hand, for the pairs that the assignment asks about.

    Adds `caption_hashes` int64 [B, K], by which the assignment places the answers.

    Candidates are of this rank's whole (accumulated) batch, which is ours: the authors have no accumulation. The images
    are those that the loop itself holds.
    """

    def __init__(self, context: HookContext) -> None:
        settings = context.plan.connection
        if settings is None:
            raise UsageError("--batch-hooks connection: comes by itself with --discriminator")
        discriminator = make_discriminator(
            settings, context.device, context.image_mean, context.image_std, context.cache_dir
        )
        self.settings = settings
        self.ask = Judge.keeping(discriminator, settings.cache, context.rank)
        self.tokenizers: Mapping[str, Tokenizer] = {BYTES: StringTokenizer(), HASHES: CaptionHashes()}
        self._step: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=context.accumulation)
        self._said: tuple[Tensor, Tensor] | None = None  # what was asked last in this step, and the answer

    def __call__(self, batch: Batch) -> Batch:
        extras, self._said = dict(batch.captions.extras), None
        self._step.append((batch.captions.ids, batch.images, extras.pop(BYTES)))
        return batch._replace(captions=batch.captions._replace(extras=extras))

    def judge(self, caption: Tensor, image: Tensor, worth: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Labels of pairs of the step's B images: +1 a match, 0 ambiguous, -1 none.

        Args:
            caption: int64 [B], the place j * K + k of each image's candidate; negative for none.
            image: int64 [B, K], the place of each caption's; likewise.
            worth: bool [B] and [B, K], which are worth asking about; the others are no match. None for all.

        Returns:
            int8 [B] and [B, K]; -1 where there is no candidate.
        """
        ids, texts = (torch.cat([part[place] for part in self._step]) for place in (0, 2))
        size, k = image.shape
        pairs, asked = candidate_pairs(caption, image, worth)
        if self._said is not None and torch.equal(self._said[0], pairs):  # accumulation asks once per mini-batch
            return self._said[1][:size], self._said[1][size:].view(size, k)
        labels = torch.full_like(pairs[0], -1, dtype=torch.int8)
        pairs_image, pairs_text = pairs[:, asked]
        captions = strings(texts.flatten(0, 1)[pairs_text])
        q = self.ask(ids[pairs_image], captions, ids[pairs_text // k], lambda places: self._crops(pairs_image[places]))
        labels[asked] = self.settings.verdict(q)
        self._said = pairs, labels
        return labels[:size], labels[size:].view(size, k)

    def _crops(self, places: Tensor) -> Tensor:
        """The images at some places of the step, [u, 3, H, W]."""
        every = [image for _, images, _ in self._step for image in images]  # views: the step's are not copied whole
        return torch.stack([every[place] for place in places.tolist()])
