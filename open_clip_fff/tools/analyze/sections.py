"""The page's parts: a figure each, how to read it, and what is left out and why."""

from dataclasses import dataclass, field

from open_clip_fff.plural import plural
from open_clip_fff.tools.analyze.examples import Example, at_random, worst
from open_clip_fff.tools.analyze.frequencies import TOP
from open_clip_fff.tools.analyze.kinds import GENERATED, RAW
from open_clip_fff.tools.analyze.measure import MEAN, ONE, Measured
from open_clip_fff.tools.analyze.plots import Cosines, address, draw_cosines, draw_frequencies, draw_ranks
from open_clip_fff.tools.analyze.sample import Sample

LISTED = 10  # of the most frequent captions
ACROSS = {"raw_to_generated", "random_raw_to_generated"}  # columns of images that have both kinds


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        key: its anchor.
        title: as a person asks.
        how: how to read it.
        figure: as an address; None for none.
        tables: by title, of times, share and caption.
        examples: images with their rivals.
    """

    key: str
    title: str
    how: str
    figure: str | None = None
    tables: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)


def sections(found: Measured, sample: Sample, show: int) -> list[Section]:
    """Those that these data have numbers for.

    Args:
        found: the numbers.
        sample: what they are of.
        show: images of each part with examples.
    """
    parts = [_nearest(found), _frequent(found)]
    if (among := _among(found)) is not None:
        parts.append(among)
    if sample.image is not None:
        parts.insert(1, _fit(found))
        if any(f"{MEAN}_{kind}" in found.images for kind in found.names):
            parts.append(_pooled(found))
        parts.append(_ranks(found))
        parts += _examples(found, sample, show)
    return parts


def left_out(found: Measured, sample: Sample, model: str) -> list[str]:
    """A sentence for each comparison and part that makes no sense with these data."""
    said = []
    if sample.image is None:
        said.append(
            f"{model} reads captions alone. Left out: how captions fit images, the mean of several, the captions that "
            f"outrank an image's own, and the examples of these."
        )
    for name, other in ((RAW, GENERATED), (GENERATED, RAW)):
        if name not in found.names:
            source = {RAW: "--text-key", GENERATED: "--json-text-key or --caption-sidecar"}[name]
            said.append(
                f"These data have no {name} captions (those from {source}): the {other} ones stand without comparison."
            )
    several = [kind for kind in found.names if (found.images[kind] > 1).any()]
    if not several:
        parts = [] if set(found.images) >= ACROSS else ["how alike an image's captions are"]
        parts += [] if sample.image is None else ["the mean of several"]
        said.append(f"No image has two captions of a kind. Left out: {' and '.join(parts) or 'how alike these are'}.")
    elif len(several) < len(found.names):
        single = next(kind for kind in found.names if kind not in several)
        said.append(f"No image has two {single} captions: what compares an image's captions is of {several[0]} ones.")
    return said


def _nearest(found: Measured) -> Section:
    panel = [Cosines(kind, found.of(kind)["nearest"].to_numpy(), kind) for kind in found.names]
    return Section(
        "nearest",
        "Do captions tell images apart?",
        f"For each caption, the mean cosine to the {found.nearest} nearest captions of other images. The farther "
        f"left, the more it says what others do not; captions that would fit anything crowd at the right. They are "
        f"looked for among {plural(found.pool, 'captions')} of the same kind, one of each image.",
        address(draw_cosines([panel], f"mean cosine to the {found.nearest} nearest captions")),
    )


def _fit(found: Measured) -> Section:
    panels = [
        [
            Cosines("with another image", found.of(kind)["random_image"].to_numpy(), "random"),
            Cosines(f"{kind} captions with their image", found.of(kind)["fit"].to_numpy(), kind),
        ]
        for kind in found.names
    ]
    return Section(
        "fit",
        "Do captions fit their images?",
        "The cosine of each caption with its own image, and in grey with another image drawn at random. The farther "
        "right of the grey, the better captions tell which image they are of; what lies within it may as well belong "
        "to any other image.",
        address(draw_cosines(panels, "cosine of caption and image")),
    )


def _frequent(found: Measured) -> Section:
    tables = {}
    for kind in found.names:
        rows = found.frequent[found.frequent["kind"] == kind].head(LISTED)
        tables[f"the most frequent {kind} captions"] = [
            (f"{times:,}", f"{share:.2%}".replace("%", " %"), caption)
            for times, share, caption in zip(rows["times"], rows["share"], rows["caption"], strict=True)
        ]
    return Section(
        "frequent",
        "Which captions come again and again?",
        f"How often the {TOP} most frequent captions come, as a share of all of their kind; case, spaces and "
        f"punctuation do not count. A line that starts high tells of boilerplate (“image not available”) or of a "
        f"captioner that says the same of many images.",
        address(draw_frequencies(found.frequent)),
        tables,
    )


def _among(found: Measured) -> Section | None:
    panels = [
        [
            Cosines("of different images", found.of(kind)["random_caption"].to_numpy(), "random"),
            Cosines(f"{kind} captions of an image", found.images[f"among_{kind}"].to_numpy(), kind),
        ]
        for kind in found.names
        if f"among_{kind}" in found.images
    ]
    if set(found.images) >= ACROSS:
        pair = [
            Cosines("of different images", found.images["random_raw_to_generated"].to_numpy(), "random"),
            Cosines("raw with generated captions of an image", found.images["raw_to_generated"].to_numpy(), "between"),
        ]
        panels.append(pair)
    if not panels:
        return None
    return Section(
        "among",
        "How alike are the captions of one image?",
        "For each image, the mean cosine among its captions; in grey, captions of different images. Far to the right, "
        "further captions repeat the first one and teach little more; within the grey, they have nothing to do with "
        "each other, and some are likely wrong.",
        address(draw_cosines(panels, "mean cosine of captions")),
    )


def _pooled(found: Measured) -> Section:
    panels = []
    for kind in found.names:
        if f"{MEAN}_{kind}" in found.images:
            several = found.images[found.images[kind] > 1]
            one, mean = (several[f"{text}_{kind}"].to_numpy() for text in (ONE, MEAN))
            panels.append(
                [Cosines(f"one {kind} caption", one, "random"), Cosines("the mean of an image's", mean, kind)]
            )
    return Section(
        "pooled",
        "Are several captions better than one?",
        "The cosine of an image with one of its captions, in grey, and with the mean feature of all of a kind "
        "(normalised again), over images that have several. The farther the colour is right of the grey, the more the "
        "captions complete each other.",
        address(draw_cosines(panels, "cosine with the image")),
    )


def _ranks(found: Measured) -> Section:
    size = max(found.batch.values())
    return Section(
        "ranks",
        "How many other captions fit an image as well as its own?",
        f"Images meet in batches of {size:,}, drawn at random, each with one caption, or the mean of its captions. How "
        f"many captions of others fit an image at least as well as its own (equal ones count)? To a contrastive loss "
        f"all of them are negatives. Over 0 are images whose own caption wins; at the right are those whose caption "
        f"says little or is wrong, or for which captions of others are right, too.",
        address(draw_ranks(found)),
    )


def _examples(found: Measured, sample: Sample, show: int) -> list[Section]:
    parts = []
    for kind in found.kinds:
        parts += [
            Section(
                f"random-{kind.name}",
                f"Outranked {kind.name} captions, some at random",
                "Images drawn at random among those whose own caption is outranked. Its captions stand beneath it with "
                "their cosines, the one that was in the batch in bold; to the right, the captions of others that fit "
                "at least as well, the best first. Which of these are right for the image as well?",
                examples=at_random(found, sample, kind, show),
            ),
            Section(
                f"worst-{kind.name}",
                f"Outranked {kind.name} captions, the worst",
                "The images whose own caption is outranked by the most others: often the caption is wrong, or says "
                "nothing about the image.",
                examples=worst(found, sample, kind, show),
            ),
        ]
    return [part for part in parts if part.examples]
