"""Which features should mine, and which captions should be in the batch? Trains all combinations, and compares them.

    python scripts/compare_features.py --out study                       # scikit-learn's scanned digits
    python scripts/compare_features.py --out study -- --train-data ...   # your own, by the flags of training

All runs have the same steps. They mine the same number of captions per image, whatever the features, since
`--mined-per-image` finds the thresholds; but for two rows with loose thresholds by number, which show what the guard of
self-mining is for. The frozen model is CLIP trained on one of K captions. Runs that are finished are not run again,
and the tables hold all that are there: more seeds for some rows come from a second start with fewer rows.

Writes OUT/runs.csv (a line per run), OUT/table.csv, OUT/table.md (mean and spread over seeds) and OUT/features.png.
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
from digits.runs import Run, RunFailed, Trainer
from digits.study import checkpoint, parsed, scores, shared_flags, tables, train_all, value

from open_clip_fff.evaluation.compare.plots import line_style

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TEACHER = "teacher"
TEXT_ALONE = ("--p1", "off", "--p2", "off", "--p1-prime", "off")
LOOSE = ("--p1", "0.6", "--p2", "0.85", "--p3", "0.95", "--p1-prime", "0.2")  # far too low for the digits' first steps
SELF = ("--mining-warmup", "{warmup}")
FEATURES = {
    "off": ("--mining-features", "off"),
    "frozen": ("--mining-features", "frozen"),
    "frozen, text alone": ("--mining-features", "frozen", *TEXT_ALONE),
    "ema": ("--mining-features", "ema", "--ema-decay", "0.99", *SELF),
    "online": ("--mining-features", "online", *SELF),
    "online, loose": ("--mining-features", "online", *SELF, *LOOSE),
    "online, loose, no guard": ("--mining-features", "online", "--no-mining-guard", *SELF, *LOOSE),
}
POLICIES = ("all", "sample", "first")
SEEDS = 10  # that are looked for
CURVES = {"mined": "mined captions per image", "right": "% of them of the right class"}


@dataclass(frozen=True)
class Row:
    """One combination; its runs differ in the seed."""

    loss: str
    features: str
    policy: str

    def run(self, seed: int, arguments: argparse.Namespace, teacher: list[str]) -> Run:
        """Its training with one seed."""
        flags = [word.format(warmup=arguments.warmup) for word in FEATURES[self.features]]
        if self.features != "off":
            # with one caption per image in the batch, there are K times fewer to find
            rate = arguments.mined / (1 if self.policy == "all" else arguments.captions)
            flags += [] if "loose" in self.features else ["--mined-per-image", f"{rate:g}"]
            flags += ["--class-key", "cls"] if arguments.digits else []
        if self.features.startswith("frozen"):
            flags += teacher
        name = re.sub(r"\W+", "-", f"{self.loss}-{self.features}-{self.policy}-{seed}")
        flags += ["--method", self.loss, "--caption-policy", self.policy, "--seed", str(seed)]
        return Run(name, f"{self.loss}, {self.features}, {self.policy}", tuple(flags))


def main() -> None:
    """The study, top to bottom."""
    arguments, behind = parse()
    logs, shared, results = arguments.out / "logs", shared_flags(arguments, behind), []
    rows = [
        Row(loss, features, policy)
        for loss in arguments.losses
        for policy in arguments.policies
        for features in arguments.features
    ]
    with Trainer(shared, logs, arguments.epochs) as trainer:
        one_of_k = Run(TEACHER, "CLIP, one of K drawn", ("--method", "clip", "--caption-policy", "sample"))
        train_all(trainer, [one_of_k], arguments.epochs)
        teacher = ["--mining-model", value(shared, "--model")]
        teacher += ["--mining-pretrained", str(checkpoint(logs / TEACHER, arguments.epochs))]
        runs = {(row, seed): row.run(seed, arguments, teacher) for seed in range(arguments.seeds) for row in rows}
        train_all(trainer, runs.values(), arguments.epochs)
    for row in rows:
        for seed in range(SEEDS):
            run = logs / row.run(seed, arguments, teacher).name
            if checkpoint(run, arguments.epochs).exists():
                curve = read_log(run / "out.log")
                results.append({**vars(row), "seed": seed, **scores(run, arguments), **means(curve)})
    report(pd.DataFrame(results), {row: read_log(logs / runs[row, 0].name / "out.log") for row in rows}, arguments.out)


def parse() -> tuple[argparse.Namespace, list[str]]:
    """The command line; what stands behind `--` goes to every run."""
    parser = argparse.ArgumentParser(prog="compare_features.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--warmup", type=int, default=66, help="steps before ema and online mine (default: 66)")
    parser.add_argument("--mined", type=float, default=20, help="captions per image to mine (default: 20)")
    parser.add_argument("--losses", nargs="+", default=["fff", "fff-softmax"], choices=["fff", "fff-softmax"])
    parser.add_argument("--features", nargs="+", default=list(FEATURES), choices=list(FEATURES))
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), choices=list(POLICIES))
    return parsed(parser, seeds=1)


def read_log(log: Path) -> pd.DataFrame:
    """Step, mined captions per image and, where the class is known, the share of right ones."""
    line = r"FFF Epoch: \d+ Step: (\d+) Mined/image: ([\d.]+) \(.*?\)(?: Right: ([\d.]+)%)?"
    found = re.findall(line, log.read_text())
    return pd.DataFrame(
        [(int(step), float(mined), float(right) if right else None) for step, mined, right in found],
        columns=["step", "mined", "right"],
    )


def means(curve: pd.DataFrame) -> dict[str, float | None]:
    """Mined per image, the mean since the first was; right ones, of those mined in the last quarter of the run."""
    since = curve[curve["step"] >= curve["step"].where(curve["mined"] > 0).min()]
    last = curve[curve["step"] >= 0.75 * curve["step"].max()].dropna()
    right = (last["right"] * last["mined"]).sum() / last["mined"].sum() if last["mined"].sum() else None
    return {"mined/image": since["mined"].mean() if len(since) else 0.0, "right %": right}


def report(results: pd.DataFrame, curves: dict[Row, pd.DataFrame], out: Path) -> None:
    """The tables and the plot."""
    tables(results, ["loss", "policy", "features"], out)
    draw(curves, out / "features.png")
    print(f"\nmean ± standard deviation over seeds. Written: {out}/runs.csv, table.csv, table.md, features.png")


def draw(curves: dict[Row, pd.DataFrame], path: Path) -> None:
    """Mined captions and the share of right ones over steps, a row of panels for each loss and policy."""
    panels = list(dict.fromkeys((row.loss, row.policy) for row in curves))
    figure, axes = plt.subplots(len(panels), 2, figsize=(10, 2.6 * len(panels)), layout="constrained", squeeze=False)
    for line, panel in zip(axes, panels, strict=True):
        for axis, column, title in zip(
            line, ("mined", "right"), ("mined captions per image", "% of right class"), strict=True
        ):
            for number, features in enumerate(FEATURES):
                curve = curves.get(Row(panel[0], features, panel[1]))
                if curve is not None and features != "off" and curve[column].notna().any():
                    look = line_style(number, len(FEATURES))
                    axis.plot(curve["step"] + 1, curve[column], label=features, color=f"C{number}", **look)
            axis.set(title=f"{panel[0]}, {panel[1]}: {title}", xlabel="steps")
            axis.grid(alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
        line[0].legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    try:
        main()
    except RunFailed as error:
        sys.exit(f"compare_features.py: error: {error}")
