"""The quickstart, with few steps: every stage of it, from the data to stock OpenCLIP."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_every_stage_of_the_quickstart(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "scripts/quickstart.py", "--out", str(out), "--epochs", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "logits differ by" in done.stdout
    table = pd.read_csv(out / "table.csv")
    assert list(table["steps"]) == [22] * 5 and list(table["teacher_steps"]) == [0, 0, 0, 22, 22]
    assert (table["zero_shot_top1"].between(0, 1)).all() and (table["mined_per_image"].dropna() > 0).all()
    assert (out / "accuracy.png").stat().st_size > 10_000 and (out / "fff-model" / "open_clip_config.json").exists()
    # a second start loses nothing
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert again.returncode != 0 and "--fresh" in again.stderr and (out / "table.csv").exists()
