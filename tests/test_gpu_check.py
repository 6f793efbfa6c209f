"""The command that is run where a GPU is, on a CPU: its parts, its limits, its page."""

import importlib
import itertools
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")


@pytest.fixture
def scripts(monkeypatch):
    """A module of scripts/ by its name."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module


def test_errors_are_those_against_all_of_float64(scripts, monkeypatch):
    losses, exact, bench = (scripts(name) for name in ("gpu.losses", "gpu.exact", "bench.losses"))
    monkeypatch.setattr(exact, "SUBSET", 4)
    monkeypatch.setattr(exact, "TILE", 64)
    for k in (1, 3):
        inputs = bench.random_inputs(9, k, 6, CPU)
        double = [x.detach().double().requires_grad_() for x in inputs]
        steps = losses.losses(k, CPU)
        assert {"FFF dense", "FFF tiled", "softmax tiled"} < set(steps)
        for name, step in steps.items():
            if not (kind := losses.objective(name, k)):
                continue
            truth = exact.exact(kind, inputs)
            single = max(exact.errors(*bench.forward_backward(step, inputs), truth).values())
            if "bf16" in name:  # takes no float64
                assert 1e-5 < single < 1e-2, name
                continue
            value, gradients = bench.forward_backward(step, double)
            assert max(exact.errors(value, gradients, truth).values()) < 1e-12, name
            assert len(truth.image) == len(truth.text) == 4
            assert 0 < single < 1e-6, name


def test_what_does_not_fit_is_said(scripts, monkeypatch):
    losses, page, bench = (scripts(name) for name in ("gpu.losses", "gpu.page", "bench.losses"))

    def too_large(*_: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    tiled, calls = losses.losses(1, CPU)["FFF tiled"], itertools.count()

    def fits_once(*inputs: torch.Tensor) -> torch.Tensor:
        return too_large() if next(calls) else tiled(*inputs)

    steps = {"FFF dense": too_large, "softmax dense": fits_once, "FFF tiled": tiled}
    rows = losses.of_batch(steps, bench.random_inputs(4, 1, 4, CPU))
    assert rows["FFF dense"] == rows["softmax dense"] == {"note": "out of memory"} and rows["FFF tiled"]["ms"] > 0
    monkeypatch.setattr(losses, "SECONDS", -1.0)
    kept: list[list[dict]] = []
    losses.measure(CPU, kept.append)
    assert len(kept[-1]) == 8 and {row["note"] for row in kept[-1]} == {"no time left"}
    measured = [{"loss": name, "images": 4, "captions": 1, "features": "float32", **row} for name, row in rows.items()]
    text = page.losses(measured + kept[-1])
    assert "| FFF dense | out of memory | no time left | no time left | – | – |" in text


def test_a_command_is_ended_at_its_limit_and_its_fault_named(scripts, tmp_path):
    running, said = scripts("gpu.running"), []
    run = partial(running.run, log=tmp_path / "log", environment=dict(os.environ), say=said.append)
    child = tmp_path / "child"
    late = run(["bash", "-c", f"sleep 60 & echo $! >{child}; echo '> on'; echo no; wait"], limit=0.5)
    assert late.fault == "ended after its limit of 0.5 s" and late.seconds < 5 and said == ["on"]
    for _ in range(50):  # what it started ends, too
        state = Path(f"/proc/{child.read_text().strip()}/stat")
        if not state.exists() or ") Z " in state.read_text():
            break
        time.sleep(0.1)
    else:
        raise AssertionError("its child is alive")
    assert run(["bash", "-c", "echo last; exit 3"], limit=9).fault == "exit code 3: last"
    assert run(["true"], limit=9).fault is None
    assert (tmp_path / "log").read_text().endswith("last\n$ true\n")


@pytest.mark.slow
def test_the_command_measures_and_names_the_part_that_failed(scripts, tmp_path, monkeypatch, capsys):
    check, losses, page = (scripts(name) for name in ("gpu_check", "gpu.losses", "gpu.page"))
    assert sum(check.LIMITS.values()) <= 8 * 60
    monkeypatch.setitem(check.LIMITS, "ranks", 0.3)
    assert check.main(["--device", "cpu", "--out", str(tmp_path), "--only", "ranks", "half_mining", "step_parts"]) == 1
    printed = capsys.readouterr().out
    assert printed.endswith("\nfailed: ranks\n") and "half_mining: passed" in printed
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["parts"]["ranks"]["fault"] == "ended after its limit of 0.3 s"
    mined = found["parts"]["half_mining"]["figures"]["rows"]
    assert len(mined) == 6 and all(row["mined"] > 0 and row["differ"] <= row["mined"] for row in mined)
    parts = found["parts"]["step_parts"]["figures"]["rows"]
    assert all(row["ms"] > 0 for row in parts) and len({row["text_tokens"] for row in parts}) > 2
    assert "| one pass | " in (tmp_path / "gpu.md").read_text()
    assert "means anything" in (tmp_path / "gpu.md").read_text()

    def keep(rows: list[dict]) -> None:
        found["parts"]["losses"] = {"fault": None, "seconds": 1.0, "figures": json.loads(json.dumps(rows))}

    monkeypatch.setattr(losses, "SIZES", {"cpu": [6, 8]})
    losses.measure(CPU, keep)
    rows = found["parts"]["losses"]["figures"]
    assert {(row["images"], row["captions"], row["features"]) for row in rows} == {
        (n, k, name) for n in (6, 8) for k in (1, 5) for name in ("float32", "bfloat16")
    }
    assert all(row["ms"] > 0 and row["peak_mib"] > 0 for row in rows)
    rows.append(
        {"loss": "siglip-kernel", "images": 8, "captions": 5, "features": "float32", "ms": 1e9, "peak_mib": 1.0}
    )
    text = page.page(found)
    assert "\n| K = 5, float32 | N = 6 | N = 8 | error: value | gradient |\n" in text and "0.00 times as long" in text


@pytest.mark.slow
def test_without_a_gpu_it_says_so():
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    command = ["bash", str(ROOT / "scripts" / "gpu_check.sh")]
    done = subprocess.run(
        command, env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and "--device cpu tries the command" in done.stderr
