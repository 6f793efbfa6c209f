"""scripts/analyze_captions.py: each number against a loop, and the page and tables that hold them."""

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from open_clip_fff.tools.analyze.examples import at_random, worst
from open_clip_fff.tools.analyze.kinds import kinds_of, most_frequent, normalised, one_of_each, random_others
from open_clip_fff.tools.analyze.measure import measure_captions
from open_clip_fff.tools.analyze.ranks import batches, outranked, rivals
from open_clip_fff.tools.analyze.sample import CaptionSample
from open_clip_fff.tools.analyze.sections import left_out, sections
from open_clip_fff.tools.analyze.similarity import cosines, mean_of_nearest, means, raw_to_generated, within_images
from open_clip_fff.tools.analyze.summary import summary_lines

COUNTS = [3, 1, 5, 2, 1, 4, 2, 2, 3, 1]  # captions of each image, ragged


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def owners(counts: list[int]) -> torch.Tensor:
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def dot(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a.double() @ b.double())


def made_up(counts: list[int], raws: list[int], seed: int = 0, captions: list[str] | None = None) -> CaptionSample:
    """Images with so many captions, so many of them raw, at the front."""
    owner = owners(counts)
    raw = torch.cat([torch.arange(n) < r for n, r in zip(counts, raws, strict=True)])
    texts = captions or [f"caption {place % 7}" for place in range(len(owner))]
    keys = [f"{place:02d}" for place in range(len(counts))]
    image, text = unit(len(counts), 8, seed=seed), unit(len(owner), 8, seed=seed + 1)
    return CaptionSample(["a.tar"] * len(keys), keys, [b"jpeg"] * len(keys), texts, owner, raw, image, text)


# --- the parts, each against a loop ----------------------------------------------------------------------------------


@pytest.mark.parametrize("area", [1, 25, 10**6])
@pytest.mark.parametrize("nearest", [1, 4, 100])
def test_the_nearest_captions_of_other_images(area, nearest):
    owner = owners(COUNTS)
    text = unit(len(owner), 6)
    text[7] = text[12] = text[0]  # ties, of the same image and of others
    pool = one_of_each(owner)
    found = mean_of_nearest(text, owner, text[pool], owner[pool], nearest, area=area)
    for place in range(len(owner)):
        others = [dot(text[place], text[other]) for other in pool.tolist() if owner[other] != owner[place]]
        best = sorted(others, reverse=True)[: min(nearest, len(pool) - 1)]
        assert found[place] == pytest.approx(sum(best) / len(best), abs=1e-6)


def test_one_caption_of_each_image_and_captions_of_strangers():
    owner = owners(COUNTS)
    drawn = {tuple(one_of_each(owner, seed).tolist()) for seed in range(40)}
    assert len(drawn) > 20 and all(owner[list(places)].tolist() == list(range(len(COUNTS))) for places in drawn)
    assert {places[2] for places in drawn} == set((owner == 2).nonzero().flatten().tolist())
    found = torch.stack([random_others(owner, seed) for seed in range(400)])
    assert (owner[found] != owner).all()
    counts = found[:, 0].bincount(minlength=len(owner))
    assert (counts[owner != owner[0]] > 0).all() and counts.max() < 50  # each is as likely: about 19 of 400


def test_kinds_are_told_by_who_is_raw():
    sample = made_up([3, 1, 2, 2], [1, 1, 0, 2])
    raw, generated = kinds_of(sample.owner, sample.raw)
    assert raw.name == "raw" and raw.indices.tolist() == [0, 3, 6, 7] and raw.images.tolist() == [0, 1, 3]
    assert generated.indices.tolist() == [1, 2, 4, 5] and generated.owner.tolist() == [0, 0, 2, 2]
    assert set(raw.one.tolist()) <= set(raw.indices.tolist())
    alone = made_up([3, 1, 2, 2], [1, 0, 0, 0])  # a kind of one image has nothing to be compared with
    assert [kind.name for kind in kinds_of(alone.owner, alone.raw)] == ["generated"]


