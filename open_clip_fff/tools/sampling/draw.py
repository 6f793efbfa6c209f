"""An even draw from many shards: of each as many samples as its size calls for, from anywhere in it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from open_clip_fff.data.shards import read_samples
from open_clip_fff.errors import reason
from open_clip_fff.tools.sampling.sizes import SHARDS

Progress = Callable[..., Iterable[Any]]  # a tqdm


class Draw:
    """Samples of some shards, undecoded; the same ones at each pass and for the same seed.

    Args:
        urls: the shards.
        images: samples to draw; all of them where there are fewer.
        seed: of the draw.
        size: tells how many samples a shard has, 0 where that is not known: such a shard is read once to count them.
        progress: is handed the shards while they are counted, a bar, say.
        shards: to read at most.

    Attributes:
        places: of the samples in their shards, rising, by the shard's url.
        unreadable: why a shard could not be read to its end, by its url.
    """

    def __init__(
        self,
        urls: Sequence[str],
        images: int,
        seed: int,
        size: Callable[[str], int],
        progress: Progress,
        shards: int = SHARDS,
    ) -> None:
        random, all_urls = np.random.default_rng(seed), list(dict.fromkeys(urls))
        chosen = random.choice(len(all_urls), min(shards, len(all_urls)), replace=False)
        some = [all_urls[place] for place in sorted(chosen)]
        self.unreadable: dict[str, str] = {}
        counting = progress(some, desc="counting samples", unit=" shards")
        sizes = [size(url) or sum(1 for _ in self._read(url)) for url in counting]
        shares = quotas(sizes, images)
        self.places = {
            url: sorted(random.choice(count, share, replace=False).tolist())
            for url, count, share in zip(some, sizes, shares, strict=True)
            if share
        }
        self._sizes = dict(zip(some, sizes, strict=True))

    def __len__(self) -> int:
        """How many samples were drawn."""
        return sum(map(len, self.places.values()))

    def __iter__(self) -> Iterator[dict]:
        for url, places in self.places.items():
            # whoever reads the last one reads on: what is damaged behind it is told
            wanted, limit = set(places), places[-1] + 1 if places[-1] + 1 < self._sizes[url] else None
            yield from (x for number, x in enumerate(self._read(url, limit)) if number in wanted)

    def sentences(self) -> list[str]:
        """What could not be read, so far, a sentence for each shard."""
        return [f"{url} cannot be read as a tar ({why})" for url, why in self.unreadable.items()]

    def _read(self, url: str, limit: int | None = None) -> Iterator[dict]:
        """The samples up to where the shard breaks off."""
        try:
            yield from read_samples([url], limit)
        except Exception as error:  # whatever webdataset and tarfile raise
            self.unreadable[url] = reason(error)


def quotas(sizes: Sequence[int], images: int) -> list[int]:
    """Shares out so many images in proportion to sizes, none more than its size; remainders go to the largest."""
    total = sum(sizes)
    wanted = min(images, total)
    exact = [wanted * size / max(total, 1) for size in sizes]
    shares = [int(share) for share in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda place: shares[place] - exact[place])
    for place in by_remainder[: wanted - sum(shares)]:
        shares[place] += 1
    return shares
