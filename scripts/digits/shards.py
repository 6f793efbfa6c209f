"""scikit-learn's scanned digits as webdataset shards.

    data/train-00000.tar ...        KEY.png, KEY.txt (raw caption), KEY.json {"captions": [four others]}
    data/test/0.tar                 KEY.png, KEY.cls (0 to 9), KEY.json; laid out for clip-benchmark

The digit itself is written for the held-out images only: training sees it through captions or not at all.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from digits.captions import NAMES, PROMPTS, captioner_captions, clean_captions, in_words, measure, raw_caption

TRAINING = 1408  # 11 batches of 128; the other 389 of the 1,797 are held out
SHARDS = 4
SIDE = 32  # pixels; the scans are 8 x 8


def write_shards(data: Path, seed: int, classes: bool = False, faulty: bool = False) -> str:
    """Writes everything above, and gives a few lines that say so, with one image's captions.

    With `classes` the training shards have a KEY.cls, too, for --class-key, which evaluates and does not train; if they
    are `faulty`, the four captions of training images are a faulty captioner's, and else clean.
    """
    images, targets = load_digits().images / 16, load_digits().target  # [N, 8, 8] of ink, [N]
    train, test = train_test_split(np.arange(len(targets)), train_size=TRAINING, stratify=targets, random_state=seed)
    words = in_words(measure(images), train)
    draw = np.random.default_rng(seed)

    def members(index: int, held_out: bool) -> dict[str, bytes]:
        target, key = int(targets[index]), f"{index:04d}"
        measured = {attribute: texts[index] for attribute, texts in words.items()}
        captions = clean_captions(NAMES[target], **measured)
        if faulty and not held_out:
            captions = captioner_captions(target, measured, draw)
        label = {"cls": str(target)} if held_out or classes else {}
        label |= {} if held_out else {"txt": raw_caption(target, key, draw)}
        texts = {**label, "json": json.dumps({"captions": captions})}
        return {f"{key}.png": png(images[index])} | {f"{key}.{end}": text.encode() for end, text in texts.items()}

    (data / "test").mkdir(parents=True, exist_ok=True)
    for shard, part in enumerate(np.array_split(train, SHARDS)):
        write_tar(data / f"train-{shard:05d}.tar", (members(index, held_out=False) for index in part))
    write_tar(data / "test" / "0.tar", (members(index, held_out=True) for index in test))
    (data / "test" / "nshards.txt").write_text("1\n")
    (data / "classnames.txt").write_text("\n".join(NAMES) + "\n")
    (data / "zeroshot_classification_templates.txt").write_text("\n".join(PROMPTS) + "\n")
    name, first = NAMES[targets[train[0]]], read_tars([data / "train-00000.tar"])[0]
    lines = [
        f"{len(train)} training images in {SHARDS} shards, {len(test)} held out. The first, a {name}:",
        f"raw    {first['txt'].decode()!r}",
        *(f"{'written' if faulty else 'clean'}  {caption!r}" for caption in json.loads(first["json"])["captions"]),
    ]
    return "\n".join(f"  {line}" for line in lines)


def png(ink: np.ndarray) -> bytes:
    """Ink [8, 8], 0 to 1, as an image of dark ink on white paper."""
    paper = Image.fromarray((255 * (1 - ink)).round().astype(np.uint8))
    file = io.BytesIO()
    paper.resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB").save(file, "png")
    return file.getvalue()


def write_tar(path: Path, rows: Iterable[Mapping[str, bytes]]) -> None:
    """One tar; members carry no time and no owner, so that the same data are the same bytes."""
    with tarfile.open(path, "w") as tar:
        for row in rows:
            for name, content in row.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


def read_tars(paths: Iterable[Path]) -> list[dict[str, bytes]]:
    """The rows of some tars, in order: members by extension."""
    rows: dict[str, dict[str, bytes]] = {}
    for path in paths:
        with tarfile.open(path) as tar:
            for entry in tar:
                key, end = entry.name.split(".", 1)
                file = tar.extractfile(entry)
                assert file is not None
                rows.setdefault(key, {})[end] = file.read()
    return list(rows.values())
