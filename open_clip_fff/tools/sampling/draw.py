"""A random sample of many shards, in proportion to their sizes."""

from collections.abc import Iterator, Sequence

import numpy as np

from open_clip_fff.data.shards import read_samples, samples_at
from open_clip_fff.data.sidecar import Sidecar
from open_clip_fff.errors import reason
from open_clip_fff.plural import plural
from open_clip_fff.progress import progress
from open_clip_fff.tools.sampling.flags import SHARDS
from open_clip_fff.tools.shards.tars import sample_starts


class SampleDraw:
    """Undecoded samples of some shards, the same at each pass and for the same seed.

    Draws `images` samples, or all if there are fewer, from at most `shards` shards. From a local tar only drawn samples
    are read. Any other shard is read once to count its samples, and up to the last drawn one at each pass.

    Attributes:
        indices: of the samples in their shards, ascending, by url.
        unreadable: why a shard could not be read to its end, by url.
        sidecars: the sidecars of captions and features with which `SampleReader` reads the samples.
        damage: an error for each sample that was read without some of its captions.
    """

    def __init__(self, urls: Sequence[str], images: int, seed: int, shards: int = SHARDS) -> None:
        random, all_urls = np.random.default_rng(seed), list(dict.fromkeys(urls))
        chosen = random.choice(len(all_urls), min(shards, len(all_urls)), replace=False)
        some = [all_urls[index] for index in sorted(chosen)]
        self.unreadable: dict[str, str] = {}
        self.sidecars: list[Sidecar] = []
        self.damage: list[str] = []
        self._starts: dict[str, Sequence[int]] = {}
        for url in progress(some, desc="counting samples", unit=" shards"):
            self._starts[url], damage = sample_starts(url)
            if self._starts[url] and damage is not None:
                self.unreadable[url] = damage
        sizes = [len(self._starts[url]) or sum(1 for _ in self._read(read_samples([url]), url)) for url in some]
        shares = quotas(sizes, images)
        self.indices = {
            url: sorted(random.choice(count, share, replace=False).tolist())
            for url, count, share in zip(some, sizes, shares, strict=True)
            if share
        }
        self._sizes = dict(zip(some, sizes, strict=True))

    def __len__(self) -> int:
        return sum(map(len, self.indices.values()))

    def __iter__(self) -> Iterator[dict]:
        for url, indices in self.indices.items():
            if starts := self._starts[url]:
                yield from self._read(samples_at(url, [starts[index] for index in indices]), url)
                continue
            # a shard whose last sample is drawn is read to its end, so that damage behind it is reported
            drawn, limit = set(indices), indices[-1] + 1 if indices[-1] + 1 < self._sizes[url] else None
            samples = self._read(read_samples([url], limit), url)
            yield from (x for number, x in enumerate(samples) if number in drawn)

    def lost(self) -> list[str]:
        """A line for each shard that could not be read to its end so far, and each sidecar that could not be read."""
        shards = [f"{url} is left out from where it cannot be read ({why})" for url, why in self.unreadable.items()]
        return shards + [line for sidecar in self.sidecars for line in sidecar.damaged.values()]

    def warnings(self) -> list[str]:
        """The lines of `lost`, and one on samples that were read without some of their captions."""
        what = "images with captions that cannot be read"
        return self.lost() + [f"{plural(len(self.damage), what)}, first {first}" for first in self.damage[:1]]

    def _read(self, samples: Iterator[dict], url: str) -> Iterator[dict]:
        try:
            yield from samples
        except Exception as error:  # whatever webdataset and tarfile raise
            self.unreadable[url] = reason(error)


def quotas(sizes: Sequence[int], images: int) -> list[int]:
    """Distributes a number of images in proportion to sizes, none above its size; largest remainders round up."""
    total = sum(sizes)
    drawn = min(images, total)
    exact = [drawn * size / max(total, 1) for size in sizes]
    shares = [int(share) for share in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda index: shares[index] - exact[index])
    for index in by_remainder[: drawn - sum(shares)]:
        shares[index] += 1
    return shares
