"""Counting what a discriminator said, on the device: nothing here waits for the accelerator until `rates` is asked."""

from dataclasses import dataclass

import torch
from torch import Tensor

from open_clip_fff.mining.hardest import Hardest
from open_clip_fff.mining.labels import IGNORED, POSITIVE
from open_clip_fff.mining.sums import RunningSums


@dataclass(frozen=True)
class ConnectionRates:
    """What happened since the last look, over rows and ranks; MAFA's false-negative rate (arXiv 2312.06112) and more.

    Attributes:
        by_image, by_text: of the hardest negatives of images and of captions that were asked about, the share that is
            a match, 0 to 1; None, as the next, where none were.
        doubtful: of both, the share that was ambiguous, and so ignored.
        unasked: of all hardest negatives, the share that a gate kept from being asked about: nobody examined them, and
            no other figure counts them. None without a discriminator, or before it is asked.
        right: of the matches, the share whose two images are of one class; None where no class was known.
        missed: of pairs of one class that were asked about, the share that was called no match; None likewise.
        true: of all pairs that were asked about (without a discriminator, of all), the share that is of one class;
            None likewise.
    """

    by_image: float | None = None
    by_text: float | None = None
    doubtful: float | None = None
    unasked: float | None = None
    right: float | None = None
    missed: float | None = None
    true: float | None = None

    @property
    def rate(self) -> float | None:
        """MAFA's false-negative rate: the mean over the two directions, of those in which any pair was asked about."""
        known = [share for share in (self.by_image, self.by_text) if share is not None]
        return sum(known) / len(known) if known else None


class ConnectionCounts(RunningSums):
    """Running integer sums on the device."""

    def __init__(self) -> None:
        # of images, then of captions: asked, unasked, matches, doubtful, of known class, of one class, matches of
        # known, matches of one
        super().__init__(16)

    def add(
        self,
        hardest: Hardest,
        by_image: Tensor,
        by_text: Tensor,
        classes: Tensor | None,
        worth: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Counts one batch: candidates, their labels int8 [B] and [B, K], and the images' classes int64 [B].

        Args:
            worth: bool [B] and [B, K], which of them were asked about; None for all.
        """
        k = hardest.image.shape[1]
        rows = torch.arange(len(by_image), device=by_image.device)
        of_images = rows, hardest.caption // k, by_image, hardest.caption
        of_texts = rows.repeat_interleave(k), hardest.image.flatten(), by_text.flatten(), hardest.image.flatten()
        looked = (None, None) if worth is None else (worth[0], worth[1].flatten())
        ways = zip((of_images, of_texts), looked, strict=True)
        self.take_in(torch.cat([_sums(*way, classes, some) for way, some in ways]))


def _sums(
    one: Tensor, other: Tensor, labels: Tensor, places: Tensor, classes: Tensor | None, worth: Tensor | None
) -> Tensor:
    there = places >= 0
    asked = there if worth is None else there & worth
    match = asked & (labels == POSITIVE)
    counts = [asked, there & ~asked, match, asked & (labels == IGNORED)]
    if classes is None:
        counts += [torch.zeros_like(asked)] * 4
    else:
        ours, theirs = classes[one], classes[other.clamp(min=0)]
        known = asked & (ours >= 0) & (theirs >= 0)
        same = known & (ours == theirs)
        counts += [known, same, match & known, match & same]
    return torch.stack([count.sum() for count in counts])


def connection_rates(sums: Tensor, judged: bool = True) -> ConnectionRates:
    """Reads the sums (added over ranks, if there are several); this is where the host waits for the device."""
    images, texts = sums.view(2, 8).tolist()
    asked, unasked, _, doubtful, known, same, seen, right = (a + b for a, b in zip(images, texts, strict=True))

    def share(part: int, whole: int) -> float | None:
        return part / whole if whole else None

    if not judged:
        return ConnectionRates(true=share(same, known))
    return ConnectionRates(
        by_image=share(images[2], images[0]),
        by_text=share(texts[2], texts[0]),
        doubtful=share(doubtful, asked),
        unasked=share(unasked, asked + unasked),
        right=share(right, seen),
        missed=share(same - right, same),
        true=share(same, known),
    )
