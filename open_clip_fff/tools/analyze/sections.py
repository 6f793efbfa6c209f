"""The page's sections: a figure each, how to read it, and what is left out and why."""

from dataclasses import dataclass, field

from open_clip_fff.plural import plural
from open_clip_fff.tools.analyze.examples import OutrankedImage, at_random, worst
from open_clip_fff.tools.analyze.kinds import GENERATED, RAW, TOP
from open_clip_fff.tools.analyze.measure import MEAN, ONE, Measurements
from open_clip_fff.tools.analyze.plots import CosineGroup, draw_cosines, draw_frequencies, draw_ranks, figure_url
from open_clip_fff.tools.analyze.sample import CaptionSample

LISTED = 10  # of the most frequent captions
ACROSS = {"raw_to_generated", "random_raw_to_generated"}  # columns of images that have both kinds


@dataclass(frozen=True)
class AnalysisSection:
    """A section of the page."""

    key: str  # its anchor
    title: str  # a question
    how: str  # how to read it
    figure: str | None = None  # a data URL
    # by title, rows of times, share and caption
    tables: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)
    examples: list[OutrankedImage] = field(default_factory=list)  # images with the captions that outrank theirs


def sections(found: Measurements, sample: CaptionSample, show: int) -> list[AnalysisSection]:
    """Those for which the data have measurements, with `show` images of each kind of examples."""
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


def left_out(found: Measurements, sample: CaptionSample, model: str) -> list[str]:
    """A sentence for each comparison and section that these data cannot have."""
    lines = []
    if sample.image is None:
        lines.append(
            f"{model} embeds captions alone. Left out: how captions match images, the mean of several, captions that "
            f"outrank an image's own, and the examples of these."
        )
    for name, other in ((RAW, GENERATED), (GENERATED, RAW)):
        if name not in found.names:
            source = {RAW: "--text-key", GENERATED: "--json-text-key or --caption-sidecar"}[name]
            lines.append(
                f"These data have no {name} captions (those from {source}): the {other} ones stand without comparison."
            )
    several = [kind for kind in found.names if (found.images[kind] > 1).any()]
    if not several:
        parts = [] if set(found.images) >= ACROSS else ["how similar an image's captions are"]
        parts += [] if sample.image is None else ["the mean of several"]
        lines.append(
            f"No image has two captions of a kind. Left out: {' and '.join(parts) or 'how similar these are'}."
        )
    elif len(several) < len(found.names):
        single = next(kind for kind in found.names if kind not in several)
        lines.append(
            f"No image has two {single} captions: an image's captions are compared for {several[0]} ones only."
        )
    return lines


def _nearest(found: Measurements) -> AnalysisSection:
    panel = [CosineGroup(kind, found.of(kind)["nearest"].to_numpy(), kind) for kind in found.names]
    return AnalysisSection(
        "nearest",
        "Do captions tell images apart?",
        f"For each caption, the mean cosine to the {found.nearest} nearest captions of other images. The farther "
        f"left, the more specific it is; captions that match anything gather at the right. The nearest are "
        f"searched among {plural(found.pool, 'captions')} of the same kind, one of each image.",
        figure_url(draw_cosines([panel], f"mean cosine to the {found.nearest} nearest captions")),
    )


def _fit(found: Measurements) -> AnalysisSection:
    panels = [
        [
            CosineGroup("with another image", found.of(kind)["random_image"].to_numpy(), "random"),
            CosineGroup(f"{kind} captions with their image", found.of(kind)["fit"].to_numpy(), kind),
        ]
        for kind in found.names
    ]
    return AnalysisSection(
        "fit",
        "Do captions match their images?",
        "The cosine of each caption with its own image, and in grey with another image drawn at random. The farther "
        "right of the grey, the better captions identify their image; those within it may as well belong to any other.",
        figure_url(draw_cosines(panels, "cosine of caption and image")),
    )


