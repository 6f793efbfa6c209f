"""Time and memory of the loss, forward and backward: ours dense and by tiles beside OpenCLIP's, interleaved in one run.

    python scripts/bench_loss.py --out bench-loss --images 512 1024 2048 4096 --captions 1 5

Every figure is a median over rounds in which each candidate runs once, so that other load on the machine affects all of
them equally; compare ratios, not seconds. Memory is the peak without the inputs and one set of their gradients: bytes
of storages on the CPU, the allocator's count on CUDA.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import open_clip
import pandas as pd
import torch
from bench.losses import FUSED, candidates, chunk_parameter, extra_bytes, fused, interleaved_seconds, random_inputs
from bench.turns import median_ratio
from open_clip.loss import SigLipLoss
from tqdm import tqdm

from open_clip_fff.atomic_io import atomic_file
from open_clip_fff.devices import or_best

matplotlib.use("agg")
import matplotlib.pyplot as plt


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    arguments = parse(argv)
    device = torch.device(arguments.device)
    rows = []
    for k in arguments.captions:
        for n in arguments.images:
            measured = measure(n, k, arguments.width, device, arguments.rounds)
            print(for_reading(pd.DataFrame(measured)), flush=True)
            rows += measured
    table = pd.DataFrame(rows)
    arguments.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(arguments.out / "bench_loss.csv", index=False)
    draw(table, arguments.out / "bench_loss.png")
    if chunk_parameter(SigLipLoss) is None:
        print(f"OpenCLIP SigLipLoss, chunked: not in open_clip {open_clip.__version__}")
    print(f"{arguments.out}/ holds bench_loss.csv and bench_loss.png")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench_loss.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("bench-loss"), help="folder (default: bench-loss)")
    parser.add_argument("--images", type=int, nargs="+", default=[512, 1024, 2048], metavar="N", help="batch sizes")
    parser.add_argument("--captions", type=int, nargs="+", default=[1, 5], metavar="K", help="captions per image")
    parser.add_argument("--width", type=int, default=512, metavar="D", help="of the features (default: 512)")
    parser.add_argument("--rounds", type=int, default=7, help="of which the median is taken (default: 7)")
    parser.add_argument("--device", default=or_best(None))
    return parser.parse_args(argv)


def measure(n: int, k: int, width: int, device: torch.device, rounds: int) -> list[dict]:
    """A row per candidate, with ratios to the dense form of it and to OpenCLIP's sigmoid."""
    more, note = fused(device)
    inputs, steps = random_inputs(n, k, width, device), candidates(k) | more
    with tqdm(total=(rounds + 1) * len(steps), desc=f"N={n} K={k}", leave=False, disable=None) as bar:
        seconds = interleaved_seconds(steps, inputs, rounds, bar.update)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    memory = {name: extra_bytes(step, inputs) for name, step in steps.items()}
    rows: list[dict] = []
    for name in steps:
        dense, stock = name.replace("tiled", "dense").replace("triton", "dense"), "OpenCLIP SigLipLoss"
        rows.append(
            {
                "loss": name,
                "images": n,
                "captions": k,
                "width": width,
                "device": device.type,
                "threads": torch.get_num_threads(),
                "seconds": medians[name],
                "extra_mib": memory[name] / 2**20,
                "time_over_dense": median_ratio(seconds[name], seconds[dense]),
                "memory_over_dense": memory[name] / memory[dense],
                "time_over_siglip": medians[name] / medians[stock] if stock in medians else None,
                "memory_over_siglip": memory[name] / memory[stock] if stock in memory else None,
                "note": "",
            }
        )
    same = {name: rows[0][name] for name in ("images", "captions", "width", "device", "threads")}
    return rows + [{"loss": name, **same, "note": note} for name in FUSED if name not in more]


def for_reading(table: pd.DataFrame) -> str:
    """The table of one N and K, as text."""
    styles = {"seconds": "{:.3f}", "extra_mib": "{:,.1f}", "time_over_dense": "{:.2f}", "memory_over_dense": "{:.3f}"}
    shown, formats = table[["loss", "images", "captions", *styles, "note"]], {k: v.format for k, v in styles.items()}
    return shown.to_string(index=False, formatters=formats, na_rep="") + "\n"


def draw(table: pd.DataFrame, path: Path) -> None:
    """Time and memory against N, a column per K."""
    numbers = sorted(table["captions"].unique())
    figure, panels = plt.subplots(
        2, len(numbers), figsize=(4.6 * len(numbers), 6.4), layout="constrained", squeeze=False, sharey="row"
    )
    for column, k in enumerate(numbers):
        for line, (field, label) in enumerate((("seconds", "seconds"), ("extra_mib", "extra memory, MiB"))):
            axes = panels[line][column]
            for name, rows in table[(table["captions"] == k) & table["seconds"].notna()].groupby("loss", sort=False):
                axes.loglog(rows["images"], rows[field], marker="o", markersize=4, label=name, base=2)
            axes.set_yscale("log", base=10)
            axes.set(title=f"K = {k}" if line == 0 else None, xlabel="batch N" if line else None)
            axes.grid(alpha=0.3)
            if column == 0:
                axes.set_ylabel(label)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize="small", frameon=False)
    with atomic_file(path) as file:
        figure.savefig(file, dpi=150, format="png")
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
