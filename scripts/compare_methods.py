"""Trains stock CLIP, one-of-K CLIP, K in the batch, FFF and its softmax on your own tars, and compares them.

    python scripts/compare_methods.py --out comparison -- --train-data 'data/{00..05}.tar' --train-num-samples 6091 \
        --val-data val.tar --val-num-samples 1000 --json-text-key captions --captions-per-image 5 \
        --model ViT-B-32 --batch-size 256 --epochs 10

What follows `--` goes to every run; all have the same steps. The frozen model that mines is the one-of-K run, so its
steps come on top of those of FFF; its thresholds are found and held. Runs that are finished are not run again.

Writes OUT/steps.csv (loss, rates and recall over steps), OUT/table.csv and OUT/comparison.png.
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import matplotlib
import pandas as pd

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from open_clip_fff.errors import UsageError
from open_clip_fff.evaluation.compare.plots import line_style
from open_clip_fff.hub.checkpoints import find_checkpoint

METHODS = {
    "clip": ("stock CLIP, first caption", ["--method", "clip", "--caption-policy", "first"]),
    "one-of-k": ("CLIP, one of K drawn", ["--method", "clip", "--caption-policy", "sample"]),
    "softmax": ("softmax, K in the batch, none mined", ["--method", "fff-softmax", "--mining-features", "off"]),
    "fff": ("FFF, sigmoid", ["--method", "fff"]),
    "fff-softmax": ("FFF's pairs, softmax", ["--method", "fff-softmax"]),
}
TEACHER = "one-of-k"
FINISHED = "seconds.json"  # in a run's folder
CURVES = {  # column: (TensorBoard tag, title)
    "loss": ("train/loss", "training loss (each its own scale)"),
    "mined_per_image": ("train/mined_per_image", "mined captions per image"),
    "recall": ("val/image_to_text_R@5", "validation R@5, image to text"),
}
ALL_CAPTIONS = ("image_to_text_R@1", "image_to_text_R@5", "text_to_image_R@1", "text_to_image_R@5")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True, help="folder for runs, tables and plot")
    parser.add_argument("--mined-per-image", type=float, default=1.0, help="captions to mine for an image")
    parser.add_argument("--rate", nargs="*", default=[], metavar="METHOD=LR", help="a method's own learning rate")
    arguments, shared = parser.parse_known_args()
    shared = [flag for flag in shared if flag != "--"] + ["--report-to", "tensorboard"]
    for pair in arguments.rate:
        if not re.fullmatch(f"({'|'.join(METHODS)})=.+", pair):
            parser.error(f"--rate {pair}: METHOD=LR, where METHOD is one of {', '.join(METHODS)}")
    rates = dict(pair.split("=") for pair in arguments.rate)
    arguments.out.mkdir(parents=True, exist_ok=True)
    runs = {}
    for name, (_, flags) in METHODS.items():
        mined = ["--mined-per-image", f"{arguments.mined_per_image:g}"] if name.startswith("fff") else []
        runs[name] = [*shared, *flags, *mined, *(["--lr", rates[name]] if name in rates else [])]
        finished = arguments.out / name / FINISHED
        done = json.loads(finished.read_text()) if finished.exists() else {"flags": runs[name]}
        if not isinstance(done, dict) or done["flags"] != runs[name]:  # earlier versions wrote the seconds alone
            raise UsageError(f"{finished}: this run had other flags; delete its folder, or choose another --out")

    curves, rows = [], []
    for name, (label, _) in METHODS.items():
        more = teachers_flags(arguments.out / TEACHER, shared) if name.startswith("fff") else []
        seconds = train(arguments.out, name, runs[name], more)
        curve, recalls = read_curves(arguments.out / name)
        curves.append(curve.assign(method=label))
        rows.append(
            {
                "method": label,
                "steps": int(curve["step"].max()) + 1,
                "seconds": round(seconds),
                "loss": curve["loss"].dropna().iloc[-1],
                "mined/image": curve["mined_per_image"].mean() if "mined_per_image" in curve else 0.0,
                **recalls,
            }
        )
        table = pd.DataFrame(rows)
        table.to_csv(arguments.out / "table.csv", index=False)
        pd.concat(curves).to_csv(arguments.out / "steps.csv", index=False)
        print(table.to_string(index=False, float_format="{:.3f}".format), flush=True)
    draw(pd.concat(curves), arguments.out / "comparison.png")
    print(f"Written: {arguments.out}/table.csv, steps.csv, comparison.png")


def train(out: Path, name: str, flags: list[str], more: list[str]) -> float:
    """One run in a process of its own, unless it is finished already; the seconds it took, kept beside its flags."""
    finished, log = out / name / FINISHED, out / f"{name}.log"
    if not finished.exists():
        command = ["-m", "open_clip_fff.train", *flags, *more, "--logs", str(out), "--name", name]
        print("\n$ python", shlex.join(command), flush=True)
        started = time.monotonic()
        with log.open("w") as file:
            code = subprocess.run([sys.executable, *command], stdout=file, stderr=subprocess.STDOUT).returncode
        if code:
            sys.exit(f"{name} failed; the end of {log}:\n" + "\n".join(log.read_text().splitlines()[-5:]))
        finished.write_text(json.dumps({"seconds": time.monotonic() - started, "flags": flags}))
    return json.loads(finished.read_text())["seconds"]


def teachers_flags(teacher: Path, shared: list[str]) -> list[str]:
    """Flags that mine with the last checkpoint of a run."""
    model = shared[shared.index("--model") + 1]
    return ["--mining-model", model, "--mining-pretrained", str(find_checkpoint(teacher))]


def read_curves(run: Path) -> tuple[pd.DataFrame, dict[str, float]]:
    """What the run logged over its steps, and its last validation."""
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    tags = events.Tags()["scalars"]
    columns = []
    steps = [event.step for event in events.Scalars("train/loss")]
    for column, (tag, _) in CURVES.items():
        if tag not in tags:
            continue
        points = events.Scalars(tag)
        if tag.startswith("val/"):  # OpenCLIP logs validation by epoch
            per_epoch = (max(steps) + 1) // max(point.step for point in points)
            columns.append(pd.Series({point.step * per_epoch - 1: point.value for point in points}, name=column))
        else:
            columns.append(pd.Series({point.step: point.value for point in points}, name=column))
    recalls = {recall: events.Scalars(f"val/{recall}")[-1].value for recall in ALL_CAPTIONS if f"val/{recall}" in tags}
    return pd.concat(columns, axis=1).rename_axis("step").reset_index(), recalls


def draw(curves: pd.DataFrame, path: Path) -> None:
    """One panel per curve, one line per method."""
    shown = {column: title for column, (_, title) in CURVES.items() if column in curves}
    figure, axes = plt.subplots(1, len(shown), figsize=(5 * len(shown), 3.8), layout="constrained")
    for axis, (column, title) in zip(axes, shown.items(), strict=True):
        methods = curves.groupby("method", sort=False)
        for number, (method, curve) in enumerate(methods):
            points = curve.dropna(subset=[column])
            if len(points):
                smooth = points[column] if column == "recall" else points[column].rolling(9, 1, center=True).mean()
                scale = points[column].iloc[0] if column == "loss" else 1.0
                look = line_style(number, len(methods))
                axis.plot(points["step"] + 1, smooth / scale, label=method, color=f"C{number}", **look)
        axis.set(title=title, xlabel="steps")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_title("training loss over its first value")
    axes[-1].legend(frameon=False)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    try:
        main()
    except UsageError as error:
        sys.exit(f"scripts/compare_methods.py: error: {error}")
