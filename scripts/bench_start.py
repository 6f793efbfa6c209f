"""How long a run takes to its first step, and an epoch to its first: ours beside stock OpenCLIP.

    python scripts/bench_start.py --out start.csv

Runs of three short epochs of a tiny model on the same tars, each a process of its own, in turns: `stock` is
`open_clip_train.main`; the others are `open_clip_fff.train` with the same flags, and with some of ours.

`start` is the time from the process's start to the end of the first step, `epoch` that from the last step of an epoch
to the end of the next one's first; `cpu` is the main process's processor time, which other load on the machine hardly
affects, `whole_cpu` that of the run with its workers and its end. Ratios are medians over rounds of a candidate over
stock in the same round. Writes a CSV, and prints it.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from bench.models import tiny
from bench.processor import processor_seconds
from bench.shards import K, made_shards
from bench.turns import in_turns, median_ratio

BATCH, STEPS, EPOCHS = 16, 4, 3
STOCK = "stock"
FFF = ["--method", "fff-softmax", "--mining-features", "off", "--captions-per-image"]
CANDIDATES = {
    STOCK: [],
    "no flag of ours": [],
    "fff-softmax, K=1": [*FFF, "1"],
    f"fff-softmax, K={K}": [*FFF, str(K), "--text-key", "", "--json-text-key", "captions"],
}
MEASURES = ("start", "start_cpu", "epoch", "epoch_cpu", "whole_cpu")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    arguments = parse(argv)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "tiny-start.json"
        config.write_text(json.dumps(tiny(32, layers=1, context=32)))
        shards = made_shards(Path(folder), arguments.rows)
        for workers in arguments.workers:
            flags = [
                *("--model", config.stem, "--train-data", shards, "--dataset-type", "webdataset"),
                *("--train-num-samples", str(BATCH * STEPS), "--batch-size", str(BATCH), "--epochs", str(EPOCHS)),
                *("--workers", str(workers), "--save-frequency", "0", "--logs", f"{folder}/logs", "--device", "cpu"),
                *("--precision", "fp32"),  # a GradScaler leaves first steps out
            ]
            found: dict[str, list[dict[str, float]]] = {name: [] for name in CANDIDATES}
            for name in in_turns(CANDIDATES, arguments.rounds):
                found[name].append(measured(name, config, [*flags, *CANDIDATES[name]]))
            rows += [{"workers": workers, "run": name, **row(found[name], found[STOCK])} for name in CANDIDATES]
    table = pd.DataFrame(rows)
    table.to_csv(arguments.out, index=False)
    print(table.to_string(index=False, float_format="{:.2f}".format))
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench_start.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("bench-start.csv"), help="the CSV")
    parser.add_argument("--rows", type=int, default=1024, help="of the two shards (default: 1024)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1], help="loader workers (default: 0 1)")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median is taken (default: 5)")
    return parser.parse_args(argv)


def measured(name: str, config: Path, flags: list[str]) -> dict[str, float]:
    """One run."""
    who = STOCK if name == STOCK else "ours"
    before, began = processor_seconds(), time.perf_counter()
    command = [sys.executable, str(Path(__file__).parent / "bench" / "first_steps.py"), who, str(began), str(config)]
    run = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=300)
    ends = json.loads(run.stdout.splitlines()[-1]) if run.returncode == 0 else []
    if len(ends) != STEPS * EPOCHS:
        raise RuntimeError(f"{name} ended with {run.returncode}: {run.stdout[-500:]}{run.stderr[-2000:]}")
    gaps = [[later - earlier for earlier, later in zip(*ends[n - 1 : n + 1], strict=True)] for n in (STEPS, 2 * STEPS)]
    epoch, epoch_cpu = map(statistics.mean, zip(*gaps, strict=True))
    values = (*ends[0], epoch, epoch_cpu, processor_seconds() - before)
    return dict(zip(MEASURES, values, strict=True))


def row(found: list[dict[str, float]], stock: list[dict[str, float]]) -> dict[str, float]:
    """Medians, and those of ratios to stock."""
    made = {name: statistics.median(each[name] for each in found) for name in MEASURES}
    ratios = {
        f"{name}/stock": median_ratio(*([each[name] for each in runs] for runs in (found, stock))) for name in MEASURES
    }
    return {**made, **ratios}


if __name__ == "__main__":
    sys.exit(main())
