"""Stores a frozen model's features of images and captions in a parquet per shard, so that mining needs no second tower.

    python scripts/embed.py --out features -- --train-data 'data/{00000..00099}.tar' \\
        --json-text-key captions --mining-model ViT-L-14-quickgelu --mining-pretrained openai

The flags behind `--` are those of training: the same captions are read. Then train with
`--mining-features precomputed --feature-sidecar features`. Each shard is written whole or not at all; a second start
does those that are missing.
"""

import argparse
import os
import sys
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from open_clip_fff.data.features import COLUMN, pack
from open_clip_fff.data.pictures import read_pictures
from open_clip_fff.data.shards import in_one_line
from open_clip_fff.data.sidecar import KEY, Sidecar
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.errors import UsageError
from open_clip_fff.host.shards import training_shards
from open_clip_fff.hub.borrowed import borrow, split_at_dashes
from open_clip_fff.settings import CaptionSettings, FrozenSource
from open_clip_fff.towers.frozen import FrozenModel, load_frozen

ROWS = 256  # images that are decoded and embedded at a time
ALL = 10_000  # captions of an image: more than training may take
IDLE = ("feature_sidecar", "mined_per_image", "mining_warmup", "ema_decay", "raw_weight")  # only training needs them


def main(argv: list[str]) -> int:
    """Shards in, parquets out."""
    try:
        args, captions, source = parse(argv)
        frozen = load_frozen(source)
        frozen.model.to(args.device)
        args.out.mkdir(parents=True, exist_ok=True)
        sidecar, skipped = Sidecar(str(args.out), (COLUMN,)), 0
        missing = [url for url in args.shards if not sidecar.path(url).exists()]
        print(f"{len(missing)} of {len(args.shards)} shards to embed with {source.name}, on {args.device}")
        for url in tqdm(missing, unit="shard"):
            skipped += embed_shard(url, sidecar.path(url), CaptionReader(captions), frozen, source.name)
        held = f"{args.out} holds {len(args.shards)} parquets"
        print(f"{held}; {skipped} images without captions or unreadable were left out")
    except UsageError as error:
        print(f"embed.py: error: {error}", file=sys.stderr)
        return 2
    return 0


def parse(argv: list[str]) -> tuple[argparse.Namespace, CaptionSettings, FrozenSource]:
    """The command line; what stands behind `--` is read by training's own parser.

    Raises:
        UsageError: for a training flag that cannot work, or no model.
    """
    parser = argparse.ArgumentParser(prog="scripts/embed.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the parquets")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    here, there = split_at_dashes(argv)
    args = parser.parse_args(here)
    said = {"loss": "fff", "mining_features": "frozen", "captions_per_image": ALL, "caption_policy": "all"}
    plan, others = borrow(there, said={**said, "method": None}, idle=IDLE)
    args.shards, _ = training_shards(others)
    assert plan.miner is not None
    return args, plan.captions, plan.miner


def embed_shard(url: str, out: Path, reader: CaptionReader, frozen: FrozenModel, model: str) -> int:
    """Writes one shard's parquet; gives how many images were left out.

    Raises:
        UsageError: if the shard cannot be read.
    """
    keys, contents, skipped = [], [], 0
    found = read_pictures([url], sys.maxsize, reader, frozen.preprocess())
    samples = in_one_line(found, f"--train-data: {url}")
    while some := list(islice(samples, ROWS)):
        pictures = [picture for picture in some if picture is not None]
        skipped += len(some) - len(pictures)
        if not pictures:
            continue
        image = frozen.embed_images([picture.image for picture in pictures]).cpu().numpy()
        text = frozen.embed_texts([caption for picture in pictures for caption in picture.row.captions]).cpu().numpy()
        for picture, vector in zip(pictures, image, strict=True):
            captions = picture.row.captions
            keys.append(picture.key)
            contents.append(pack(vector, text[: len(captions)], captions, model))
            text = text[len(captions) :]
    unfinished = out.with_suffix(".unfinished")
    pq.write_table(pa.table({KEY: keys, COLUMN: pa.array(contents, pa.binary())}), unfinished)
    os.replace(unfinished, out)
    return skipped


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