def test_how_alike_the_captions_of_an_image_are():
    owner, raw = owners(COUNTS), torch.arange(sum(COUNTS)) % 3 == 0
    text = unit(len(owner), 6)
    within, across = within_images(text, owner, len(COUNTS)), raw_to_generated(text, owner, raw, ~raw, len(COUNTS))
    for image, count in enumerate(COUNTS):
        places = (owner == image).nonzero().flatten().tolist()
        pairs = [dot(text[a], text[b]) for a in places for b in places if a < b]
        mixed = [dot(text[a], text[b]) for a in places for b in places if raw[a] and not raw[b]]
        assert count > 1 or within[image].isnan()
        assert not pairs or within[image] == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
        assert bool(across[image].isnan()) != bool(mixed)
        assert not mixed or across[image] == pytest.approx(sum(mixed) / len(mixed), abs=1e-6)
    assert within.isnan().sum() == COUNTS.count(1) and 0 < across.isnan().sum() < len(COUNTS)


def test_equal_captions_are_as_alike_as_can_be():
    owner = owners([4, 2])
    text = unit(1, 64).expand(6, -1).contiguous()
    assert within_images(text, owner, 2).tolist() == pytest.approx([1.0, 1.0], abs=1e-6)


def test_the_mean_feature_is_that_of_normalised_captions():
    owner = owners(COUNTS)
    text, image = unit(len(owner), 6), unit(len(COUNTS), 6, seed=5)
    fits = cosines(image, means(text, owner, len(COUNTS)))
    for place, count in enumerate(COUNTS):
        mean = text[owner == place].double().mean(dim=0)
        assert fits[place] == pytest.approx(dot(image[place], mean / mean.norm()), abs=1e-6)
        assert count > 1 or fits[place] == pytest.approx(dot(image[place], text[owner == place][0]), abs=1e-6)
    assert means(text, owner + 1, len(COUNTS) + 1)[0].tolist() == [0.0] * 6  # an image without captions


def test_frequencies_count_texts_and_not_their_spelling():
    captions = ["A dog.", "a  dog", "A DOG!", "a cat", "a cat", "it's a man-made lake", "…", "？", "Stra\u00dfe"]
    normal = [normalised(text) for text in captions]
    assert normal == ["a dog"] * 3 + ["a cat"] * 2 + ["it's a man-made lake", "...", "?", "strasse"]
    table = most_frequent(normal, top=4)
    assert list(table["caption"]) == ["a dog", "a cat", "...", "?"] and list(table["times"]) == [3, 2, 1, 1]
    assert list(table["rank"]) == [1, 2, 3, 4] and table["share"].tolist() == pytest.approx(
        [n / 9 for n in (3, 2, 1, 1)]
    )
    assert len(most_frequent([])) == 0


@pytest.mark.parametrize(("images", "size"), [(10, 4), (10, 5), (10, 10), (3, 1000), (11, 2)])
def test_batches_cover_all_images_and_are_of_one_size(images, size):
    found = batches(images, size)
    counted = [place for batch, done in found for place in range(batch.start + done, batch.stop)]
    assert counted == list(range(images))
    assert {batch.stop - batch.start for batch, _ in found} == {min(size, images)}


@pytest.mark.parametrize("area", [1, 30, 10**6])
@pytest.mark.parametrize("size", [4, 7, 20, 1000])
def test_how_many_captions_outrank_an_images_own(area, size):
    image, text = unit(20, 6), unit(20, 6, seed=3)
    text[1] = text[0]  # a caption that two images have outranks both
    text[5], image[5] = -image[6], image[6]
    found = outranked(image, text, size, area=area)
    for batch, done in batches(20, size):
        for place in range(batch.start + done, batch.stop):
            own = dot(image[place], text[place])
            scores = {o: dot(image[place], text[o]) for o in range(batch.start, batch.stop) if o != place}
            ahead = sorted((o for o in scores if scores[o] >= own - 1e-6), key=lambda o: -scores[o])
            assert found[place] == len(ahead)
            shown, values = rivals(image, text, size, place, 3)
            assert sorted(shown) == sorted(ahead[:3]) and len(shown) == min(3, len(ahead))
            assert values == pytest.approx([scores[o] for o in shown], abs=1e-6)
    assert found[0] >= 1 and found[1] >= 1


