"""Small undamaged inputs: tars of coloured squares with captions, and an architecture that trains in seconds."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 50, 220), "yellow": (230, 220, 40)}

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}

Sample = dict[str, bytes]  # by the member's extension


def colour_image(colour: str, seed: int, size: int = 40) -> bytes:
    """A noisy PNG of one colour."""
    noise = np.random.default_rng(seed).integers(-25, 25, (size, size, 3))
    return png(np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8))


def png(pixels: np.ndarray) -> bytes:
    """A PNG of these pixels: uint8 or uint16 (H, W), or uint8 (H, W, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def colour_sample(index: int) -> Sample:
    """An image of one of four colours, a raw caption, and one to four pseudo-captions."""
    colour = list(COLOURS)[index % 4]
    pseudo = [f"a {colour} square", f"something {colour}", f"{colour} all over", f"picture {index} in {colour}"]
    return {
        "png": colour_image(colour, index),
        "txt": f"img {index}".encode(),
        "json": json.dumps({"captions": pseudo[: 1 + index % 4], "title": f"title {index}", "width": 40}).encode(),
    }


def write_tar(path: Path, samples: Mapping[str, Mapping[str, bytes]]) -> Path:
    """A webdataset shard of {key: {extension: bytes}}."""
    with tarfile.open(path, "w") as tar:
        for key, members in samples.items():
            for extension, content in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def colour_shards(folder: Path, sizes: tuple[int, ...]) -> list[str]:
    """Shards with these numbers of rows, all images different; returns training's flags."""
    first = 0
    folder.mkdir(parents=True, exist_ok=True)
    for number, size in enumerate(sizes):
        write_tar(folder / f"{number:02d}.tar", {f"{row:04d}": colour_sample(first + row) for row in range(size)})
        first += size
    return ["--train-data", str(folder / f"{{00..{len(sizes) - 1:02d}}}.tar"), "--train-num-samples", str(sum(sizes))]
