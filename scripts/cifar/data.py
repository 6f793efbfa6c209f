"""The study's data, made by the commands that one would type: packed, a captioner trained, captions written.

    DATA/clean/                 10,000 images with five true captions each, one as txt, four as json
    DATA/captioner/             a small BLIP that learnt from the four
    DATA/bare/, DATA/captions/  the other 40,000, and the captioner's five nucleus captions of each
    DATA/SHARES-NOISE/          those that train, with a raw caption (txt), the captioner's (json) and the class (cls),
                                which is counted with and not trained on
    DATA/validation/            5,000 images in clip-benchmark's layout, on which learning rates are chosen

SHARES is `balanced` or `tailed`, by how many images a class has; NOISE is `web` or `half`, by how many raw captions do
not name what is there. All four have the same number of images.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from digits.runs import command

from cifar.captions import SHARES, WORDS, raw_captions, true_captions
from cifar.images import Photo, balanced, long_tailed, parts, read_photos
from open_clip_fff import sample_id
from open_clip_fff.data.shards import image_bytes, read_samples
from open_clip_fff.errors import UsageError

BLIP = Path(__file__).parent / "blip-32.json"
PER_SHARD = 2_500
STEPS, BATCH = 6_000, 64  # of the captioner's training
SEED = 0
TEMPLATES = ("a photo of a {c}", "a picture of a {c}")  # clip-benchmark's form


def make(source: Path, data: Path, steps: int = STEPS, some: int | None = None, written: Path | None = None) -> None:
    """Makes what is not there yet.

    Args:
        source: CIFAR-10's training images as parquets.
        data: the folder to fill.
        steps: of the captioner's training.
        some: use so many images, for a try; None for all.
        written: the folder of captions that were written before; None to train a captioner that writes them.
    """
    photos = parts(read_photos(source), some)
    clean, train, others = photos["clean"], photos["train"], photos["validation"] + photos["train"]
    draw = np.random.default_rng(SEED)
    pack(data / "clean", clean, [true_captions(photo.name, photo.pixels(), draw) for photo in clean])
    pack(data / "bare", others, [["photo"]] * len(others))
    if written is None:
        written = data / "captions"
        write_captions(data, written, steps)
    captions = read_captions(data, written)
    tailed = long_tailed(train)
    for shares, chosen in {"tailed": tailed, "balanced": balanced(train, len(tailed))}.items():
        for noise in SHARES:
            raw = raw_captions([photo.name for photo in chosen], noise, np.random.default_rng(SEED + 1))
            texts = [[first, *captions[photo.key]] for first, photo in zip(raw, chosen, strict=True)]
            pack(data / f"{shares}-{noise}", chosen, texts)
    write_validation(data / "validation", photos["validation"])


def write_captions(data: Path, out: Path, steps: int) -> None:
    """Trains a captioner on the clean images, unless there is one, and has it write captions of the others."""
    if not (data / "captioner").exists():
        command(
            *("train-captioner", "--from-config", BLIP, "--out", data / "captioner"),
            *("--steps", steps, "--batch-size", BATCH, "--lr", 2e-3, "--workers", 1, "--seed", SEED, "--"),
            *("--train-data", shards(data / "clean"), "--text-key", "", "--json-text-key", "captions"),
        )
    command(
        *("caption", "--train-data", shards(data / "bare"), "--out", out, "--seed", SEED),
        *("--model", data / "captioner", "--captions", 5, "--max-new-tokens", 20),
    )


def shards(folder: Path) -> str:
    """The tars of a folder, with braces."""
    last = max(int(path.stem) for path in folder.glob("*.tar"))
    return f"{folder}/{{00000..{last:05d}}}.tar"


def pack(out: Path, photos: Sequence[Photo], captions: Sequence[list[str]]) -> None:
    """Shards of photographs, unless they are there: an image's first caption goes to txt, all others to the json."""
    if out.exists():
        return
    table = out.with_suffix(".parquet")
    table.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "image": [photo.bytes for photo in photos],
        "label": [photo.label for photo in photos],
        "raw": [texts[0] for texts in captions],
        "captions": [texts[1:] for texts in captions],
    }
    pd.DataFrame(columns).to_parquet(table)
    names = "raw;captions" if any(columns["captions"]) else "raw"
    command(
        *("pack", table, "--out", out, "--image-key", "image", "--class-key", "label", "--caption-key", names),
        *("--images-per-shard", PER_SHARD),
    )
    table.unlink()


def read_captions(data: Path, written: Path) -> dict[str, list[str]]:
    """What a captioner wrote, by the key of a photograph.

    Raises UsageError for a tar without a parquet, or with one of another number of images.
    """
    found = {}
    for tar in sorted((data / "bare").glob("*.tar")):
        path, samples = written / f"{tar.stem}.parquet", list(read_samples([str(tar)]))
        if not path.exists() or pq.read_metadata(path).num_rows != len(samples):
            raise UsageError(f"{path}: has to hold the captions of all {len(samples)} images of {tar}")
        table = pd.read_parquet(path).set_index("key")["captions"]
        for sample in samples:
            found[f"{sample_id(image_bytes(sample)):020d}"] = list(table.get(sample["__key__"], ()))
    return found


def write_validation(out: Path, photos: Sequence[Photo]) -> None:
    """A zero-shot set in clip-benchmark's layout, unless it is there."""
    if out.exists():
        return
    pack(out / "test", photos, [["photo"]] * len(photos))
    tars = sorted((out / "test").glob("*.tar"))
    for number, tar in enumerate(tars):
        tar.rename(tar.with_name(f"{number}.tar"))
    (out / "test" / "nshards.txt").write_text(f"{len(tars)}\n")
    (out / "classnames.txt").write_text("\n".join(WORDS) + "\n")
    (out / "zeroshot_classification_templates.txt").write_text("\n".join(TEMPLATES) + "\n")


def class_names(captions: Sequence[str]) -> list[str | None]:
    """The class that each caption names, by its words; None for none or several."""
    of_word = {word: name for name, words in WORDS.items() for word in words}
    found = [{of_word[word] for word in re.findall(r"[a-z]+", caption) if word in of_word} for caption in captions]
    return [names.pop() if len(names) == 1 else None for names in found]
