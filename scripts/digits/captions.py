"""Captions for scanned digits: clean ones that say what was measured in the pixels, a captioner's, and a noisy raw one.

The raw caption, drawn for each image, is what alt-texts are like:

    40 %  names the right digit      "three scan 0412"
    20 %  names a wrong digit        "seven scan 0412"
    40 %  names none                 "scan 0412", "stock photo", "untitled image"

The captioner is faulty by design: it has one digit for each image with which it confuses it. Each of its four captions
says the rest as measured, and names

    50 %  the right digit, which is what a small captioner trained on CIFAR-10 reached (docs/study.md)
    30 %  the one with which it confuses the image
    20 %  any other one
"""

import numpy as np
from numpy.typing import NDArray

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PROMPTS = ("a handwritten {c}", "the digit {c}", "a scan of a {c}")  # clip-benchmark's form of a template

WORDS = {
    "slant": ("leaning left", "upright", "leaning right"),
    "stroke": ("thin", "normal", "bold"),
    "size": ("small", "medium", "large"),
}
RIGHT, WRONG = 0.4, 0.2  # shares of raw captions; the rest names no digit
KNOWN, CONFUSED = 0.5, 0.3  # shares of a captioner's captions; the rest names any other digit
EMPTY = ("scan {key}", "stock photo", "untitled image")


def measure(images: NDArray) -> dict[str, NDArray]:
    """Three numbers per image, from its pixels alone.

    From the ink of each pixel, 0 to 1, [N, H, W], to [N] each: `slant` (how far the ink shifts to the right per pixel
    upwards, from its second moments), `stroke` (how full the pixels are that hold ink at all) and `size` (root mean
    square distance of the ink from its centre, in pixels).
    """
    y, x = np.mgrid[: images.shape[1], : images.shape[2]]
    ink = images.sum(axis=(1, 2))

    def mean(values: NDArray) -> NDArray:
        return (images * values).sum(axis=(1, 2)) / ink

    dx, dy = x - mean(x)[:, None, None], y - mean(y)[:, None, None]
    return {
        "slant": -mean(dx * dy) / mean(dy * dy),
        "stroke": ink / (images > 0.25).sum(axis=(1, 2)),
        "size": np.sqrt(mean(dx * dx + dy * dy)),
    }


def in_words(measured: dict[str, NDArray], training: NDArray) -> dict[str, list[str]]:
    """Each measure [N] as one of three words, by thirds of the training images, whose positions are given."""
    thirds = {name: np.quantile(values[training], (1 / 3, 2 / 3)) for name, values in measured.items()}
    return {name: [WORDS[name][i] for i in np.digitize(values, thirds[name])] for name, values in measured.items()}


def clean_captions(name: str, slant: str, stroke: str, size: str) -> list[str]:
    """Four true captions of one image."""
    return [
        f"a handwritten {name}",
        f"the digit {name}, {slant}",
        f"a {size} {name} with {stroke} strokes",
        f"{stroke} {name}, {size}, {slant}",
    ]


def captioner_captions(target: int, words: dict[str, str], draw: np.random.Generator) -> list[str]:
    """What the faulty captioner writes of one image; `words` by attribute."""
    others = [digit for digit in range(len(NAMES)) if digit != target]
    confused = int(draw.choice(others))
    rest = [digit for digit in others if digit != confused]
    captions = []
    for number in range(4):
        kind = draw.random()
        digit = target if kind < KNOWN else confused if kind < KNOWN + CONFUSED else int(draw.choice(rest))
        captions.append(clean_captions(NAMES[digit], **words)[number])
    return captions


def raw_caption(target: int, key: str, draw: np.random.Generator) -> str:
    """The noisy caption of one image, by the shares above."""
    kind = draw.random()
    if kind < RIGHT:
        return f"{NAMES[target]} scan {key}"
    if kind < RIGHT + WRONG:
        wrong = (target + draw.integers(1, len(NAMES))) % len(NAMES)
        return f"{NAMES[wrong]} scan {key}"
    return str(draw.choice(EMPTY)).format(key=key)