def test_a_collapsed_model_finds_nothing():
    same = unit(1, 16).expand(9, -1).contiguous()
    assert outranked(same, same, 9).tolist() == [8] * 9
    image = unit(9, 16)
    assert outranked(image, image, 9).tolist() == [0] * 9


# --- together --------------------------------------------------------------------------------------------------------


def test_the_tables_hold_what_loops_find():
    repeated = [f"caption {place % 2}" for place in range(3 * sum(COUNTS))]
    sample = made_up(COUNTS * 3, [1, 1, 1, 0, 1, 2, 1, 2, 1, 1] * 3, captions=repeated)
    found = measure_captions(sample, 8)
    assert found.names == ["raw", "generated"] and len(found.captions) == len(sample.captions)
    raws = Counter(sample.owner[sample.raw].tolist())
    assert found.images["raw"].tolist() == [raws[image] for image in range(30)]
    for place, row in enumerate(found.of("generated").itertuples()):
        caption = kinds_of(sample.owner, sample.raw)[1].indices[place]
        assert row.caption == sample.captions[caption] and row.image == sample.owner[caption]
        assert row.fit == pytest.approx(dot(sample.image[row.image], sample.text[caption]), abs=1e-6)
    for image in range(30):
        texts = {place: sample.captions[place] for place in (sample.owner == image).nonzero().flatten().tolist()}
        raws = {place: text for place, text in texts.items() if sample.raw[place]}
        others = [place for place, text in texts.items() if text not in raws.values()]  # a repeated raw one is no other
        pairs = [dot(sample.text[a], sample.text[b]) for a in raws for b in others]
        expected = float(np.mean(pairs)) if pairs else np.nan
        assert found.images["raw_to_generated"][image] == pytest.approx(expected, abs=1e-6, nan_ok=True)
    for kind in found.kinds:
        texts = [sample.captions[place] for place in kind.indices.tolist()]
        assert found.of(kind.name)["times"].tolist() == [texts.count(text) for text in texts]
        drawn = dict(zip(kind.images.tolist(), kind.one.tolist(), strict=True))
        order = found.orders[kind.name].tolist()
        assert sorted(order) == kind.images.tolist() != order
        for batch, done in batches(len(order), 8):
            members = order[batch]
            for image in members[done:]:
                own = dot(sample.image[image], sample.text[drawn[image]])
                others = [dot(sample.image[image], sample.text[drawn[o]]) for o in members if o != image]
                assert found.images[f"outranked_one_{kind.name}"][image] == sum(x >= own - 1e-6 for x in others)
                assert found.images[f"one_{kind.name}"][image] == pytest.approx(own, abs=1e-6)
    without = found.images[found.images["raw"] == 0]
    assert len(without) and without["one_raw"].isna().all() and without["outranked_mean_raw"].isna().all()


def test_the_summary_says_the_tables_numbers():
    sample = made_up(COUNTS * 3, [1] * 30)
    found = measure_captions(sample, 8)
    lines = {line.key: line for line in summary_lines(found)}
    counts = found.images["outranked_one_generated"].dropna()
    assert lines["outranked_one_1"].values["generated"] == pytest.approx((counts >= 1).mean())
    assert "outranked_one_10" not in lines  # seven others cannot be ten
    assert "outranked_mean_1" in lines and "raw" not in lines["outranked_mean_1"].values
    assert lines["among"].values == {"generated": pytest.approx(found.images["among_generated"].mean())}
    several = found.images[found.images["generated"] > 1]
    assert lines["fit_of_mean"].values["generated"] == pytest.approx(several["mean_generated"].mean())
    assert lines["frequent"].values["raw"] == pytest.approx(1.0)  # seven texts
    assert lines["fit"].formatted("raw").replace("−", "-") == f"{found.of('raw')['fit'].mean():.3f}"
    assert lines["among"].formatted("raw") == "–"


