"""What grouped mini-batches do, by the size of the search space, alone and with what is said to make them safe.

    python scripts/compare_grouping.py --out study                       # scikit-learn's scanned digits
    python scripts/compare_grouping.py --out study --discriminator blip:DIR -- --train-data ...   # your own

All runs have the same steps, and one caption of K per image is drawn at each visit. `softmax` is CLIP; `s-itc` smooths
its targets; `discriminator` converts what one calls a match, with and without smoothing (on the digits, a small
BLIP that is trained here first, from random weights; else --discriminator's); `mined` lets FFF's Eq. 1 find false
negatives with the features of a frozen model, the plain CLIP of seed 0, whose steps come on top. Runs that are finished
are not run again.

Writes OUT/runs.csv (a line per run), OUT/table.csv, OUT/table.md (mean and spread over seeds) and OUT/grouping.png.
"""

import argparse
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # two trainings run side by side, a core each

import matplotlib
import pandas as pd
from digits.runs import Run, RunFailed, Trainer, command
from digits.study import DIRECTIONS, checkpoint, parsed, scores, shared_flags, tables, train_all, value

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(os.path.relpath(Path(__file__).parent))
METHODS = {
    "softmax": ("--loss", "softmax"),
    "s-itc": ("--loss", "s-itc"),
    "softmax + discriminator": ("--loss", "softmax"),
    "s-itc + discriminator": ("--loss", "s-itc"),
    "softmax + mined": ("--loss", "softmax", "--mining-features", "frozen"),
    "fff + mined": ("--method", "fff", "--mining-features", "frozen"),
}
PLAIN = "softmax-0-0"
TRUE = r"(?:truly|Hardest of one class:) ([\d.]+)%"
LOGGED = {
    "called false %": r"False negatives: ([\d.]+)%",
    "right %": r"right ([\d.]+)%",
    "missed %": r"missed ([\d.]+)%",
}


@dataclass(frozen=True)
class Row:
    """One combination; its runs differ in the seed."""

    method: str
    space: int  # 0 for random mini-batches

    def run(self, seed: int, arguments: argparse.Namespace, teacher: list[str]) -> Run:
        """Its training with one seed."""
        flags = [*METHODS[self.method], "--caption-policy", "sample", "--seed", str(seed)]
        if self.space:
            flags += ["--batch-hooks", "grit", "--group-search-space", str(self.space)]
        scored = "discriminator" in self.method
        if scored:
            flags += ["--discriminator", arguments.discriminator]
            flags += ["--discriminator-cache", str(arguments.out / "scores")]
        if "mined" in self.method:
            flags += [*teacher, "--mined-per-image", f"{arguments.mined:g}"]
        if arguments.digits and (scored or self.space or "mined" in self.method):
            flags += ["--class-key", "cls"]
        return Run(
            re.sub(r"\W+", "-", f"{self.method}-{self.space}-{seed}"), f"{self.method}, {self.space}", tuple(flags)
        )


def main() -> None:
    """The study, top to bottom."""
    arguments, behind = parse()
    logs, shared, results = arguments.out / "logs", shared_flags(arguments, behind), []
    if "discriminator" in " ".join(arguments.methods) and not arguments.discriminator:
        arguments.discriminator = digits_discriminator(arguments.out / "discriminator", shared)
    rows = [Row(method, space) for method in arguments.methods for space in arguments.spaces]
    teacher = ["--mining-model", value(shared, "--model"), "--mining-pretrained"]
    teacher += [str(checkpoint(logs / PLAIN, arguments.epochs))]
    with Trainer(shared, logs, arguments.epochs) as trainer:
        runs = {(row, seed): row.run(seed, arguments, teacher) for seed in range(arguments.seeds) for row in rows}
        first = [Row("softmax", 0).run(0, arguments, teacher)] if "mined" in " ".join(arguments.methods) else []
        for todo in (first, runs.values()):
            train_all(trainer, todo, arguments.epochs)
    for (row, seed), run in runs.items():
        seen = logged(logs / run.name / "out.log")
        results.append({**vars(row), "seed": seed, **scores(logs / run.name, arguments), **seen})
    report(pd.DataFrame(results), arguments.out)


def parse() -> tuple[argparse.Namespace, list[str]]:
    """The command line; what stands behind `--` goes to every run."""
    parser = argparse.ArgumentParser(prog="compare_grouping.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mined", type=float, default=4, help="captions per image to mine, K of them one (default: 4)")
    parser.add_argument("--discriminator", metavar="KIND:NAME", help="(default: none, and no rows with one)")
    parser.add_argument("--spaces", type=int, nargs="+", default=[0, 256, 640, 1280], help="S; 0 for random batches")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    arguments, behind = parsed(parser, seeds=3)
    if arguments.discriminator is None and not arguments.digits:
        arguments.methods = [method for method in arguments.methods if "discriminator" not in method]
    return arguments, behind


def digits_discriminator(folder: Path, shared: list[str]) -> str:
    """Trains a small BLIP on the digits' captions, and gives its name for --discriminator."""
    if not folder.exists():
        command(
            *("train-discriminator", "--from-config", HERE / "digits" / "discriminator.json", "--out", folder),
            *("--train-data", value(shared, "--train-data"), "--text-key", "", "--json-text-key", "captions"),
            *("--steps", 1500, "--batch-size", 64, "--lr", 3e-3, "--hard-negatives", 0),
        )
    return f"blip:{folder}"


def logged(log: Path) -> dict[str, float]:
    """Means over the second half of a run, in percent: of the hardest negatives and of their match labels."""
    lines = [line for line in log.read_text().splitlines() if "FFF Epoch" in line]
    late = "\n".join(lines[len(lines) // 2 :])
    found = {name: re.findall(pattern, late) for name, pattern in {"truly false %": TRUE, **LOGGED}.items()}
    return {name: sum(map(float, shares)) / len(shares) for name, shares in found.items() if shares}


def report(results: pd.DataFrame, out: Path) -> None:
    """The tables and the plot."""
    mean, spread = tables(results, ["method", "space"], out)
    draw(mean.reset_index(), spread.reset_index(), out / "grouping.png")
    print(f"\nmean ± standard deviation over seeds. Written: {out}/runs.csv, table.csv, table.md, grouping.png")


def draw(mean: pd.DataFrame, spread: pd.DataFrame, path: Path) -> None:
    """Scores and false negatives against the search space, a line per method."""
    wanted = ["top-1", *(f"{way} R@5" for way in DIRECTIONS), "truly false %", "called false %"]
    columns = [column for column in wanted if column in mean]
    figure, axes = plt.subplots(1, len(columns), figsize=(3.6 * len(columns), 3.4), layout="constrained", squeeze=False)
    for axis, column in zip(axes[0], columns, strict=True):
        for number, method in enumerate(METHODS):
            rows = mean["method"] == method
            if mean.loc[rows, column].notna().any():
                error = spread.loc[rows, column]
                place = mean.loc[rows, "space"]
                axis.errorbar(place, mean.loc[rows, column], error, label=method, color=f"C{number}", marker="o", ms=4)
        axis.set(title=column if column.endswith("%") else f"{column}, %", xlabel="search space S (0: random)")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize="small")
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    try:
        main()
    except RunFailed as error:
        sys.exit(f"compare_grouping.py: error: {error}")
