"""A small captioner for scikit-learn's scanned digits, from random weights, and how often it names the right digit.

    python scripts/caption_digits.py --out digits-captioner

Writes the digits as shards, trains with `train-captioner`, captions the held-out ones with `caption` in each of its
ways, and counts. All of it is what one would type; the commands are printed.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from digits.captions import NAMES
from digits.runs import command
from digits.shards import SHARDS, write_shards
from digits.study import markdown

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.data.shards import read_samples
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.tools.caption.shard import SIDECAR_COLUMN

HERE = Path(__file__).parent
HELD_OUT = 389
MOST = 20  # tokens of a caption
WAYS = {
    "nucleus": (),
    "nucleus, --top-p 0.5": ("--top-p", "0.5"),
    "beam": ("--decoding", "beam"),
    "greedy": ("--decoding", "greedy"),
}


def main() -> int:
    """All steps, in their order."""
    args = parse()
    data, model = args.out / "data", args.out / "captioner"
    print(write_shards(data, args.seed, classes=True))
    if not model.exists():
        command(
            *("train-captioner", "--from-config", HERE / "digits" / "captioner.json", "--out", model),
            *("--steps", args.steps, "--batch-size", 64, "--lr", 2e-3, "--workers", 0, "--min-crop", 0.9),
            *("--seed", args.seed, "--", "--train-data", f"{data}/train-{{00000..{SHARDS - 1:05d}}}.tar"),
            *("--text-key", "", "--json-text-key", "captions"),
        )
    rows = []
    for number, (way, flags) in enumerate(WAYS.items()):
        out = args.out / f"captions-{number}"
        asked = ("--train-data", data / "test" / "0.tar", "--out", out, "--model", model, "--max-new-tokens", MOST)
        command("caption", *asked, "--seed", args.seed, *flags)
        found = pd.DataFrame(named(data / "test" / "0.tar", out), columns=["digits", "right"])
        rows.append(
            {
                "decoding": way,
                "captions": f"{len(found):,}",
                "captions/image": f"{len(found) / HELD_OUT:.2f}",
                "name one digit, %": f"{100 * (found['digits'] == 1).mean():.1f}",
                "name the right one, %": f"{100 * found['right'].mean():.1f}",
            }
        )
    text = markdown(pd.DataFrame(rows))
    (args.out / "table.md").write_text(text)
    print(text)
    return 0


def named(tar: Path, sidecar: Path) -> Iterator[tuple[int, bool]]:
    """Of each caption, how many digits it names, and whether that is one, and right."""
    settings = CaptionSettings(
        per_image=10, policy="all", text_keys=(), sidecar=str(sidecar), sidecar_keys=(SIDECAR_COLUMN,)
    )
    reader = CaptionReader(settings)
    for sample in read_samples([str(tar)], HELD_OUT):
        right = NAMES[int(sample["cls"])]
        for caption in reader.row(sample).captions:
            names = [word for word in re.findall(r"\w+", caption) if word in NAMES]
            yield len(names), names == [right]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/caption_digits.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("digits-captioner"), help="(default: digits-captioner)")
    parser.add_argument("--steps", type=int, default=600, help="of training (default: 600)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