def test_both_kinds_are_looked_for_among_equally_many():
    found = measure_captions(made_up([2] * 15 + [1] * 100, [1] * 15 + [0] * 100), 50)
    assert found.pool == 15 and found.nearest == 14
    lines = {line.key: line for line in summary_lines(found)}
    assert lines["nearest"].title == "a caption and its 14 nearest" and set(lines["nearest"].values) == set(found.names)


@pytest.mark.parametrize("images", [True, False])
@pytest.mark.parametrize(
    ("counts", "raws"),
    [
        ([2, 3, 1], [1, 1, 1]),
        ([1, 1, 1], [1, 1, 1]),
        ([2, 2, 1], [0, 0, 0]),
        ([1, 1, 1, 1], [1, 0, 1, 0]),
        ([2, 1, 1], [1, 1, 0]),
        ([2, 2], [1, 1]),
    ],
)
def test_parts_that_make_no_sense_are_left_out_and_said(counts, raws, images):
    sample = made_up(counts, raws)
    if not images:
        sample = sample._replace(image=None)
    found = measure_captions(sample, 1000)
    keys = [part.key.split("-")[0] for part in sections(found, sample, 2)]
    kinds = [name for name, has in (("raw", sum(raws) > 1), ("generated", sum(counts) - sum(raws) > 1)) if has]
    assert found.names == kinds
    several = [n for n, r in zip(counts, raws, strict=True) if max(r, n - r) > 1]
    both = [n for n, r in zip(counts, raws, strict=True) if 0 < r < n]
    assert ("among" in keys) == bool(several or len(both) > 1)
    assert ("pooled" in keys) == bool(several and images)
    assert {"fit", "ranks"} <= set(keys) if images else not {"fit", "ranks", "pooled", "random", "worst"} & set(keys)
    said = " ".join(left_out(found, sample, "the model"))
    assert ("embeds captions alone" in said) != images
    assert ("no generated captions" in said) == ("generated" not in kinds)
    assert ("no raw captions" in said) == ("raw" not in kinds)
    assert ("No image has two captions of a kind" in said) == (not several)
    assert ("how similar an image's captions are" in said) == ("among" not in keys)
    assert ("the mean of several" in said) == ("pooled" not in keys)


def test_examples_are_images_with_what_outranks_them():
    sample = made_up(COUNTS * 3, [1] * 30, captions=[f"text {place}" for place in range(75)][: 3 * sum(COUNTS)])
    found = measure_captions(sample, 12)
    kind = found.kinds[1]
    shown = worst(found, sample, kind, 5)
    counts = found.images["outranked_one_generated"]
    assert [example.outranking for example in shown] == sorted(counts.dropna(), reverse=True)[:5]
    for example in (*shown, *at_random(found, sample, kind, 5)):
        assert example.outranking == counts[example.image] > 0
        assert [c.text for c in example.own] == [
            sample.captions[p] for p in kind.indices.tolist() if sample.owner[p] == example.image
        ]
        own = next(caption.cosine for caption in example.own if caption.drawn)
        assert len(example.rivals) == min(6, example.outranking)
        for rival in example.rivals:
            place = sample.captions.index(rival.text)
            assert sample.owner[place] == rival.image != example.image and rival.cosine >= own - 1e-6
            assert rival.cosine == pytest.approx(dot(sample.image[example.image], sample.text[place]), abs=1e-6)
    assert {e.image for e in at_random(found, sample, kind, 99)} == set(np.flatnonzero(counts > 0))


# --- the program -----------------------------------------------------------------------------------------------------
