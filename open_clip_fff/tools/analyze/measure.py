"""All numbers of the analysis: a table of captions, one of images, and one of the most frequent captions."""

from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from open_clip_fff.errors import printable
from open_clip_fff.tools.analyze.agreement import among, between
from open_clip_fff.tools.analyze.fit import cosines, means
from open_clip_fff.tools.analyze.frequencies import most_frequent, normalised
from open_clip_fff.tools.analyze.kinds import GENERATED, RAW, Kind, kinds_of, shuffle, strangers
from open_clip_fff.tools.analyze.nearest import NEAREST, mean_of_nearest
from open_clip_fff.tools.analyze.ranks import outranked
from open_clip_fff.tools.analyze.sample import Sample
from open_clip_fff.tools.sampling.draw import Progress

ONE, MEAN = "one", "mean"  # the texts that stand for an image: a caption drawn from a kind, and the mean of them


@dataclass
class Measured:
    """What was found out about N images and their T captions.

    Attributes:
        captions: a row per caption of a kind: `image` (its place), `kind`, `caption`, `normal`, `words`, `times` (its
            normalised text comes among its kind), `nearest` (mean cosine), and where images are seen `fit`,
            `random_image` (cosines with its own image, and a random other one), `random_caption` (with a caption of
            another image).
        images: a row per image: `shard`, `key`; `raw`, `generated` (captions); `among_KIND`, `raw_to_generated` (mean
            cosines of its captions), `random_raw_to_generated` (of one of its own and one of another image's);
            `one_KIND`, `mean_KIND` (cosine of the image with a drawn caption, and with the mean of them);
            `outranked_one_KIND`, `outranked_mean_KIND` (captions in its batch that fit as well). NaN where an image has
            too few captions; a column in which all have is left out.
        frequent: the most frequent captions by `kind` (`most_frequent`).
        kinds: those that are there, raw first.
        texts: what stood for each image, float32 [n, D] by `outranked_…` column, in the order of `orders`.
        orders: by kind, the images in the order in which batches were cut, int64 [n].
        pool: captions of a kind among which the nearest were looked for.
        batch: images in a batch, by kind.
    """

    captions: pd.DataFrame
    images: pd.DataFrame
    frequent: pd.DataFrame
    kinds: list[Kind]
    texts: dict[str, Tensor] = field(default_factory=dict)
    orders: dict[str, Tensor] = field(default_factory=dict)
    pool: int = 0
    batch: dict[str, int] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Of the kinds."""
        return [kind.name for kind in self.kinds]

    @property
    def nearest(self) -> int:
        """Captions over which a mean cosine to the nearest ones is taken."""
        return min(NEAREST, self.pool - 1)

    def of(self, kind: str) -> pd.DataFrame:
        """The captions of a kind."""
        return self.captions[self.captions["kind"] == kind]


def measure(sample: Sample, batch: int, progress: Progress) -> Measured:
    """All of it.

    Args:
        sample: N images.
        batch: images in a batch of the ranks.
        progress: shows how far it is.
    """
    kinds = kinds_of(sample.owner, sample.raw)
    images = _images(sample)
    found = Measured(pd.DataFrame(), images, pd.DataFrame(), kinds)
    captions, frequent = [], []
    # equally many for both kinds: the more there are, the nearer the nearest
    found.pool = min((len(kind.one) for kind in kinds), default=0)
    for kind in kinds:
        table = _captions(sample, kind)
        captions.append(table)
        frequent.append(most_frequent(list(table["normal"])).assign(kind=kind.name))
        pool = shuffle(kind.one)[: found.pool]
        table["nearest"] = _numbers(
            mean_of_nearest(
                sample.text[kind.places],
                kind.owner,
                sample.text[pool],
                sample.owner[pool],
                progress=partial(progress, desc=f"nearest captions, {kind.name}", leave=False, delay=1),
            )
        )
        images[f"among_{kind.name}"] = _numbers(among(sample.text[kind.places], kind.owner, len(images)))
        if sample.image is not None:
            _see(found, sample, sample.image, kind, batch, progress)
    if len(kinds) > 1:
        images["raw_to_generated"] = _numbers(between(sample.text, sample.owner, sample.raw, len(images)))
        images["random_raw_to_generated"] = _across(sample, *kinds)
    found.captions = pd.concat(captions, ignore_index=True) if captions else pd.DataFrame()
    found.frequent = pd.concat(frequent, ignore_index=True) if frequent else pd.DataFrame()
    found.images = images.dropna(axis=1, how="all")
    return found


def _across(sample: Sample, raw: Kind, generated: Kind) -> np.ndarray:
    """The cosine of a raw caption of each image that has both kinds with a generated one of another image, [N]."""
    both = raw.images[torch.isin(raw.images, generated.images)]
    ours, theirs = (kind.one[torch.isin(kind.images, both)] for kind in (raw, generated))
    order = shuffle(torch.arange(len(both), device=both.device))
    values = cosines(sample.text[ours[order]], sample.text[theirs[order.roll(1)]])
    if len(both) < 2:
        values = torch.full_like(values, torch.nan)
    return _at(both[order].cpu().numpy(), len(sample.keys), values)


def _images(sample: Sample) -> pd.DataFrame:
    counts = {
        name: sample.owner[mask].bincount(minlength=len(sample.keys)).cpu().numpy()
        for name, mask in ((RAW, sample.raw), (GENERATED, ~sample.raw))
    }
    names = {"shard": map(printable, sample.shards), "key": map(printable, sample.keys)}
    return pd.DataFrame({**{name: list(each) for name, each in names.items()}, **counts})


def _captions(sample: Sample, kind: Kind) -> pd.DataFrame:
    """What takes a look at a kind's captions alone, and their cosines with images."""
    texts = [sample.captions[place] for place in kind.places.tolist()]
    table = pd.DataFrame({"image": kind.owner.cpu().numpy(), "kind": kind.name, "caption": texts})
    table["normal"] = [normalised(text) for text in texts]
    table["words"] = [len(text.split()) for text in texts]
    table["times"] = table.groupby("normal")["normal"].transform("size")
    text, other = sample.text[kind.places], strangers(kind.owner)
    table["random_caption"] = _numbers(cosines(text[other], text))
    if sample.image is not None:
        table["fit"] = _numbers(cosines(sample.image[kind.owner], text))
        table["random_image"] = _numbers(cosines(sample.image[kind.owner[other]], text))
    return table


