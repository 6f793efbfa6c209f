"""open-clip-fff retrieval-set: the set's tars, and what clip-benchmark wants beside them."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import webdataset as wds
from tqdm import tqdm

from open_clip_fff.atomic_io import atomic_folder
from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.data.data_sets import expand_shards
from open_clip_fff.data.shards import IMAGES, as_usage_errors, read_samples, unreadable_reason
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.errors import UsageError
from open_clip_fff.plural import plural

IMAGES_PER_TAR = 1_000


def run(arguments: argparse.Namespace, captions: CaptionSettings) -> int:
    """Writes the set, and says what is in it.

    Raises:
        UsageError: if it cannot be made.
    """
    images, texts, skipped = write_set(arguments.shards, arguments.out, arguments.captions, CaptionReader(captions))
    left_out = f"; {skipped:,} without captions or a whole image were left out" if skipped else ""
    print(f"{arguments.out}: {plural(texts, 'captions')} of {plural(images, 'images')}{left_out}")
    root, name = arguments.out.parent, arguments.out.name
    print(f"score it with: open-clip-fff score MODEL --data-root {root} --datasets {name}")
    return 0


def write_set(shards: str, out: Path, most: int, captions: CaptionReader) -> tuple[int, int, int]:
    """Writes the set, whole or not at all.

    Returns:
        Images and captions written, and samples left out.

    Raises:
        UsageError: if `out` is there, a shard cannot be read, or no sample is whole.
    """
    if out.exists():
        raise UsageError(f"--out {out}: is there already; nothing was written over")
    urls = expand_shards(shards)
    with atomic_folder(out) as unfinished:
        counts = _write_tars(urls, unfinished / "test", most, captions)
        if not counts[0]:
            raise UsageError(f"{shards}: no sample has captions and a whole image; --text-key and --json-text-key?")
        (unfinished / "dataset_type.txt").write_text("retrieval\n")
    return counts


def _write_tars(urls: Sequence[str], folder: Path, most: int, captions: CaptionReader) -> tuple[int, int, int]:
    folder.mkdir()
    images = texts = skipped = 0
    with wds.ShardWriter(str(folder / "%d.tar"), maxcount=IMAGES_PER_TAR, maxsize=2**40, verbose=0) as tars:
        for sample in tqdm(as_usage_errors(read_samples(urls), " ".join(urls[:3])), unit=" images", disable=None):
            lines = [" ".join(text.split()) for text in captions.row(sample).captions[:most]]
            kind = next((name for name in IMAGES if name in sample), None)
            if not lines or kind is None or unreadable_reason(sample[kind]) is not None:
                skipped += 1
                continue
            tars.write({"__key__": f"s{images:07d}", kind: sample[kind], "txt": "\n".join(lines)})
            images, texts = images + 1, texts + len(lines)
        shards = tars.shard
    (folder / "nshards.txt").write_text(f"{shards}\n")
    return images, texts, skipped
