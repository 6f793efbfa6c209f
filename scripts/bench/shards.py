"""Shards for benchmarks of the loader: small ones, and features beside any."""

import io
import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from bench.captions import drawn
from open_clip_fff.data.data_sets import parquet_name
from open_clip_fff.data.features import FEATURE_COLUMN, pack_features
from open_clip_fff.data.shards import image_bytes, read_samples
from open_clip_fff.data.sidecar import KEY_COLUMN
from open_clip_fff.tools.shards.tars import tar_writer

K = 5
WIDTH = 768  # of stored features: ViT-L/14's


def made_shards(folder: Path, rows: int) -> str:
    """2 tars of JPEGs of 128 pixels, some 5 kB each as photographs have, with five captions."""
    noise, draw = np.random.default_rng(0), random.Random(0)
    for shard in range(2):
        with (folder / f"{shard}.tar").open("wb") as file, tar_writer(file) as tar:
            for number in range(shard, rows, 2):
                coarse = Image.fromarray(noise.integers(0, 255, (20, 20, 3), dtype=np.uint8))
                image, captions = io.BytesIO(), [drawn(draw) for _ in range(K)]
                coarse.resize((128, 128), Image.Resampling.BICUBIC).save(image, "jpeg", quality=85)
                texts = {"txt": captions[0].encode(), "json": json.dumps({"captions": captions}).encode()}
                tar.write({"__key__": f"{number:06d}", "jpg": image.getvalue(), **texts})
    return str(folder / "{0..1}.tar")


def store_features(urls: list[str], folder: Path) -> int:
    """Writes random features of the samples of each shard; returns the number of samples with an image."""
    draw, rows = np.random.default_rng(0), 0
    for url in urls:
        files = {}
        for sample in read_samples([url]):
            captions = json.loads(sample["json"])["captions"]
            image, *texts = draw.standard_normal((1 + len(captions), WIDTH)).astype(np.float16)
            files[str(sample["__key__"])] = pack_features(image, np.stack(texts), captions, "ViT-L-14:openai")
            rows += image_bytes(sample) is not None
        table = {KEY_COLUMN: pa.array(files, pa.string()), FEATURE_COLUMN: pa.array(files.values(), pa.binary())}
        pq.write_table(pa.table(table), folder / parquet_name(url))
    return rows
