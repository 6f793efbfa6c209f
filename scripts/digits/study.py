"""What studies on the scanned digits, or on one's own data, share: flags, scores, tables with a spread over seeds."""

import argparse
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from digits.runs import Run, Trainer, words
from open_clip_fff.hub.training_flags import split_at_dashes

DIGITS = Path(os.path.relpath(Path(__file__).parent)) / "digits-vit.json"
RECALL = "all_captions_{}_R@{}"
DIRECTIONS = {"i>t": "image_to_text", "t>i": "text_to_image"}


def parsed(parser: argparse.ArgumentParser, seeds: int) -> tuple[argparse.Namespace, list[str]]:
    """Adds the flags that studies share, and parses.

    What stands behind `--` goes to every run; without it, `digits` is true.
    """
    parser.add_argument("--out", type=Path, required=True, help="folder for runs, tables and plot")
    parser.add_argument("--seeds", type=int, default=seeds, help=f"runs per row (default: {seeds})")
    parser.add_argument("--epochs", type=int, default=24, help="of each run (default: 24)")
    parser.add_argument("--captions", type=int, default=5, help="K (default: 5)")
    here, behind = split_at_dashes(sys.argv[1:])
    arguments = parser.parse_args(here)
    arguments.digits = not behind
    return arguments, behind


def shared_flags(arguments: argparse.Namespace, behind: list[str]) -> list[str]:
    """What all runs have in common; writes the digits where they are trained on."""
    flags = {
        "--logs": arguments.out / "logs",
        "--epochs": arguments.epochs,
        "--save-frequency": arguments.epochs,
        "--captions-per-image": arguments.captions,
        "--val-frequency": arguments.epochs,
    }
    return [*(behind or digits(arguments.out / "data")), *words(flags)]


def digits(data: Path) -> list[str]:
    """Writes the digits, the class beside each image, and gives the flags that train on them."""
    from digits.shards import SHARDS, TRAINING, write_shards

    if not (data / "classnames.txt").exists():
        print(write_shards(data, 0, classes=True))
    flags = {
        "--train-data": f"{data}/train-{{00000..{SHARDS - 1:05d}}}.tar",
        "--train-num-samples": TRAINING,
        "--val-data": f"{data}/test/0.tar",
        "--val-num-samples": 389,
        "--dataset-type": "webdataset",
        "--json-text-key": "captions",
        "--model-config": DIGITS,
        "--model": DIGITS.stem,
        "--batch-size": 128,
        "--lr": 2e-3,
        "--warmup": 22,
        "--wd": 0.1,
        "--device": "cpu",
        "--precision": "fp32",
        "--workers": 1,
        "--log-every-n-steps": 11,
    }
    return words(flags)


def checkpoint(run: Path, epoch: int) -> Path:
    """The last checkpoint of a run."""
    return run / "checkpoints" / f"epoch_{epoch}.pt"


def value(flags: list[str], flag: str) -> str:
    """What stands behind a flag."""
    return flags[flags.index(flag) + 1]


def train_all(trainer: Trainer, runs: Iterable[Run], epochs: int) -> None:
    """Trains those that are not finished, and returns when all are. Raises RunFailed if any run failed."""
    todo = [run for run in runs if not checkpoint(trainer.logs / run.name, epochs).exists()]
    for run in todo:
        trainer.start(run)
    for run in todo:
        trainer.wait(run)


def scores(run: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Recall with all captions of an image, in percent; on the digits also zero-shot accuracy."""
    last = json.loads((run / "checkpoints" / "fff_results.jsonl").read_text().splitlines()[-1])
    found = {f"{short} R@{k}": 100 * last[RECALL.format(name, k)] for short, name in DIRECTIONS.items() for k in (1, 5)}
    if arguments.digits:
        found = {"top-1": 100 * accuracy(run, arguments.epochs, arguments.out / "data"), **found}
    return found


def accuracy(run: Path, epochs: int, data: Path) -> float:
    """Zero-shot top-1 of the last checkpoint on the held-out digits."""
    from digits.score import Scorer, load

    model, prepare = load(DIGITS, checkpoint(run, epochs))
    scorer = Scorer(DIGITS, data)
    return scorer.top1(scorer.classify(model, scorer.images(prepare)))


def tables(results: pd.DataFrame, keys: list[str], out: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Writes OUT/runs.csv, table.csv and table.md, and prints the last; mean and spread over seeds by `keys`."""
    results.to_csv(out / "runs.csv", index=False)
    groups = results.drop(columns="seed").groupby(keys, sort=False)
    mean, spread = groups.mean(), groups.std()
    mean.to_csv(out / "table.csv")
    shown = with_spread(mean, spread, groups.size())
    (out / "table.md").write_text(markdown(shown))
    print(shown.to_string(index=False))
    return mean, spread


def with_spread(mean: pd.DataFrame, spread: pd.DataFrame, seeds: pd.Series) -> pd.DataFrame:
    """Means with their standard deviations as text, keys and the number of seeds in front."""
    shown = mean.copy().astype(object)
    for column in mean:
        shown[column] = [
            "–" if pd.isna(m) else f"{m:.1f}" + ("" if pd.isna(s) else f" ± {s:.1f}")
            for m, s in zip(mean[column], spread[column], strict=True)
        ]
    shown.insert(0, "seeds", seeds.astype(str))
    return shown.reset_index()


def markdown(shown: pd.DataFrame) -> str:
    """A table in Markdown."""
    lines = [list(shown.columns), ["---"] * len(shown.columns), *shown.values.tolist()]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
