"""Times the alternating walk that orders a search space: to the nearest, to a quantile, and as a plain loop.

    python scripts/bench_walk.py --out walk.csv

Interleaved on one thread, as in a loader worker: each round times both walks once, and seconds are the median over
rounds. The plain loop (`open_clip_fff/grouping/reference.py`) is timed once, after them, up to --loop-up-to samples: it
takes a minute at 1,920. Features are random pairs; the time does not depend on them.

Writes a CSV with a row for each size and variant, and prints it.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from bench.turns import seconds_in_turns
from torch import Tensor

from open_clip_fff import alternating_walk
from open_clip_fff.grouping import reference

LOOP = "plain loop"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=Path("bench-walk.csv"), help="the CSV")
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1920, 5000], metavar="S", help="samples")
    parser.add_argument("--dim", type=int, default=512, metavar="D", help="of the features")
    parser.add_argument("--quantile", type=float, default=0.9, help="of the second walk")
    parser.add_argument("--rounds", type=int, default=7, help="how often each walk is timed")
    parser.add_argument("--loop-up-to", type=int, default=1920, metavar="S", help="the largest size of the plain loop")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows: list[dict] = []
    for size in arguments.sizes:
        image = torch.randn(size, arguments.dim)
        text = image + torch.randn(size, arguments.dim)
        seconds = compare(image, text, arguments)
        nearest = statistics.median(seconds["nearest"])
        for name, times in seconds.items():
            middle = statistics.median(times)
            rows.append({"S": size, "D": arguments.dim, "variant": name, "s": middle, "x nearest": middle / nearest})
        table = pd.DataFrame(rows)
        table.to_csv(arguments.out, index=False)
    print(table.to_string(index=False, float_format="{:.3f}".format))


def compare(image: Tensor, text: Tensor, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of every variant on the same features; the first round warms up and is not counted."""
    walks: dict[str, Callable[[], object]] = {
        "nearest": lambda: alternating_walk(image, text),
        f"quantile {arguments.quantile:g}": lambda: alternating_walk(image, text, quantile=arguments.quantile),
    }
    seconds_in_turns(walks, 1)
    seconds = seconds_in_turns(walks, arguments.rounds)
    if len(image) <= arguments.loop_up_to:
        loop = partial(reference.alternating_walk, image.tolist(), text.tolist())
        seconds |= seconds_in_turns({LOOP: loop}, 1)
    return seconds


if __name__ == "__main__":
    main()
