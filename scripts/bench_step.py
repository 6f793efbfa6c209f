"""A whole training step, images per second and peak memory: FFF with K captions beside stock OpenCLIP with one.

    python scripts/bench_step.py --out bench-step --captions-from data/train-00.tar

A step is OpenCLIP's own loop over one prepared batch: towers, loss, backward, AdamW. Stock CLIP and SigLIP read each
image's first caption at full length, as stock does; FFF reads K captions with the defaults of training, without mining,
mining online (its own features; at random weights the guard rejects all pairs, at the same cost), or with precomputed
features, which are in the batch. All train the same weights.

Interleaved: each round runs every candidate once, and a ratio is the median over rounds of the candidate's images per
second over stock's in the same round. Compare ratios: other load on the machine affects all candidates equally.

Memory is measured in a step of its own: weights, AdamW's moments, the batch, and the peak of all else, that is
activations, gradients, and what loss and optimizer allocate. On CUDA it is the allocator's count, on the CPU the bytes
of storages.

Writes OUT/bench_step.csv (a row per model, captions, batch size and candidate) and OUT/bench_step.png.
"""

import argparse
import gc
import logging
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from bench.captions import sources
from bench.figure import draw_steps
from bench.models import SMALL, build, name_of, open_clip_args, precision_on
from bench.peak import peak_bytes
from bench.steps import CLIP, MINING, SIGLIP, Bench
from bench.turns import seconds_in_turns
from tqdm import tqdm

from open_clip_fff.devices import or_best
from open_clip_fff.hub.loading import add_architectures

LARGE = ["ViT-B-32", "ViT-B-16"]
SHOWN = {
    "candidate": "{}",
    "images_per_second": "{:.1f}",
    "rate_over_clip": "{:.3f}",
    "rate_over_siglip": "{:.3f}",
    "peak_mib": "{:,.0f}",
    "peak_over_clip": "{:.3f}",
    "peak_over_siglip": "{:.3f}",
    "text_tokens": "{:,}",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    arguments = parse(argv)
    logging.disable(logging.WARNING)  # a line per step, and warnings about random weights
    add_architectures([str(SMALL), *(name for name in arguments.model if name.endswith(".json"))])
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict] = []
    for name in arguments.model:
        args = open_clip_args(name_of(name), arguments.device, arguments.precision)
        model = build(args)
        for source, captions_of in sources(arguments.captions_from, max(arguments.captions_per_image)).items():
            for size in arguments.batch_sizes:
                bench = Bench(args, model, captions_of(size), arguments.captions_per_image, arguments.mining)
                rows += measure(bench, source, arguments.rounds)
                table = pd.DataFrame(rows)
                table.to_csv(arguments.out / "bench_step.csv", index=False)
                print(for_reading(table[(table["model"] == args.model) & (table["captions"] == source)]), flush=True)
                draw_steps(table, arguments.out / "bench_step.png")
                del bench  # frees its AdamW
                gc.collect()
    table = pd.DataFrame(rows + missing()).convert_dtypes()  # integers stay integers beside empty cells
    table.to_csv(arguments.out / "bench_step.csv", index=False)
    for row in missing():
        print(f"{row['model']} on a GPU: {row['note']}")
    print(f"{arguments.out}/ holds bench_step.csv and bench_step.png")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, with the device's defaults."""
    parser = argparse.ArgumentParser(prog="bench_step.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("bench-step"), help="folder (default: bench-step)")
    parser.add_argument(
        "--model",
        nargs="+",
        metavar="NAME|JSON",
        help=f"OpenCLIP's architectures (default: {SMALL.stem}, on CUDA {' and '.join(LARGE)})",
    )
    parser.add_argument("--captions-from", metavar="TAR|JSON", help="real captions, too (default: none)")
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", metavar="B", help="images (default: 64, on CUDA 256 and 1024)"
    )
    parser.add_argument("--captions-per-image", type=int, nargs="+", default=[1, 3, 5], metavar="K")
    parser.add_argument("--mining", nargs="+", choices=MINING, default=list(MINING))
    parser.add_argument("--rounds", type=int, default=7, help="of which the median is taken (default: 7)")
    parser.add_argument("--device", default=or_best(None))
    parser.add_argument("--precision", choices=("fp32", "amp", "amp_bf16"), help="default: fp32, on CUDA amp_bf16")
    arguments = parser.parse_args(argv)
    cuda = arguments.device.startswith("cuda")
    arguments.model = arguments.model or (LARGE if cuda else [SMALL.stem])
    arguments.batch_sizes = arguments.batch_sizes or ([256, 1024] if cuda else [64])
    arguments.precision = precision_on(arguments.device, arguments.precision)
    return arguments


def measure(bench: Bench, source: str, rounds: int) -> list[dict]:
    """A row per candidate."""
    candidates = bench.candidates
    bar = tqdm(total=(rounds + 3) * len(candidates), desc=f"{bench.args.model}, {source}", leave=False, disable=None)
    losses = {}
    for name, each in candidates.items():  # the first step warms up, and ends the warm-up of online mining
        bench.step(each)
        losses[name] = bench.loss(each)
        each.mined_per_image()  # count from here on
        bar.update(2)
    steps = {name: partial(bench.step, each) for name, each in candidates.items()}
    seconds = seconds_in_turns(steps, rounds, bar.update)
    peaks = {}
    for name, each in candidates.items():
        peaks[name] = peak_bytes(bench, each)
        bar.update()
    bar.close()

    def ratios(name: str, stock: str) -> list[float]:
        return [theirs / ours for ours, theirs in zip(seconds[name], seconds[stock], strict=True)]

    return [
        {
            "model": bench.args.model,
            "captions": source,
            "batch": len(bench.captions),
            "candidate": name,
            "k": each.k,
            "mining": each.mining,
            "images_per_second": len(bench.captions) / statistics.median(seconds[name]),
            "rate_over_clip": statistics.median(ratios(name, CLIP)),
            "rate_over_siglip": statistics.median(ratios(name, SIGLIP)),
            "rate_low": min(ratios(name, SIGLIP)),
            "rate_high": max(ratios(name, SIGLIP)),
            "peak_mib": peaks[name] / 2**20,
            "peak_over_clip": peaks[name] / peaks[CLIP],
            "peak_over_siglip": peaks[name] / peaks[SIGLIP],
            "text_tokens": each.text_tokens,
            "loss": losses[name],
            "mined_per_image": each.mined_per_image(),
            "rounds": rounds,
            "threads": torch.get_num_threads(),
            "device": device_name(bench.device),
            "precision": bench.args.precision,
        }
        for name, each in candidates.items()
    ]


def device_name(device: torch.device) -> str:
    """The GPU's name, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def missing() -> list[dict]:
    """Rows without figures, for what needs a GPU."""
    if torch.cuda.is_available():
        return []
    return [{"model": name, "device": "cuda", "note": "no GPU here"} for name in LARGE]


def for_reading(table: pd.DataFrame) -> str:
    """Rows of one model and source as text."""
    title = "{model}, captions of {captions}, {device}, {precision}".format(**table.iloc[-1])
    shown = table[["batch", *SHOWN]].to_string(index=False, formatters={x: style.format for x, style in SHOWN.items()})
    return f"\n{title}\n{shown}"


if __name__ == "__main__":
    sys.exit(main())
