"""Loops that one would write instead of open-clip-fff pack and embed, for scripts/bench_tools.py."""

import io
import json
from pathlib import Path

import numpy as np
import open_clip
import torch
import webdataset as wds
from PIL import Image
from torch.utils.data import DataLoader


def pack(folder: Path, out: Path, decode: bool = False, resize: int | None = None) -> None:
    """Images with the captions beside them, NAME.jpg, NAME.txt and NAME.json, into a tar.

    `decode` looks for images that cannot be read; `resize` is the shorter side of those that are written instead.
    """
    with wds.TarWriter(str(out)) as tar:
        for path in sorted(folder.glob("*.jpg")):
            content = path.read_bytes()
            if decode:
                Image.open(io.BytesIO(content)).load()
            if resize is not None:
                image, file = Image.open(io.BytesIO(content)).convert("RGB"), io.BytesIO()
                scale = resize / min(image.size)
                size = tuple(round(scale * side) for side in image.size)
                image.resize(size, Image.Resampling.BICUBIC).save(file, "jpeg", quality=90)
                content = file.getvalue()
            others = {name: path.with_suffix(f".{name}").read_bytes() for name in ("txt", "json")}
            tar.write({"__key__": path.stem, "jpg": content, **others})


def embed(shards: list[str], model_name: str, weights: str, batch: int, workers: int, out: Path) -> None:
    """Features of images and of all their captions, float16, one file a shard."""
    model, _, preprocess = open_clip.create_model_and_transforms(model_name, pretrained=weights)
    tokenizer = open_clip.get_tokenizer(model_name)
    model.eval()

    def row(sample: dict) -> tuple[str, torch.Tensor, torch.Tensor]:
        image = preprocess(Image.open(io.BytesIO(sample["jpg"])).convert("RGB"))
        return sample["__key__"], image, tokenizer([sample["txt"].decode(), *json.loads(sample["json"])["captions"]])

    for number, url in enumerate(shards):
        found: dict[str, np.ndarray] = {}
        samples = wds.WebDataset(url, shardshuffle=False, empty_check=False, workersplitter=None).map(row)
        loader = DataLoader(samples, batch_size=batch, num_workers=min(workers, 1))
        with torch.no_grad():
            for keys, images, tokens in loader:
                image = model.encode_image(images, normalize=True)[:, None]
                text = model.encode_text(tokens.flatten(0, 1), normalize=True).unflatten(0, tokens.shape[:2])
                found.update(zip(keys, torch.cat([image, text], dim=1).half().numpy(), strict=True))
        np.savez(out / f"{number}.npz", **found)
