"""The page's sections: a figure each, and how to read it; and which sections are left out, and why."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from open_clip_fff.plural import plural
from open_clip_fff.tools.analyze.examples import OutrankedImage, at_random, worst
from open_clip_fff.tools.analyze.kinds import GENERATED_CAPTIONS, RAW_CAPTIONS, TOP
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
    """The sections for which the data have measurements, with `show` images per section of examples."""
    parts = [_nearest(found), _fit(found), _frequent(found), _among(found), _pooled(found)]
    if sample.image is not None:
        parts += [_ranks(found), *_examples(found, sample, show)]
    return [part for part in parts if part is not None]


def left_out(found: Measurements, sample: CaptionSample, model: str) -> list[str]:
    """A sentence for each comparison and section that these data cannot have."""
    lines = []
    if sample.image is None:
        lines.append(
            f"{model} embeds captions alone. Left out: how captions match images, the mean of several, captions that "
            f"outrank an image's own, and the examples of these."
        )
    for name, other in ((RAW_CAPTIONS, GENERATED_CAPTIONS), (GENERATED_CAPTIONS, RAW_CAPTIONS)):
        if name not in found.names:
            source = {RAW_CAPTIONS: "--text-key", GENERATED_CAPTIONS: "--json-text-key or --caption-sidecar"}[name]
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


def _cosines(key: str, title: str, how: str, panels: list[list[CosineGroup]], axis: str) -> AnalysisSection | None:
    """Histograms, a panel below the other; None if there is nothing to draw."""
    return AnalysisSection(key, title, how, figure_url(draw_cosines(panels, axis))) if panels else None


def _beside(
    grey: Mapping[str, pd.Series], grey_name: str, coloured: Mapping[str, pd.Series], name: str
) -> list[list[CosineGroup]]:
    """A panel for each coloured kind; its name replaces {} in the groups' names."""
    return [
        [
            CosineGroup(grey_name.format(kind), grey[kind].to_numpy(), "random"),
            CosineGroup(name.format(kind), values.to_numpy(), kind),
        ]
        for kind, values in coloured.items()
    ]


def _nearest(found: Measurements) -> AnalysisSection | None:
    axis = f"mean cosine to the {found.nearest} nearest captions"
    return _cosines(
        "nearest",
        "Do captions tell images apart?",
        f"For each caption, the {axis} of other images. The farther "
        f"left, the more specific it is; captions that match anything gather at the right. The nearest are "
        f"searched among {plural(found.pool, 'captions')} of the same kind, one of each image.",
        [[CosineGroup(kind, values.to_numpy(), kind) for kind, values in found.by_kind("nearest").items()]],
        axis,
    )


def _fit(found: Measurements) -> AnalysisSection | None:
    own, other = found.by_kind("fit"), found.by_kind("random_image")
    return _cosines(
        "fit",
        "Do captions match their images?",
        "The cosine of each caption with its own image, and in grey with another image drawn at random. The farther "
        "right of the grey, the better captions identify their image; those within it may as well belong to any other.",
        _beside(other, "with another image", own, "{} captions with their image"),
        "cosine of caption and image",
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
    other, own = found.by_kind("random_caption"), found.by_kind("among")
    panels = _beside(other, "of different images", own, "{} captions of an image")
    if set(found.images) >= ACROSS:
        across, random = (found.images[name].to_numpy() for name in ("raw_to_generated", "random_raw_to_generated"))
        both = CosineGroup("raw with generated captions of an image", across, "between")
        panels.append([CosineGroup("of different images", random, "random"), both])
    return _cosines(
        "among",
        "How similar are the captions of one image?",
        "For each image, the mean cosine among its captions; in grey, captions of different images. Far to the right, "
        "further captions repeat the first one and add little; within the grey, they are unrelated, and some are "
        "probably wrong.",
        panels,
        "mean cosine of captions",
    )


def _pooled(found: Measurements) -> AnalysisSection | None:
    one, mean = (found.of_several(text) for text in (ONE, MEAN))
    return _cosines(
        "pooled",
        "Are several captions better than one?",
        "The cosine of an image with one of its captions, in grey, and with the mean feature of all of a kind "
        "(normalised again), over images that have several. The farther the colour is right of the grey, the more the "
        "captions complement each other.",
        _beside(one, "one {} caption", mean, "the mean of an image's"),
        "cosine with the image",
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
