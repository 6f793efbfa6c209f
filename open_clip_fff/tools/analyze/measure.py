"""All measurements: a table of captions, one of images, and one of the most frequent captions."""

from dataclasses import dataclass, field
from itertools import compress

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from open_clip_fff.errors import printable
from open_clip_fff.tools.analyze.kinds import (
    GENERATED_CAPTIONS,
    RAW_CAPTIONS,
    CaptionKind,
    kinds_of,
    most_frequent,
    normalised,
    random_others,
    shuffle,
)
from open_clip_fff.tools.analyze.ranks import outranked
from open_clip_fff.tools.analyze.sample import CaptionSample
from open_clip_fff.tools.analyze.similarity import (
    NEAREST,
    cosines,
    mean_of_nearest,
    means,
    raw_to_generated,
    within_images,
)

ONE, MEAN = "one", "mean"  # an image's text in a batch: one caption of a kind at random, or the mean of all


@dataclass
class Measurements:
    """Of N images and their T captions."""

    # a row per caption: `image` (its number), `kind`, `caption`, `normal` (normalised), `words`, `times` (its
    # normalised text occurs in its kind), `nearest` (mean cosine), `random_caption` (cosine with a caption of another
    # image); with image features `fit`, `random_image` (cosines with its own and another image)
    captions: pd.DataFrame
    # a row per image: `shard`, `key`; `raw`, `generated` (numbers of captions); `among_KIND`, `raw_to_generated`
    # (mean cosines of its captions; the second without generated ones that repeat a raw one),
    # `random_raw_to_generated` (of different images); `one_KIND`, `mean_KIND` (cosine of the image with a random
    # caption, and with the mean of all); `outranked_one_KIND`, `outranked_mean_KIND` (captions in its batch with at
    # least this cosine). NaN for too few captions; columns of NaN are left out
    images: pd.DataFrame
    frequent: pd.DataFrame  # `most_frequent` captions by `kind`
    kinds: list[CaptionKind]  # existing ones, raw first
    # by kind, the images in the order of the batches, int64 [n]
    orders: dict[str, Tensor] = field(default_factory=dict)
    pool: int = 0  # captions of a kind among which the nearest are searched
    batch: dict[str, int] = field(default_factory=dict)  # images in a batch, by kind

    @property
    def names(self) -> list[str]:
        return [kind.name for kind in self.kinds]

    @property
    def nearest(self) -> int:
        """How many nearest captions are averaged."""
        return min(NEAREST, self.pool - 1)

    def of(self, kind: str) -> pd.DataFrame:
        """The captions of a kind."""
        return self.captions[self.captions["kind"] == kind]

    def by_kind(self, column: str) -> dict[str, pd.Series]:
        """A column of `captions`, or the columns COLUMN_KIND of `images`, for each kind that has it."""
        if column in self.captions:
            return {kind: self.of(kind)[column] for kind in self.names}
        return {kind: self.images[name] for kind in self.names if (name := f"{column}_{kind}") in self.images}

    def of_several(self, text: str) -> dict[str, pd.Series]:
        """The columns TEXT_KIND, ONE's or MEAN's, over the images with several captions of a kind."""
        columns = self.by_kind(text)
        return {kind: columns[kind][self.images[kind] > 1] for kind in self.by_kind(MEAN)}


def measure_captions(sample: CaptionSample, batch: int) -> Measurements:
    """Measures a sample; ranks are taken in batches of `batch` images."""
    kinds = kinds_of(sample.owner, sample.raw)
    images = _images(sample)
    found = Measurements(pd.DataFrame(), images, pd.DataFrame(), kinds)
    captions, frequent = [], []
    # equally many for both kinds: a larger pool has nearer captions
    found.pool = min((len(kind.one) for kind in kinds), default=0)
    for kind in kinds:
        table = _captions(sample, kind)
        captions.append(table)
        frequent.append(most_frequent(list(table["normal"])).assign(kind=kind.name))
        pool = shuffle(kind.one)[: found.pool]
        text, bar = sample.text[kind.indices], f"nearest captions, {kind.name}"
        nearest = mean_of_nearest(text, kind.owner, sample.text[pool], sample.owner[pool], bar=bar)
        table["nearest"] = _numbers(nearest)
        images[f"among_{kind.name}"] = _numbers(within_images(text, kind.owner, len(images)))
        if sample.image is not None:
            _rank(found, sample, sample.image, kind, batch)
    if len(kinds) > 1:
        across = raw_to_generated(sample.text, sample.owner, sample.raw, _no_raw_text(sample), len(images))
        images["raw_to_generated"] = _numbers(across)
        images["random_raw_to_generated"] = _across(sample, *kinds)
    found.captions = pd.concat(captions, ignore_index=True) if captions else pd.DataFrame()
    found.frequent = pd.concat(frequent, ignore_index=True) if frequent else pd.DataFrame()
    found.images = images.dropna(axis=1, how="all")
    return found


