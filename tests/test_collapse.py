"""Self-mining that collapses, on scikit-learn's digits, and the guard that keeps it from doing so."""

import re
import sys
from pathlib import Path

import pytest

from open_clip_fff.train import main

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parent.parent / "scripts"
BATCH, K = 64, 5
LOOSE = ["--p1", "0.6", "--p2", "0.85", "--p3", "0.95", "--p1-prime", "0.2"]  # too low for the model's first steps
WARMUP = 6  # epochs of 11 steps, in which nothing is mined


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sys.path.insert(0, str(SCRIPTS))
    try:
        from digits.shards import write_shards
    finally:
        sys.path.remove(str(SCRIPTS))
    folder = tmp_path_factory.mktemp("digits")
    write_shards(folder, seed=0, classes=True)
    return folder


def mined(digits: Path, name: str, *more: str) -> list[tuple[float, float]]:
    """Mined captions per image, and the share of them of the right digit, at the steps after the warm-up."""
    steps = 11 * WARMUP
    model = SCRIPTS / "digits" / "digits-vit.json"
    argv = [
        *("--train-data", str(digits / "train-{00000..00001}.tar"), "--train-num-samples", "704"),
        *("--captions-per-image", str(K), "--json-text-key", "captions"),
        *("--mining-features", "online", "--mining-warmup", str(steps), "--class-key", "cls"),
        *("--model-config", str(model), "--model", model.stem, "--batch-size", str(BATCH), "--epochs", "9"),
        *("--lr", "2e-3", "--warmup", "22", "--wd", "0.1", "--device", "cpu", "--precision", "fp32", "--workers", "0"),
        *("--log-every-n-steps", "4", "--logs", str(digits / "logs"), "--name", name),
    ]
    assert main([*argv, *more]) == 0
    log = (digits / "logs" / name / "out.log").read_text()
    found = re.findall(r"Step: (\d+) Mined/image: ([\d.]+) \(.*?\)(?: Right: ([\d.]+)%)?", log)
    return [(float(captions), float(right or 0)) for step, captions, right in found if int(step) >= steps]


def guarded_and_free(
    digits: Path, name: str, *more: str
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """The same with the guard and without it, from the same end of the warm-up on."""
    guarded = mined(digits, name, *more)
    warm = digits / "logs" / name / "checkpoints" / f"epoch_{WARMUP}.pt"
    return guarded, mined(digits, f"free-{name}", *more, "--no-mining-guard", "--resume", str(warm))


def test_self_mining_collapses_and_its_guard_stops_that(digits):
    """Thresholds that are too low: what is mined is pulled together, so more is mined."""
    guarded, free = guarded_and_free(digits, "loose", "--method", "fff-softmax", *LOOSE)
    every = (BATCH - 1) * K  # captions of other images
    # Without: until it is everything, right in one of ten.
    assert free[0][0] < 0.3 * every and free[0][1] > 30
    assert free[-1][0] > 0.9 * every and free[-1][1] < 15
    # With: no more than a tenth, of which far more are right.
    assert max(captions for captions, _ in guarded) <= 0.1 * BATCH * K
    assert guarded[-1][1] > 40


def test_a_rate_does_not_make_an_ignorant_model_mine(digits):
    """After 66 steps the sigmoid has learnt too little: as many pairs as asked for are found, and most are wrong."""
    guarded, free = guarded_and_free(digits, "rate", "--method", "fff", "--mined-per-image", "20")
    wrong = [captions * (1 - right / 100) for captions, right in free]
    assert sum(wrong) / len(wrong) > 5
    still_wrong = [captions * (1 - right / 100) for captions, right in guarded]
    assert sum(still_wrong) < 0.2 * sum(wrong)
    assert "Self-mining waits" in (digits / "logs" / "rate" / "out.log").read_text()
