"""One process equals two and four: loss, gradients and assignment, mined pairs across ranks included."""

from pathlib import Path

import pytest
import torch

from tests import programs
from tests.once import once

WORKER = Path(__file__).with_name("parity_worker.py")
TOLERANCE = {"torch.float32": 1e-5, "torch.float64": 1e-10}
ROUNDED = 5e-3  # of products of bfloat16: a last bit that differs between ranks may round the other way

pytestmark = pytest.mark.slow


def torchrun(processes: int, *argv: str | Path) -> str:
    """Runs a program on gloo ranks of this machine, and gives what they printed."""
    done = programs.torchrun(processes, *argv)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict]:
    def make(folder: Path) -> None:
        for processes in (1, 2, 4):
            torchrun(processes, WORKER, folder / f"{processes}.pt")

    folder = once(tmp_path_factory, "parity", make)
    return {processes: torch.load(folder / f"{processes}.pt", weights_only=True) for processes in (1, 2, 4)}


@pytest.mark.parametrize("processes", [2, 4])
def test_one_process_equals_many(results, processes):
    for name, one in results[1].items():
        many, tolerance = results[processes][name], ROUNDED if "bf16" in name else TOLERANCE[name.split()[0]]
        assert torch.equal(one["assignment"], many["assignment"]), name
        close = {"rtol": tolerance, "atol": tolerance, "msg": lambda m, name=name: f"{name}: {m}"}
        torch.testing.assert_close(many["loss"], one["loss"], **close)
        torch.testing.assert_close(many["start"], one["start"], **close)
        for parameter, gradient in one["gradients"].items():
            torch.testing.assert_close(many["gradients"][parameter], gradient, **close)


def test_pairs_are_mined_across_ranks(results):
    for processes in (2, 4):
        assert all(r["mined_across_ranks"] > 0 for name, r in results[processes].items() if not name.endswith("own"))