def _see(found: Measured, sample: Sample, image: Tensor, kind: Kind, batch: int, progress: Progress) -> None:
    """What stands for each image, how well it fits, and what outranks it."""
    order = shuffle(torch.arange(len(kind.images), device=image.device))
    found.orders[kind.name], found.batch[kind.name] = kind.images[order], min(batch, len(order))
    texts = {ONE: sample.text[kind.one]}
    if bool((kind.owner.bincount() > 1).any()):
        texts[MEAN] = means(sample.text[kind.places], kind.owner, len(sample.keys))[kind.images]
    places = kind.images.cpu().numpy()
    for name, text in texts.items():
        column, label = f"{name}_{kind.name}", {ONE: "one", MEAN: "the mean"}[name]
        found.images[column] = _at(places, len(found.images), cosines(image[kind.images], text))
        found.texts[f"outranked_{column}"] = text[order]
        counts = outranked(
            image[kind.images[order]],
            text[order],
            batch,
            partial(progress, desc=f"batches, {label} {kind.name}", leave=False, delay=1),
        )
        found.images[f"outranked_{column}"] = _at(places[order.cpu().numpy()], len(found.images), counts)


def _numbers(values: Tensor) -> np.ndarray:
    return values.cpu().numpy().astype(np.float32)


def _at(places: np.ndarray, length: int, values: Tensor) -> np.ndarray:
    """Values of some images among all, NaN for the others."""
    column = np.full(length, np.nan, dtype=np.float32)
    column[places] = values.cpu().numpy()
    return column
