"""Flickr8k for the study of mining: its human captions, and the same with first captions as bad as the web's.

DATA/flickr8k-human/     the training photographs, 72 px on the short side, with five human captions each (json), the
                         first of them as the raw one, too (txt)
DATA/flickr8k-swapped/   the same, where of 30 % of the photographs the first caption is another's, or names nothing
DATA/flickr8k-alike/     pairs of photographs that an ImageNet tower finds alike, for `--positives`
DATA/sets/flickr8k-*/    validation and test photographs in clip-benchmark's layout
"""

import io
import json
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import torch
from cifar.captions import NAMELESS
from cifar.teacher import CONFIG, image_tower
from digits.runs import command
from PIL import Image

from flickr.data import CAPTIONS, small_jpeg, tars
from open_clip_fff.atomic_io import atomic_file
from open_clip_fff.data.shards import image_bytes, read_samples
from open_clip_fff.tools.shards.tars import tar_writer

SWAPPED = {"human": 0.0, "swapped": 0.3}  # of the first captions; half another photograph's, half nameless
BATCH, SEED = 256, 3


def make(source: Path, data: Path) -> None:
    """Makes what is not there yet; `source` has {train,val,test}-*.tar, five captions of a photograph in its json."""
    for name, share in SWAPPED.items():
        if not (data / f"flickr8k-{name}").exists():
            write(tars(source, "train"), data / f"flickr8k-{name}", share)
    for split, name in (("val", "validation"), ("test", "test")):
        if not (out := data / "sets" / f"flickr8k-{name}").exists():
            (shards,) = tars(source, split)
            command("retrieval-set", shards, "--out", out, *CAPTIONS)


def write(shards: list[Path], out: Path, share: float) -> None:
    """Shards whose first captions are, by this share, not of their photograph."""
    draw = np.random.default_rng(SEED)
    rows = [list(read_samples([str(shard)])) for shard in shards]
    captions = [json.loads(row["json"])["captions"] for shard in rows for row in shard]
    firsts = swap([texts[0] for texts in captions], share, draw)
    out.mkdir(parents=True)
    number = 0
    for place, shard in enumerate(rows):
        with atomic_file(out / f"{place:05d}.tar") as file, tar_writer(file) as tar:
            for row in shard:
                texts = [firsts[number], *captions[number][1:]]
                texts_json = json.dumps({"captions": texts}).encode()
                jpg = small_jpeg(image_bytes(row))
                tar.write({"__key__": f"{number:05d}", "jpg": jpg, "txt": texts[0].encode(), "json": texts_json})
                number += 1


def swap(firsts: list[str], share: float, draw: np.random.Generator) -> list[str]:
    """The same texts, of which half of a share are another's, drawn at random, and half name nothing."""
    kinds = draw.choice(3, size=len(firsts), p=(1 - share, share / 2, share / 2))
    others = draw.integers(len(firsts), size=len(firsts))
    nameless = [draw.choice(NAMELESS).format(key=f"dsc{draw.integers(100_000):05d}") for _ in firsts]
    choices = zip(kinds, firsts, others, nameless, strict=True)
    return [(own, firsts[other], none)[kind] for kind, own, other, none in choices]


def alike(data: Path) -> Path:
    """A list for `--positives` of the most similar photographs, one for each in a batch of 256 on average.

    It stands for what a person may have from elsewhere, such as the groups of a near-duplicate search.
    """
    path = data / "flickr8k-alike" / "pairs.parquet"
    if path.exists():
        return path
    places, features = image_features(data)
    cosines = (features @ features.T).triu(1)
    wanted = len(places) * (len(places) - 1) // (2 * (BATCH - 1))
    nearest = cosines.flatten().topk(wanted)
    print(f"{wanted:,} pairs of photographs, of a cosine of {nearest.values[-1]:.3f} or more", flush=True)
    first, second = nearest.indices // len(places), nearest.indices % len(places)
    columns = {
        f"{column}_{side}": [places[row][place] for row in rows.tolist()]
        for side, rows in (("a", first), ("b", second))
        for place, column in enumerate(("shard", "key"))
    }
    path.parent.mkdir(exist_ok=True)
    with atomic_file(path) as file:
        pd.DataFrame(columns).to_parquet(file)
    return path


def image_features(data: Path) -> tuple[list[tuple[str, str]], torch.Tensor]:
    """Shard and key of each training photograph, and an ImageNet tower's features: float32 [M, D], of length 1."""
    open_clip.add_model_config(CONFIG)
    model, _, preprocess = open_clip.create_model_and_transforms(CONFIG.stem, pretrained=str(image_tower(data)))
    trunk = model.visual.trunk.eval()
    places, features = [], []
    with torch.inference_mode():
        for shard in sorted((data / "flickr8k-human").glob("*.tar")):
            rows = list(read_samples([str(shard)]))
            places += [(shard.stem, str(row["__key__"])) for row in rows]
            pixels = [preprocess(Image.open(io.BytesIO(image_bytes(row))).convert("RGB")) for row in rows]
            features += [trunk(part) for part in torch.stack(pixels).split(64)]
    return places, torch.nn.functional.normalize(torch.cat(features), dim=1)
