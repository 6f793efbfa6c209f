"""Programs for people, run as they run them, on small data."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parent.parent


def script(*argv: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *map(str, argv)], cwd=ROOT, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
def test_every_stage_of_the_quickstart(tmp_path):
    out = tmp_path / "out"
    command = ["scripts/quickstart.py", "--out", out, "--epochs", "2"]
    done = script(*command)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "logits differ by" in done.stdout
    table = pd.read_csv(out / "table.csv")
    assert list(table["steps"]) == [22] * 6 and list(table["teacher_steps"]) == [0, 0, 0, 0, 22, 22]
    assert (table["zero_shot_top1"].between(0, 1)).all()
    assert list(table["mined_per_image"].dropna() > 10) == [False, True, True]
    assert (out / "accuracy.png").stat().st_size > 10_000 and (out / "fff-model" / "open_clip_config.json").exists()
    # a second start loses nothing
    again = script(*command)
    assert again.returncode != 0 and "--fresh" in again.stderr and (out / "table.csv").exists()


@pytest.mark.slow
def test_methods_are_compared_on_ones_own_tars(trainer, shards, tmp_path):
    out = tmp_path / "comparison"
    data = [*trainer.tars, "--val-data", shards / "00.tar", "--val-num-samples", "16", "--model-config", trainer.config]
    common = trainer.common[: trainer.common.index("--logs")]
    captions = ["--json-text-key", "captions", "--captions-per-image", "4"]
    command = ["scripts/compare_methods.py", "--out", out, "--mined-per-image", "2", "--", *common, *data, *captions]
    done = script(*command)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    table, steps = pd.read_csv(out / "table.csv"), pd.read_csv(out / "steps.csv")
    assert list(table["steps"]) == [4] * 5 and list(table["mined/image"] > 0) == [False, False, False, True, True]
    assert len(steps) == 20 and steps["recall"].notna().sum() == 5
    assert (out / "comparison.png").stat().st_size > 10_000
    # finished runs are not run again
    assert "$ python" not in script(*command).stdout


@pytest.mark.slow
def test_features_are_compared_on_ones_own_tars(trainer, shards, tmp_path):
    out = tmp_path / "study"
    data = [*trainer.tars, "--val-data", shards / "00.tar", "--val-num-samples", "16", "--model-config", trainer.config]
    common = trainer.common[: trainer.common.index("--logs")]
    choice = ["--losses", "fff-softmax", "--policies", "all", "--features", "off", "frozen", "online, loose"]
    more = ["--epochs", "2", "--captions", "4", "--mined", "4", "--warmup", "4"]
    flags = ["--", *common, *data, "--json-text-key", "captions"]
    command = ["scripts/compare_features.py", "--out", out, *choice, *more]
    done = script(*command, *flags)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    table = pd.read_csv(out / "table.csv")
    assert list(table["features"]) == ["off", "frozen", "online, loose"] and table["i>t R@1"].notna().all()
    assert table["mined/image"][0] == 0 and table["mined/image"][1] == pytest.approx(4, rel=0.5)
    assert (out / "features.png").stat().st_size > 10_000
    # finished runs are not run again, and a second seed joins them
    again = script(*command[:3], *choice[:4], "--features", "off", "--seeds", "2", *more, *flags)
    assert again.stdout.count("python -m open_clip_fff.train") == 1
    assert len(pd.read_csv(out / "runs.csv")) == 2