def _frequent(found: Measurements) -> AnalysisSection:
    tables = {}
    for kind in found.names:
        rows = found.frequent[found.frequent["kind"] == kind].head(LISTED)
        tables[f"the most frequent {kind} captions"] = [
            (f"{times:,}", f"{share:.2%}".replace("%", " %"), caption)
            for times, share, caption in zip(rows["times"], rows["share"], rows["caption"], strict=True)
        ]
    return AnalysisSection(
        "frequent",
        "Which captions are repeated?",
        f"The {TOP} most frequent captions, as a share of all of their kind; case, spaces and punctuation do not "
        f"count. A line that starts high means boilerplate (“image not available”) or a captioner that repeats itself.",
        figure_url(draw_frequencies(found.frequent)),
        tables,
    )


def _among(found: Measurements) -> AnalysisSection | None:
    panels = [
        [
            CosineGroup("of different images", found.of(kind)["random_caption"].to_numpy(), "random"),
            CosineGroup(f"{kind} captions of an image", found.images[f"among_{kind}"].to_numpy(), kind),
        ]
        for kind in found.names
        if f"among_{kind}" in found.images
    ]
    if set(found.images) >= ACROSS:
        pair = [
            CosineGroup("of different images", found.images["random_raw_to_generated"].to_numpy(), "random"),
            CosineGroup(
                "raw with generated captions of an image", found.images["raw_to_generated"].to_numpy(), "between"
            ),
        ]
        panels.append(pair)
    if not panels:
        return None
    return AnalysisSection(
        "among",
        "How similar are the captions of one image?",
        "For each image, the mean cosine among its captions; in grey, captions of different images. Far to the right, "
        "further captions repeat the first one and add little; within the grey, they are unrelated, and some are "
        "probably wrong.",
        figure_url(draw_cosines(panels, "mean cosine of captions")),
    )


def _pooled(found: Measurements) -> AnalysisSection:
    panels = []
    for kind in found.names:
        if f"{MEAN}_{kind}" in found.images:
            several = found.images[found.images[kind] > 1]
            one, mean = (several[f"{text}_{kind}"].to_numpy() for text in (ONE, MEAN))
            panels.append(
                [CosineGroup(f"one {kind} caption", one, "random"), CosineGroup("the mean of an image's", mean, kind)]
            )
    return AnalysisSection(
        "pooled",
        "Are several captions better than one?",
        "The cosine of an image with one of its captions, in grey, and with the mean feature of all of a kind "
        "(normalised again), over images that have several. The farther the colour is right of the grey, the more the "
        "captions complement each other.",
        figure_url(draw_cosines(panels, "cosine with the image")),
    )


def _ranks(found: Measurements) -> AnalysisSection:
    size = max(found.batch.values())
    return AnalysisSection(
        "ranks",
        "How many other captions match an image as well as its own?",
        f"Images meet in batches of {size:,}, drawn at random, each with one caption, or the mean of its captions. How "
        f"many captions of others match an image at least as well as its own (equal ones count)? To a contrastive loss "
        f"all of them are negatives. At 0 are images whose own caption wins; at the right those whose caption is "
        f"vague or wrong, or for which captions of others are right, too.",
        figure_url(draw_ranks(found)),
    )


def _examples(found: Measurements, sample: CaptionSample, show: int) -> list[AnalysisSection]:
    parts = []
    for kind in found.kinds:
        parts += [
            AnalysisSection(
                f"random-{kind.name}",
                f"Outranked {kind.name} captions, at random",
                "Images drawn at random among those whose own caption is outranked. Its captions stand beneath it with "
                "their cosines, the one in the batch in bold; to the right, the captions of others that match at "
                "least as well, the best first. Which of these are right for the image as well?",
                examples=at_random(found, sample, kind, show),
            ),
            AnalysisSection(
                f"worst-{kind.name}",
                f"Outranked {kind.name} captions, the worst",
                "The images whose own caption is outranked by the most others: often the caption is wrong, or "
                "unrelated to the image.",
                examples=worst(found, sample, kind, show),
            ),
        ]
    return [part for part in parts if part.examples]
