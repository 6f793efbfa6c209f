"""Captions for CIFAR-10's photographs: true ones that say what was measured in the pixels, and web-like raw ones.

A raw caption is drawn for each image:

    50 %  names what is there         "my boat dsc04127", "automobile for sale"
    25 %  names nothing               "dsc04127", "stock photo"
    25 %  is another image's          one that names what is there, of an image drawn at random

We found no published share of alt-texts that do not fit their image, so these were fixed before any score was seen, and
a second condition halves the latter two.
"""

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

WORDS = {
    "airplane": ("airplane", "plane", "jet", "aircraft"),
    "automobile": ("automobile", "car", "sedan", "vehicle"),
    "bird": ("bird", "songbird", "fowl", "feathered animal"),
    "cat": ("cat", "kitten", "kitty", "feline"),
    "deer": ("deer", "stag", "doe", "fawn"),
    "dog": ("dog", "puppy", "hound", "canine"),
    "frog": ("frog", "toad", "amphibian", "bullfrog"),
    "horse": ("horse", "pony", "stallion", "mare"),
    "ship": ("ship", "boat", "vessel", "ferry"),
    "truck": ("truck", "lorry", "pickup", "van"),
}
TRUE = (
    "a photo of a {word}",
    "a {light} photo of a {word}",
    "a {word} in front of something {colour}",
    "a {word}, {framing}",
    "a {light} picture of a {word}, {framing}",
)
SHARES = {"web": (0.5, 0.25, 0.25), "half": (0.75, 0.125, 0.125)}  # names it, names nothing, another image's
NAMED = (
    "{word} {key}",
    "my {word} {key}",
    "{word} for sale",
    "{word} photo by {key}",
    "vintage {word}",
    "{word} 1024x768",
)
NAMELESS = ("{key}", "stock photo", "untitled", "image {key}", "free wallpaper download", "click to enlarge")
HUES = ((20, "red"), (45, "orange"), (70, "yellow"), (165, "green"), (255, "blue"), (330, "purple"), (361, "red"))


def describe(image: NDArray) -> dict[str, str]:
    """What the pixels of an image, uint8 [32, 32, 3], say: `light`, `colour` (of its border) and `framing`."""
    pixels = image.astype(float) / 255
    border = np.ones(pixels.shape[:2], dtype=bool)
    border[5:-5, 5:-5] = False
    light = pixels.mean()
    hue, lightness, saturation = colorsys.rgb_to_hls(*pixels[border].mean(axis=0))
    if saturation < 0.12:
        colour = "black" if lightness < 0.25 else "white" if lightness > 0.75 else "grey"
    else:
        colour = next(name for most, name in HUES if 360 * hue < most)
    far = pixels[border].std(axis=0).mean() < 0.6 * pixels[~border].std(axis=0).mean()
    return {
        "light": "dark" if light < 0.38 else "bright" if light > 0.58 else "plain",
        "colour": colour,
        "framing": "from afar" if far else "close up",
    }


def true_captions(name: str, image: NDArray, draw: np.random.Generator) -> list[str]:
    """Five true captions of an image of a class."""
    seen = describe(image)
    return [form.format(word=draw.choice(WORDS[name]), **seen) for form in TRUE]


def raw_captions(names: Sequence[str], condition: str, draw: np.random.Generator) -> list[str]:
    """A web-like caption for each image, given their classes' names (of WORDS), and one of SHARES."""
    kinds = draw.choice(3, size=len(names), p=SHARES[condition])
    others = draw.integers(len(names), size=len(names))
    captions = []
    for kind, name, other in zip(kinds, names, others, strict=True):
        form = draw.choice(NAMELESS if kind == 1 else NAMED)
        word = draw.choice(WORDS[names[other] if kind == 2 else name])
        captions.append(form.format(word=word, key=f"dsc{draw.integers(100_000):05d}"))
    return captions
