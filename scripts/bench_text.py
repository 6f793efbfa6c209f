"""Times the text tower's forward and backward: full length, trimmed, equal captions once, in length groups.

    python scripts/bench_text.py --out text.csv --captions-from data/train-00.tar

Interleaved, so that other load on the machine affects all of them: each round times every variant once, and a speed-up
is the median over rounds of full length's time over the variant's in the same round. Captions of 8 to 14 words are
drawn by a seed; `repeated` ones are drawn from 100 different ones, like templates with class names; those of a tar are
its json field `captions`.

Writes a CSV with a row for each source of captions, batch size and variant, and prints it.
"""

import argparse
import random
import statistics
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path

import pandas as pd
import torch
from bench.captions import drawn, of_images, read_captions
from bench.turns import median_ratio, seconds_in_turns
from open_clip import CLIP, SimpleTokenizer
from torch import Tensor

from open_clip_fff.config.text import TextSettings
from open_clip_fff.models.unpadded_text import UnpaddedText

VARIANTS = {
    "full length": TextSettings(trim=False, distinct=False),
    "trimmed": TextSettings(groups=1, distinct=False),
    "trimmed, distinct": TextSettings(groups=1),
    "trimmed, distinct, groups": TextSettings(),
}
IMAGE = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}  # a CLIP needs one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=Path("bench-text.csv"), help="the CSV")
    parser.add_argument("--captions-from", metavar="TAR|JSON", help="real captions (default: none)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 128, 256], metavar="B", help="images")
    parser.add_argument("--captions-per-image", type=int, default=5, metavar="K")
    parser.add_argument("--context", type=int, default=77, metavar="L")
    parser.add_argument("--width", type=int, default=128, help="of the text tower")
    parser.add_argument("--layers", type=int, default=2, help="of the text tower")
    parser.add_argument("--rounds", type=int, default=7, help="how often each is timed")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    text = {"context_length": arguments.context, "width": arguments.width, "layers": arguments.layers}
    model = CLIP(64, IMAGE, {**text, "heads": max(1, arguments.width // 64)}).to(arguments.device).train()
    rows: list[dict] = []
    for source, captions_of in sources(arguments).items():
        for size in arguments.batch_sizes:
            tokens = SimpleTokenizer(context_length=arguments.context)(captions_of(size)).to(arguments.device)
            rows += [{"captions": source, "B": size, **row} for row in compare(model, tokens, arguments.rounds)]
            table = pd.DataFrame(rows)
            table.to_csv(arguments.out, index=False)
    print(table.to_string(index=False, float_format="{:.3f}".format))


def sources(arguments: argparse.Namespace) -> dict[str, Callable[[int], list[str]]]:
    """Sources of captions: functions from B to B*K captions, image after image."""
    draw, k = random.Random(0), arguments.captions_per_image
    repeated = [drawn(draw) for _ in range(100)]
    made = {
        "8-14 words": lambda size: [drawn(draw) for _ in range(size * k)],
        "repeated": lambda size: draw.choices(repeated, k=size * k),
    }
    if arguments.captions_from:
        real = read_captions(arguments.captions_from, k)
        made[Path(arguments.captions_from).stem] = lambda size: [*chain.from_iterable(of_images(real, size, draw))]
    return made


def compare(model: CLIP, tokens: Tensor, rounds: int) -> list[dict]:
    """Every variant on the same captions; the first round warms up and is not counted."""
    towers = {name: UnpaddedText(model, settings) for name, settings in VARIANTS.items()}
    steps = {name: partial(forward_backward, model, tower, tokens) for name, tower in towers.items()}
    seconds_in_turns(steps, 1)
    seconds = seconds_in_turns(steps, rounds)
    full = seconds["full length"]
    return [
        {
            "variant": name,
            **work(tokens, towers[name]),
            "ms": 1000 * statistics.median(times),
            "speed-up": median_ratio(full, times),
        }
        for name, times in seconds.items()
    ]


def work(tokens: Tensor, tower: UnpaddedText) -> dict[str, object]:
    """Rows and lengths of the groups, and the total of tokens."""
    groups = tower.rows(tokens).groups
    shapes = " + ".join(f"{len(group)}x{group.shape[1]}" for group in groups)
    return {"rows x length": shapes, "tokens": sum(group.numel() for group in groups)}


def forward_backward(model: CLIP, tower: UnpaddedText, tokens: Tensor) -> None:
    """Returns once the device has finished."""
    model.zero_grad()
    features = tower(model, partial(model.encode_text, normalize=True), tokens)
    (features * torch.linspace(-1, 1, features.shape[1], device=features.device)).sum().backward()
    if tokens.is_cuda:
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