def _no_raw_text(sample: CaptionSample) -> Tensor:
    """Whether a caption's normalised text is none of its image's raw ones, bool [T].

    The list in a sample's json often has the text of its txt, too, whose cosine with itself is 1.
    """
    texts = list(zip(sample.owner.tolist(), map(normalised, sample.captions), strict=True))
    raw = set(compress(texts, sample.raw.tolist()))
    return torch.tensor([text not in raw for text in texts], device=sample.raw.device)


def _across(sample: CaptionSample, raw: CaptionKind, generated: CaptionKind) -> np.ndarray:
    """The cosine of a raw caption of each image that has both kinds with a generated one of another image, [N]."""
    both = raw.images[torch.isin(raw.images, generated.images)]
    ours, theirs = (kind.one[torch.isin(kind.images, both)] for kind in (raw, generated))
    order = shuffle(torch.arange(len(both), device=both.device))
    values = cosines(sample.text[ours[order]], sample.text[theirs[order.roll(1)]])
    if len(both) < 2:
        values = torch.full_like(values, torch.nan)
    return _at(both[order].cpu().numpy(), len(sample.keys), values)


def _images(sample: CaptionSample) -> pd.DataFrame:
    counts = {
        name: sample.owner[mask].bincount(minlength=len(sample.keys)).cpu().numpy()
        for name, mask in ((RAW_CAPTIONS, sample.raw), (GENERATED_CAPTIONS, ~sample.raw))
    }
    names = {"shard": list(map(printable, sample.shards)), "key": list(map(printable, sample.keys))}
    return pd.DataFrame({**names, **counts})


def _captions(sample: CaptionSample, kind: CaptionKind) -> pd.DataFrame:
    """Words, frequencies and cosines of a kind's captions, without ranks."""
    texts = [sample.captions[index] for index in kind.indices.tolist()]
    table = pd.DataFrame({"image": kind.owner.cpu().numpy(), "kind": kind.name, "caption": texts})
    table["normal"] = [normalised(text) for text in texts]
    table["words"] = [len(text.split()) for text in texts]
    table["times"] = table.groupby("normal")["normal"].transform("size")
    text, other = sample.text[kind.indices], random_others(kind.owner)
    table["random_caption"] = _numbers(cosines(text[other], text))
    if sample.image is not None:
        table["fit"] = _numbers(cosines(sample.image[kind.owner], text))
        table["random_image"] = _numbers(cosines(sample.image[kind.owner[other]], text))
    return table


def _rank(found: Measurements, sample: CaptionSample, image: Tensor, kind: CaptionKind, batch: int) -> None:
    """Adds the order of the batches, each image's cosine with its text there, and how many others outrank it."""
    order = shuffle(torch.arange(len(kind.images), device=image.device))
    found.orders[kind.name], found.batch[kind.name] = kind.images[order], min(batch, len(order))
    texts = {ONE: sample.text[kind.one]}
    if bool((kind.owner.bincount() > 1).any()):
        texts[MEAN] = means(sample.text[kind.indices], kind.owner, len(sample.keys))[kind.images]
    images = kind.images.cpu().numpy()
    for name, text in texts.items():
        column, label = f"{name}_{kind.name}", {ONE: "one", MEAN: "the mean"}[name]
        found.images[column] = _at(images, len(found.images), cosines(image[kind.images], text))
        counts = outranked(image[kind.images[order]], text[order], batch, bar=f"batches, {label} {kind.name}")
        found.images[f"outranked_{column}"] = _at(images[order.cpu().numpy()], len(found.images), counts)


def _numbers(values: Tensor) -> np.ndarray:
    return values.cpu().numpy().astype(np.float32)


def _at(images: np.ndarray, length: int, values: Tensor) -> np.ndarray:
    """A column with the values of some images, NaN for the others."""
    column = np.full(length, np.nan, dtype=np.float32)
    column[images] = values.cpu().numpy()
    return column
