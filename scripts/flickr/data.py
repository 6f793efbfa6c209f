"""What the study of the fusion model is made of, from Flickr8k's shards.

DATA/bert/                  tokenizer (a WordPiece vocabulary of the training captions) and sizes of the text tower
DATA/flickr-bert.json       the architecture; DATA/start/SEED.pt its random weights
DATA/sets/{validation,test} retrieval sets in clip-benchmark's layout
DATA/once/                  the training photographs with five captions each, 72 px on the short side
DATA/twice/                 those of the first half of the shards twice: with their first three captions, and mirrored
                            with the other two. They are different images to training, so that captions of one are false
                            negatives of the other, and the class (cls) says which
"""

import io
import json
from collections.abc import Iterator
from pathlib import Path

from digits.runs import command
from PIL import Image, ImageOps

from open_clip_fff.atomic_io import atomic_file
from open_clip_fff.data.shards import read_samples
from open_clip_fff.tools.shards.tars import tar_writer

NAME, WORDS, CONTEXT, PIXELS, SHORT, WIDTH = "flickr-bert", 2_000, 32, 64, 72, 64
VISION = {"image_size": PIXELS, "layers": 2, "width": 128, "head_width": 32, "patch_size": 16}
CAPTIONS = ("--text-key", "", "--json-text-key", "captions")


def make(source: Path, data: Path, seed: int) -> None:
    """Makes what is not there yet; `source` has train-*.tar, val-*.tar and test-*.tar."""
    photographs(tars(source, "train"), data)
    if not (data / f"{NAME}.json").exists():
        architecture(tars(source, "train"), data)
    for split, name in (("val", "validation"), ("test", "test")):
        if not (data / "sets" / name).exists():
            (shards,) = tars(source, split)
            command("retrieval-set", shards, "--out", data / "sets" / name, *CAPTIONS)
    start(data, seed)


def photographs(shards: list[Path], data: Path) -> None:
    """Writes DATA/once and DATA/twice."""
    number = 0
    late = shards[(len(shards) + 1) // 2 :]
    for shard in shards:
        rows = list(read_samples([str(shard)]))
        for name, copies in (("once", _once), ("twice", _twice)):
            path = data / name / shard.name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() and not (name == "twice" and shard in late):
                with atomic_file(path) as file, tar_writer(file) as tar:
                    for row, sample in enumerate(rows):
                        for each in copies(sample, number + row):
                            tar.write(each)
        number += len(rows)


def tars(source: Path, split: str) -> list[Path]:
    """The shards of a split."""
    return sorted(source.glob(f"{split}-*.tar"))


def _once(sample: dict, number: int) -> Iterator[dict]:
    yield _row(sample, f"{number:05d}", number, slice(None))


def _twice(sample: dict, number: int) -> Iterator[dict]:
    yield _row(sample, f"{number:05d}a", number, slice(3))
    yield _row(sample, f"{number:05d}b", number, slice(3, None), mirrored=True)


def _row(sample: dict, key: str, number: int, captions: slice, mirrored: bool = False) -> dict:
    text = json.dumps({"captions": json.loads(sample["json"])["captions"][captions]})
    jpg = small_jpeg(sample["jpg"], mirrored)
    return {"__key__": key, "jpg": jpg, "json": text.encode(), "cls": str(number).encode()}


def small_jpeg(content: bytes, mirrored: bool = False) -> bytes:
    """A photograph of SHORT pixels on its short side."""
    photo = Image.open(io.BytesIO(content)).convert("RGB")
    photo = photo.resize([round(SHORT * side / min(photo.size)) for side in photo.size], Image.Resampling.BICUBIC)
    file = io.BytesIO()
    (ImageOps.mirror(photo) if mirrored else photo).save(file, "jpeg", quality=90)
    return file.getvalue()


def architecture(shards: list[Path], data: Path) -> None:
    """Vocabulary, tokenizer, and sizes of towers."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertTokenizerFast

    bert = data / "bert"
    bert.mkdir(parents=True, exist_ok=True)
    captions = [
        text for shard in shards for row in read_samples([str(shard)]) for text in json.loads(row["json"])["captions"]
    ]
    pieces = BertWordPieceTokenizer(lowercase=True)
    pieces.train_from_iterator(captions, vocab_size=WORDS, min_frequency=2, show_progress=False)
    numbers = pieces.get_vocab()
    (bert / "vocab.txt").write_text("\n".join(sorted(numbers, key=numbers.__getitem__)) + "\n")
    BertTokenizerFast(str(bert / "vocab.txt")).save_pretrained(bert)
    BertConfig(
        vocab_size=len(numbers),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=2 * CONTEXT,
        initializer_range=0.1,  # small models learn slowly from the usual .02
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    ).save_pretrained(bert)
    text = {"hf_model_name": str(bert), "hf_tokenizer_name": str(bert), "hf_model_pretrained": False}
    text |= {"hf_proj_type": "linear", "hf_pooler_type": "cls_pooler", "context_length": CONTEXT}
    found = {"embed_dim": 128, "vision_cfg": VISION, "text_cfg": text}
    (data / f"{NAME}.json").write_text(json.dumps(found, indent=2) + "\n")


def start(data: Path, seed: int) -> Path:
    """Random weights of a seed, as a file: OpenCLIP reads a Hugging Face tower's weights from somewhere."""
    import open_clip
    import torch

    path = data / "start" / f"{seed}.pt"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        open_clip.add_model_config(data / f"{NAME}.json")
        torch.manual_seed(seed)
        torch.save(open_clip.create_model(NAME, pretrained_hf=False).state_dict(), path)
    return path
