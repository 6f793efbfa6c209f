"""A long run holds what it held after its first steps: memory, open files, threads, in the main process and in workers.

`SOAK_STEPS=2000 python -m pytest -s tests/test_soak.py` is the long one, and prints what was held.
"""

import multiprocessing
import os
import re
import threading
from pathlib import Path

import pytest
from torch.optim.optimizer import register_optimizer_step_post_hook

from tests.test_short_epochs import shards

STEPS = int(os.environ.get("SOAK_STEPS", "300"))
SETTLED = min(200, STEPS // 3)  # steps after which nothing may grow
WINDOW = 100  # steps, whose least is taken: garbage comes and goes
EVERY = 20
EPOCH = 20  # steps
GROWTH = {"MiB": 16.0, "files": 4, "threads": 0}  # of files, a batch's may be on their way
FLAGS = [
    *("--method", "fff", "--captions-per-image", "2", "--json-text-key", "captions", "--workers", "2"),
    *("--mining-features", "ema", "--mining-warmup", "20", "--no-mining-guard"),
    *("--log-every-n-steps", str(EPOCH)),  # pytest keeps what is logged
    *("--save-every-n-steps", "30", "--save-most-recent", "--delete-previous-checkpoint"),
]


def held(process: int | str) -> dict[str, float]:
    """Resident MiB without what is shared, and open files, of a process."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    sizes = {name: value for name, _, value in (line.partition(":") for line in lines)}
    return {"MiB": int(sizes["RssAnon"].split()[0]) / 1024, "files": len(os.listdir(f"/proc/{process}/fd"))}


def look() -> dict[str, float]:
    """What is held now."""
    found = {f"main {name}": value for name, value in held("self").items()} | {"threads": threading.active_count()}
    workers = sorted(multiprocessing.active_children(), key=lambda worker: worker.pid or 0)
    for number, worker in enumerate(workers):
        found |= {f"worker {number} {name}": value for name, value in held(worker.pid or 0).items()}
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_nothing_grows(trainer, tmp_path):
    seen: dict[int, dict[str, float]] = {}
    steps = 0

    def step(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps % EVERY == 0:
            seen[steps] = look()

    data = [*shards(tmp_path, (40, 40, 40, 40))[:2], "--train-num-samples", str(16 * EPOCH)]
    data += ["--val-data", str(tmp_path / "00.tar"), "--val-num-samples", "40", "--val-frequency", "2"]
    hook = register_optimizer_step_post_hook(step)
    try:
        assert trainer(*FLAGS, "--epochs", str(STEPS // EPOCH), "--name", "x", data=data) == 0
    finally:
        hook.remove()
    assert steps == STEPS and re.search(r"Mined/image: [1-9]", trainer.log("x"))
    early = [found for step, found in seen.items() if SETTLED <= step <= SETTLED + WINDOW]
    late = [found for step, found in seen.items() if step >= STEPS - WINDOW]
    names = set.intersection(*(set(found) for found in seen.values()))
    assert "worker 1 MiB" in names
    for name in sorted(names):
        before, after = (min(found[name] for found in part) for part in (early, late))
        print(f"{name}: {before:.1f} at step {SETTLED}, {after:.1f} at step {STEPS}")
        assert after <= before + GROWTH[name.split()[-1]], name
