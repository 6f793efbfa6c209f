"""What checks cost a healthy run: that of gradients before each step, and our path through OpenCLIP's main.

    python scripts/bench_guard.py --out bench-guard

The guard: OpenCLIP's own loop over one prepared batch, with the guard of `--on-nonfinite` on its optimizer and without,
one step of each in turn. `in the guard` is the time spent in it, over the time of a step without it.

The path: whole runs by `open_clip_train.main`, by `open_clip_fff.train` with no flag of ours, and with `--method clip`,
on the same csv of images, in turn. A run's images per second are those of its median step; `processor time` is the main
process's own, which other load on the machine hardly affects.

Ratios are medians over rounds of a candidate over stock in the same round, so that other load affects all of them
equally. Writes OUT/bench_guard.csv.
"""

import argparse
import io
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import open_clip_train.main as oc_main
import pandas as pd
import torch
from bench.models import SMALL, adamw, build, name_of, open_clip_args, precision_on, tiny
from bench.steps import CLIP, Bench
from bench.turns import in_turns, median_ratio
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_post_hook

from open_clip_fff.devices import or_best
from open_clip_fff.host.nonfinite import StepGuard
from open_clip_fff.hub.loading import add_architectures
from open_clip_fff.train import main as ours

STOCK = "open_clip_train"
PATHS: dict[str, tuple[Callable, list[str]]] = {
    STOCK: (oc_main.main, []),
    "no flag of ours": (ours, []),
    "--method clip": (ours, ["--method", "clip"]),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    arguments = parse(argv)
    logging.disable(logging.WARNING)  # a line per step, and warnings about random weights
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = [guard(arguments, batch) for batch in arguments.batch_sizes]
    with tempfile.TemporaryDirectory() as folder:
        rows += paths(arguments, Path(folder))
    table = pd.DataFrame(rows)
    table.to_csv(arguments.out / "bench_guard.csv", index=False)
    print(table.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.4f}"))
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, with the device's defaults."""
    parser = argparse.ArgumentParser(prog="bench_guard.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("bench-guard"), help="folder (default: bench-guard)")
    parser.add_argument("--model", default=SMALL.stem, metavar="NAME|JSON", help=f"guarded (default: {SMALL.stem})")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 64], metavar="B", help="of guarded steps")
    parser.add_argument("--rounds", type=int, default=7, help="of which the median is taken (default: 7)")
    parser.add_argument("--steps", type=int, default=40, help="of a whole run, 32 images each (default: 40)")
    parser.add_argument("--device", default=or_best(None))
    parser.add_argument("--precision", choices=("fp32", "amp", "amp_bf16"), help="default: fp32, on CUDA amp_bf16")
    arguments = parser.parse_args(argv)
    arguments.precision = precision_on(arguments.device, arguments.precision)
    return arguments


def guard(arguments: argparse.Namespace, batch: int) -> dict[str, Any]:
    """Steps of stock CLIP with the guard over those without it."""
    add_architectures([str(SMALL), *([arguments.model] if arguments.model.endswith(".json") else [])])
    args = open_clip_args(name_of(arguments.model), arguments.device, arguments.precision)
    model = build(args)
    bench = Bench(args, model, [[f"a picture of thing {n}"] for n in range(batch)], [1], [])
    bare, guarded = bench.optimizer, adamw(model, args)
    inside: list[float] = []
    guarded.register_step_pre_hook(lambda *_: inside.append(-now(bench.device)))
    StepGuard("stop").watch(guarded)
    guarded.register_step_pre_hook(lambda *_: inside.append(now(bench.device)))
    seconds: dict[torch.optim.Optimizer, list[float]] = {bare: [], guarded: []}
    for round_ in range(-1, arguments.rounds):  # one to warm up
        for optimizer in (bare, guarded) if round_ % 2 else (guarded, bare):
            bench.optimizer, began = optimizer, time.perf_counter()
            bench.step(bench.candidates[CLIP])
            seconds[optimizer].append(time.perf_counter() - began)
    step = statistics.median(seconds[bare][1:])
    return {
        "candidate": "guarded step",
        "model": args.model,
        "batch": batch,
        "images_per_second": batch / statistics.median(seconds[guarded][1:]),
        "over_stock": median_ratio(seconds[bare][1:], seconds[guarded][1:]),
        "in the guard": statistics.median(map(sum, zip(inside[2::2], inside[3::2], strict=True))) / step,
    }


def now(device: torch.device) -> float:
    """Seconds, after the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def paths(arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A row for each path through OpenCLIP's main."""
    data = csv_of(folder, 32 * arguments.steps)
    config = folder / "tiny-guarded.json"
    config.write_text(json.dumps(tiny(64, layers=2, context=16)))
    add_architectures([str(config)])
    common = [
        *("--model", config.stem, "--train-data", str(data), "--csv-img-key", "image", "--csv-caption-key", "text"),
        *("--csv-separator", ",", "--batch-size", "32", "--epochs", "1", "--workers", "1", "--save-frequency", "0"),
        *("--precision", arguments.precision, "--device", arguments.device, "--logs", str(folder / "logs")),
    ]
    rates: dict[str, list[float]] = {name: [] for name in PATHS}
    processor: dict[str, list[float]] = {name: [] for name in PATHS}
    for number, name in enumerate(in_turns(PATHS, arguments.rounds)):
        begin, flags = PATHS[name]
        clock, own = seconds(begin, [*common, *flags, "--name", str(number)])
        rates[name].append(32 / clock)
        processor[name].append(own)
    return [
        {
            "candidate": name,
            "model": "tiny",
            "batch": 32,
            "images_per_second": statistics.median(rates[name]),
            "over_stock": median_ratio(rates[name], rates[STOCK]),
            "processor time": median_ratio(processor[name], processor[STOCK]),
        }
        for name in PATHS
    ]


def seconds(begin: Callable, argv: list[str]) -> tuple[float, float]:
    """The medians of a run's times from one step's end to the next, and of the processor times."""
    ends: list[tuple[float, float]] = []
    hook = register_optimizer_step_post_hook(lambda *_: ends.append((time.perf_counter(), time.process_time())))
    printed = io.StringIO()
    try:
        with redirect_stdout(printed), redirect_stderr(printed):
            code = begin(argv)
    finally:
        hook.remove()
    if code or len(ends) < 2:
        raise RuntimeError(f"{' '.join(argv)} ended with {code} after {len(ends)} steps: {printed.getvalue()[-500:]}")
    clock, own = (
        statistics.median(later - earlier for earlier, later in pairwise(each)) for each in zip(*ends, strict=True)
    )
    return clock, own


def csv_of(folder: Path, images: int) -> Path:
    """A csv of small JPEGs of noise, 64 of them over and over, and captions."""
    noise = np.random.default_rng(0)
    for number in range(64):
        Image.fromarray(noise.integers(0, 255, (96, 96, 3), dtype=np.uint8)).save(folder / f"{number}.jpg")
    rows = {
        "image": [str(folder / f"{n % 64}.jpg") for n in range(images)],
        "text": [f"thing {n}" for n in range(images)],
    }
    pd.DataFrame(rows).to_csv(folder / "train.csv", index=False)
    return folder / "train.csv"


if __name__ == "__main__":
    sys.exit(main())
