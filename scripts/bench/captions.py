"""Captions for benchmarks, drawn by a seed or real, and the tokens that the text tower computes of them."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

# one token each; captions of them all differ, as most of a captioner's do
_LINES = (
    "a the of on in with and at near by under over two three small large young old red green blue white black brown "
    "dog cat man woman boy girl child people bird horse car bus train bike boat ball table chair bed house street "
    "road beach water snow grass field tree flower sky mountain city park kitchen room plate food cake pizza "
    "runs sits stands holding wearing riding playing eating looking walking standing sitting"
)
WORDS = _LINES.split()
SHORTEST, LONGEST = 8, 14  # words, as BLIP-2 writes


def drawn(draw: Random) -> str:
    """A caption of 8 to 14 words."""
    return " ".join(draw.choices(WORDS, k=draw.randint(SHORTEST, LONGEST)))


def read_captions(path: str, k: int) -> list[list[str]]:
    """K captions of each image that has as many; ends the program if there is none.

    They are in a tar of which the members `.json` are an object with a list `captions`, or in a `.json` with a list of
    such objects, or of lists.
    """
    if path.endswith(".json"):
        images = json.loads(Path(path).read_text())
    else:
        with tarfile.open(path) as shard:
            members = [shard.extractfile(member) for member in shard if member.name.endswith(".json")]
            images = [json.load(member) for member in members if member is not None]
    found = [captions[:k] for captions in map(_listed, images) if len(captions) >= k]
    if not found:
        raise SystemExit(f"--captions-from {path}: no image with {k} captions in a field `captions`")
    return found


def _listed(image: Any) -> list[str]:
    return image if isinstance(image, list) else image.get("captions", [])


def of_images(images: list[list[str]], size: int, draw: Random) -> list[list[str]]:
    """The captions of so many images, different ones while there are enough."""
    return draw.sample(images, size) if size <= len(images) else draw.choices(images, k=size)


def sources(path: str | None, k: int) -> dict[str, Callable[[int], list[list[str]]]]:
    """Sources of captions: functions from B to K captions of each image, the same in each call.

    `path` is as in `read_captions`; None for drawn ones only.
    """

    def synthetic(size: int) -> list[list[str]]:
        draw = Random(0)
        return [[drawn(draw) for _ in range(k)] for _ in range(size)]

    found = {f"{SHORTEST}-{LONGEST} words": synthetic}
    if path:
        real = read_captions(path, k)
        found[Path(path).stem] = lambda size: of_images(real, size, Random(0))
    return found
