"""Samples from many shards in turn, so that a few of them stand for a whole data set."""

import random
from collections import deque
from collections.abc import Iterator, Sequence

from open_clip_fff.data.shards import in_one_line, read_samples
from open_clip_fff.errors import UsageError

OPEN = 32  # shards at a time
SEED = 0


def spread(urls: Sequence[str], lost: list[str], at_once: int = OPEN) -> Iterator[dict]:
    """A sample of each open shard in turn; where one ends, the next one is opened. Each sample comes once.

    Where there are more shards than are open at a time, they come in a random order, which is always the same.

    Args:
        urls: the shards; one that is named twice is read once.
        lost: gets a sentence for each shard that cannot be read, or not to its end.
        at_once: how many are open.

    Yields:
        undecoded samples, as `read_samples` does.
    """
    waiting = deque(dict.fromkeys(urls))
    if len(waiting) > at_once:
        random.Random(SEED).shuffle(waiting)
    opened: deque[Iterator[dict]] = deque()
    while waiting or opened:
        while waiting and len(opened) < at_once:
            url = waiting.popleft()
            opened.append(in_one_line(read_samples([url]), url))
        samples = opened.popleft()
        try:
            sample = next(samples, None)
        except UsageError as error:
            lost.append(str(error))
            continue
        if sample is not None:
            opened.append(samples)
            yield sample
