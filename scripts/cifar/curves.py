"""How scale and bias go through training, from the logs of one seed's runs to a CSV and a plot."""

import re
from pathlib import Path

import matplotlib
import pandas as pd

from cifar.arms import ARMS
from cifar.runs import read, run_name, write

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SEED = 0
SOFTMAX = "softmax, five"
_TRAINED = re.compile(r"Train Epoch: (\d+) \[ *(\d+)/(\d+) .*Logit Scale: ([\d.]+)")
_BIAS = re.compile(r"FFF Epoch: \d+ Step: (\d+) .*Bias: (-?[\d.]+)")


def collect(data: Path, results: Path) -> None:
    """Writes curves.csv of the runs in runs.csv whose logs are there; rows of others stay as they are."""
    path, found = results / "curves.csv", []
    for row in read(results / "runs.csv").to_dict("records"):
        log = data / "logs" / run_name(row["condition"], row["arm"], row["rate"], row["seed"]) / "out.log"
        if row["seed"] == SEED and log.exists():
            of_run = {name: row[name] for name in ("condition", "arm", "seed")}
            found += [{**of_run, **point} for point in curve(log.read_text(), row["condition"])]
    keys = ["condition", "arm", "seed", "step"]
    write(path, pd.concat([pd.DataFrame(found), read(path)]).drop_duplicates(keys))


def curve(log: str, condition: str) -> list[dict[str, float]]:
    """Scale and bias (where there is one) at each step that was logged."""
    batch, points = int(condition.split("-")[2]), {}
    for epoch, seen, images, scale in _TRAINED.findall(log):
        step = (int(epoch) * int(images) + int(seen)) // batch - 1
        points[step] = {"step": step, "scale": float(scale)}
    for step, bias in _BIAS.findall(log):
        if int(step) in points:
            points[int(step)]["bias"] = float(bias)
    return list(points.values())


def draw(results: Path) -> None:
    """curves.png: scale and bias of each arm of the first condition that has a bias, and of the plain softmax."""
    curves = read(results / "curves.csv")
    if not len(curves):
        return
    condition = curves["condition"].iloc[0]
    curves = curves[curves["condition"] == condition]
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    figure.suptitle(condition, fontsize="small")
    shown = {SOFTMAX, *curves.loc[curves["bias"].notna(), "arm"]}
    arms = [name for name in ARMS if name in shown & set(curves["arm"])]
    for place, arm in enumerate(arms):
        own = curves[curves["arm"] == arm].sort_values("step")
        style = {"color": f"C{place % 10}", "ls": ("-", "--", ":")[place // 10], "lw": 1.3}
        axes[0].plot(own["step"], own["scale"], label=arm, **style)
        if own["bias"].notna().any():
            axes[1].plot(own["step"], own["bias"], **style)
    for axis, title in zip(axes, ("scale s", "bias b"), strict=True):
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize="x-small")
    figure.savefig(results / "curves.png", dpi=130)
