"""Grouping a stream: what goes in comes out, mini-batch by mini-batch alike, whatever is corrupt or resumed."""

import random
from itertools import islice

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from open_clip_fff.config.grouping import GroupingSettings
from open_clip_fff.data.caption_rows import CaptionRow, RowBytes, RowFeatures
from open_clip_fff.data.shards import ID
from open_clip_fff.grouping.feature_sources import LastEpochFeatures, stored_features
from open_clip_fff.grouping.lookahead import Lookahead

D, BATCH = 16, 4
SETTINGS = GroupingSettings(search_space=12, queue=40)
WIDE = GroupingSettings(search_space=40, queue=80)


def stream(n: int, seed: int = 0) -> list[dict]:
    """n samples in random order."""
    samples = [{"__url__": f"{i % 3}.tar", "__key__": str(i), "jpg": b"x" * 10, ID: i} for i in range(n)]
    random.Random(seed).shuffle(samples)
    return samples


class Clusters:
    """Features by key: five clusters; those whose key ends in 9 have none."""

    def __call__(self, epoch: int):
        return self.find if epoch else None

    def __init__(self, n: int) -> None:
        g = torch.Generator().manual_seed(0)
        centres = torch.randn(5, D, generator=g)
        places = torch.arange(n) % 5
        self.cluster = dict(zip(range(n), places, strict=True))
        near = lambda: F.normalize(centres[places] + 0.1 * torch.randn(n, D, generator=g), dim=-1)  # noqa: E731
        self.ids, self.image, self.text = list(self.cluster), near(), near()

    def find(self, ids, serialized):
        at = torch.tensor([self.ids.index(i) for i in ids.tolist()])
        known = torch.tensor([i % 10 != 9 for i in at.tolist()])
        return self.image[at], self.text[at], known


def batches(lookahead: Lookahead, samples: list[dict], count: int, corrupt: tuple[str, ...] = ()) -> list[list[str]]:
    """A worker's epoch as OpenCLIP runs it: decoded, cut in mini-batches, over and over until there are enough."""
    lookahead.begin(count)

    def passes():
        while True:
            arrived = lookahead.arrivals(s for s in lookahead(samples) if s["__key__"] not in corrupt)
            while len(cut := list(islice(arrived, BATCH))) == BATCH:
                yield [sample["__key__"] for sample in cut]

    return list(islice(passes(), count))


def made(n: int, epoch: int = 1, settings: GroupingSettings = SETTINGS, **more) -> Lookahead:
    return Lookahead(settings, BATCH, Clusters(n), lambda: epoch, seed=3, **more)


def keys(found: list[list[str]]) -> list[str]:
    return sorted(key for batch in found for key in batch)


@pytest.mark.parametrize("n", [8, 30, 47, 203])
@pytest.mark.parametrize("count", [1, 5, 11, 60])
@pytest.mark.parametrize("space", [12, 14, 30])
def test_the_same_samples_come_out(n, count, space):
    settings = GroupingSettings(search_space=space, queue=40)
    grouped = batches(made(n, settings=settings), stream(n), count)
    plain = batches(made(n, epoch=0), stream(n), count)
    assert keys(grouped) == keys(plain) and len(grouped) == count
    assert count < 5 or n < 30 or grouped != plain


def test_mini_batches_are_of_alike_samples():
    grouped, plain = (batches(made(203, epoch, WIDE), stream(203), 50) for epoch in (1, 0))

    def purity(found):
        counts = [max([int(key) % 5 for key in batch].count(c) for c in range(5)) for batch in found]
        return sum(counts) / (BATCH * len(found))

    assert purity(grouped) > 0.75 > 0.55 > purity(plain)


def test_orders_depend_on_seed_epoch_and_rank_alone():
    first, again = (batches(made(100), stream(100), 20) for _ in range(2))
    assert first == again
    assert batches(made(100, epoch=2), stream(100), 20) != first != batches(made(100, rank=1), stream(100), 20)
    lookahead = made(100)
    lookahead.begin(20)
    next(lookahead(stream(100)))  # a look at the first batch leaves no trace
    assert batches(lookahead, stream(100), 20) == first


def test_corrupt_images_do_not_shift_the_mini_batches_behind_them():
    corrupt = tuple(str(i) for i in (3, 50, 51, 140))
    found = batches(made(203, settings=WIDE), stream(203), 49, corrupt)
    assert len(keys(found)) == len(set(keys(found))) == 196 and not set(corrupt) & set(keys(found))
    whole = batches(made(203, settings=WIDE), stream(203), 49)
    kept = [batch for batch in whole if batch in found]
    assert len(kept) > 5  # those before the first corrupt one at least
    assert sum(len({int(key) % 5 for key in batch}) == 1 for batch in found) > 20


def test_the_queue_is_bounded_in_bytes():
    lookahead, read = made(203, queue_bytes=100), []

    def watched():
        for sample in stream(203):
            read.append(sample)
            yield sample

    lookahead.begin(50)
    for given, sample in enumerate(lookahead.arrivals(lookahead(watched()))):
        assert len(read) - given <= 10 + 2 * BATCH + SETTINGS.search_space, sample
    assert len(read) == 200


def test_the_first_batch_waits_for_one_search_space_alone():
    read = []
    lookahead = made(203)
    lookahead.begin(50)
    next(iter(lookahead.arrivals(lookahead(read.append(s) or s for s in stream(203)))))
    assert len(read) <= 12 + BATCH


def test_no_bank_no_groups(tmp_path):
    assert LastEpochFeatures([tmp_path / "nothing", tmp_path])(3) is None


def test_stored_features_are_the_mean_of_an_images_captions():
    axes = np.eye(3, dtype=np.float16)
    rows = [CaptionRow(1, ["a", "b"], features=RowFeatures(axes[0], axes[1:])), CaptionRow(2, ["c"])]
    image, text, known = stored_features(1)(torch.tensor([1, 2]), list(map(RowBytes.of, rows)))
    assert known.tolist() == [True, False] and image[0].tolist() == [1, 0, 0]
    torch.testing.assert_close(text[0], torch.tensor([0, 0.5**0.5, 0.5**0.5]))
