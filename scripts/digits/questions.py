"""scikit-learn's scanned digits as questions about images, in the public sets' own forms.

    python scripts/digits/questions.py --out questions

    images/COCO_{train,val,test}2014_*.png    four digits in a square
    {train,val,test}-questions.json, {train,val,test}-annotations.json    VQAv2: "which digit is top left?"
    pairs/{train,val,test}-*-img{0,1}.png, {train,val,test}.json     NLVR2: "both images show a seven"
    captions/*.tar    the training squares with a caption each, to train towers and fusion model on
    start/            towers and a fusion model with random weights, to start from without that training

A digit of one split is in no other. Half of NLVR2's sentences are true; of the false ones half show it once.
"""

import argparse
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from open_clip_fff.hub.description import describe_named
from open_clip_fff.hub.folder import write_hub_folder
from open_clip_fff.hub.fusion_files import SavedFusion, write_fusion
from open_clip_fff.hub.loading import add_architectures
from open_clip_fff.models.fusion import Fusion, FusionSizes
from open_clip_fff.models.tower_tokens import TowerTokens
from open_clip_fff.tools.shards.tars import tar_writer

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PLACES = ("top left", "top right", "bottom left", "bottom right")
SPLITS = {"train": (0, 1200), "val": (1200, 1450), "test": (1450, 1797)}  # of the 1,797 digits
PEOPLE = 10  # who answer a question
SHARDS = 4
SQUARES = Path(__file__).parent / "squares-clip.json"  # towers for the squares, a digit a patch


def write_questions(
    out: Path, sizes: dict[str, int], pairs: dict[str, int], seed: int = 0, captions: bool = False
) -> None:
    """Writes everything above, the tars where `captions` are wanted.

    By split, there are `sizes` squares, about each of which four questions are asked, and whether it shows a seven, and
    `pairs` of images.
    """
    scans, digits = load_digits().images / 16, load_digits().target
    draw = np.random.default_rng(seed)
    for split, (first, last) in SPLITS.items():
        pool = np.arange(first, last)
        squares = [draw.choice(pool, 4, replace=False) for _ in range(sizes[split])]
        (out / "images").mkdir(parents=True, exist_ok=True)
        for number, square in enumerate(squares):
            _save(out / "images" / f"COCO_{split}2014_{_id(split, number):012d}.png", [scans[i] for i in square])
        _write_vqa(out, split, [digits[square] for square in squares])
        if captions and split == "train":
            _write_captions(out / "captions", [(scans[square], digits[square]) for square in squares])
        _write_nlvr2(out, split, pairs[split], pool, scans, digits, draw)


def _id(split: str, number: int) -> int:
    return number + 1 + 100_000 * list(SPLITS).index(split)


def _save(path: Path | io.BytesIO, scans: Sequence[np.ndarray]) -> None:
    """One scan, or four in a square, as 32 x 32 pixels."""
    grid = scans[0] if len(scans) == 1 else np.block([[scans[0], scans[1]], [scans[2], scans[3]]])
    pixels = np.kron(255 * grid, np.ones((32 // len(grid),) * 2)).astype(np.uint8)
    Image.fromarray(pixels).save(path, "png")


def _write_vqa(out: Path, split: str, squares: Sequence[np.ndarray]) -> None:
    questions, annotations = [], []

    def ask(image: int, text: str, answers: list[str], kind: str) -> None:
        question = {"question_id": len(questions), "image_id": image}
        questions.append({**question, "question": text})
        annotations.append({**question, "answer_type": kind, "answers": [{"answer": each} for each in answers]})

    for number, square in enumerate(squares):
        image = _id(split, number)
        for place, digit in zip(PLACES, square, strict=True):
            written = [NAMES[digit], str(digit)] * (PEOPLE // 2)  # which are the same answer
            ask(image, f"which digit is {place}?", written, "number")
        ask(image, "is there a seven?", ["yes" if 7 in square else "no"] * PEOPLE, "yes/no")
    (out / f"{split}-questions.json").write_text(json.dumps({"questions": questions}))
    (out / f"{split}-annotations.json").write_text(json.dumps({"annotations": annotations}))


def _write_nlvr2(
    out: Path,
    split: str,
    count: int,
    pool: np.ndarray,
    scans: np.ndarray,
    digits: np.ndarray,
    draw: np.random.Generator,
) -> None:
    rows = []
    (out / "pairs" / split).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        asked = int(draw.integers(10))
        same, other = pool[digits[pool] == asked], pool[digits[pool] != asked]
        shown = (2, 2, 1, 0)[number % 4]  # images that show it
        pair = [*draw.choice(same, shown, replace=False), *draw.choice(other, 2 - shown, replace=False)]
        for side, index in enumerate(draw.permutation(pair)):
            _save(out / "pairs" / split / f"{split}-{number}-0-img{side}.png", [scans[index]])
        sentence = f"both images show a {NAMES[asked]}"
        rows.append({"sentence": sentence, "label": str(shown == 2), "identifier": f"{split}-{number}-0-0"})
    (out / f"{split}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _write_captions(out: Path, squares: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for shard in range(SHARDS):
        with (out / f"{shard:02d}.tar").open("wb") as file, tar_writer(file) as tar:
            for number in range(shard, len(squares), SHARDS):
                scans, digits = squares[number]
                _save(image := io.BytesIO(), list(scans))
                named = ", ".join(f"{NAMES[digit]} {place}" for digit, place in zip(digits, PLACES, strict=True))
                tar.write({"__key__": f"{number:06d}", "png": image.getvalue(), "txt": named.encode()})


def write_start(name: str, out: Path, layers: int, width: int, std: float | None = None, seed: int = 0) -> Path:
    """Writes towers of OpenCLIP's `name` and a fusion model of so many layers to `out`, as export does.

    With `std` it is the standard deviation of the word embedding (if it is OpenCLIP's) and of the fusion model's
    matrices.
    """
    torch.manual_seed(seed)
    towers = open_clip.create_model(name, pretrained_hf=False)
    tokens = TowerTokens(towers)
    network = Fusion(FusionSizes(layers, width, image_width=tokens.image_width, text_width=tokens.text_width))
    if std is not None:
        matrices = [module.weight for module in network.modules() if isinstance(module, nn.Linear)]
        for weight in [towers.token_embedding.weight, *matrices]:
            nn.init.normal_(weight, std=std)
    saved = SavedFusion(asdict(network.sizes), network.state_dict())
    description = describe_named(name, towers.state_dict())
    write_hub_folder(description, towers.state_dict(), out, _loads, write_more=partial(write_fusion, saved))
    return out


def _loads(folder: Path) -> None:
    """Stock OpenCLIP makes a model of the folder, with its weights."""
    open_clip.create_model(f"local-dir:{folder}", require_pretrained=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--squares", type=int, default=4_000, help="to train on; a tenth to choose and to score on")
    parser.add_argument("--pairs", type=int, default=8_000, help="the same, for NLVR2")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    sizes, pairs = ({"train": count, "val": count // 10, "test": count // 10} for count in (args.squares, args.pairs))
    write_questions(args.out, sizes, pairs, args.seed, captions=True)
    add_architectures([str(SQUARES)])
    write_start(SQUARES.stem, args.out / "start", layers=2, width=64, std=0.1, seed=args.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
