"""Curves from run folders: ours, stock OpenCLIP's, resumed ones and broken ones."""

import json

import pytest

from open_clip_fff.errors import UsageError
from open_clip_fff.evaluation.compare.curves import read_curves
from tests.test_midway import in_step, told

STOCK = """\
2026-11-23,23:59:30 |  node7 | INFO | Running with a single process. Device cpu.
2026-11-23,23:59:30 |  node7 | INFO | Start epoch 0
2026-11-23,23:59:40 |  node7 | INFO | Train Epoch: 0 [  96/6144 (2%)] Data (t): 0.636 Batch (t): 1.625, 59.0863/s, \
59.0863/s/gpu LR: 0.000025 Logit Scale: 14.286 Contrastive_loss: 4.584 (4.584) Loss: 4.584 (4.584)
2026-11-24,00:00:30 |  node7 | INFO | Train Epoch: 0 [6144/6144 (100%)] Data (t): 0.370 Batch (t): 1.225, 80.2228/s, \
80.2228/s/gpu LR: 0.000550 Logit Scale: 14.190 Contrastive_loss: 4.507 (4.553) Loss: 4.507 (4.553)
2026-11-24,00:00:50 |  node7 | INFO | Eval Epoch: 1 [96 / 1000]	Clip Loss: 4.190049
"""
SECOND = """\
2026-11-24,00:09:00 |  node7 | INFO | Start epoch 1
2026-11-24,00:09:05 |  node7 | INFO | Train Epoch: 1 [  96/6144 (2%)] Data (t): 0.6 Logit Scale: {0} Loss: 4.5 (4.5)
2026-11-24,00:09:{1} |  node7 | INFO | Train Epoch: 1 [6144/6144 (100%)] Data (t): 0.6 Logit Scale: {0} Loss: 4 (4)
"""


@pytest.fixture
def run(tmp_path):
    def make(log, *results):
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "out.log").write_text(log)
        (tmp_path / "checkpoints" / "results.jsonl").write_text("".join(results))
        return tmp_path

    return make


def result(epoch, **values):
    return json.dumps({**values, "epoch": epoch}) + "\n"


def test_a_stock_run(run):
    scores = [result(0, **{"imagenet-zeroshot-val-top1": 0.01}), result(1, **{"image_to_text_R@5": 0.2})]
    curves = read_curves(run(STOCK + SECOND.format("14.0", 30), *scores, result(2, **{"image_to_text_R@5": 0.3})))
    assert list(curves.steps["step"]) == [1, 64, 65, 128]
    # across midnight, and without the pause for evaluation
    assert list(curves.steps["minutes"] * 60) == pytest.approx([10, 60, 65, 90])
    assert list(curves.steps["scale"]) == [14.286, 14.19, 14, 14] and curves.steps["bias"].isna().all()
    assert list(curves.epochs["step"]) == [0, 64, 128]
    assert curves.epochs["zeroshot/imagenet1k/acc1"][0] == 0.01 and curves.epochs["image_to_text_R@5"][2] == 0.3


def test_of_a_resumed_run_the_last_counts(run):
    scores = [result(2, x=0.1), result(2, x=0.2), '{"epoch": 2, "x":']
    again = SECOND.format("15.0", 20)
    curves = read_curves(run(STOCK + SECOND.format("14.0", 50) + again, *scores))
    assert list(curves.steps["scale"]) == [14.286, 14.19, 15, 15]
    assert list(curves.epochs["minutes"] * 60) == [80] and list(curves.epochs["x"]) == [0.2]


MIDDLE = """\
2026-11-24,00:30:00 |  node7 | INFO | Start epoch {0}
2026-11-24,00:30:00 |  node7 | INFO | Going on in epoch {0} after step 40 of 64: its first 3,840 samples were trained, \
and are passed over undecoded.
"""
LAST = """\
2026-11-24,00:30:20 |  node7 | INFO | Train Epoch: {0} [3936/6144 (64%)] Data (t): 0.6 Logit Scale: 15.0 Loss: 4 (4)
2026-11-24,00:30:40 |  node7 | INFO | Train Epoch: {0} [6144/6144 (100%)] Data (t): 0.6 Logit Scale: 15.0 Loss: 4 (4)
"""


@pytest.mark.parametrize("starts", [1, 2])  # that one went on, which may have ended before its first step
def test_what_was_trained_before_the_middle_of_an_epoch_counts(run, starts):
    first = SECOND.format("14.0", 50).replace("[6144/6144 (100%)]", "[3840/6144 (62%)]")
    beyond = first.splitlines(keepends=True)[-1].replace("3840", "4800").replace("00:09:50", "00:09:59")
    curves = read_curves(run(STOCK + first + beyond + starts * MIDDLE.format(1) + LAST.format(1), result(2, x=0.2)))
    assert list(curves.steps["step"]) == [1, 64, 65, 104, 105, 128]
    assert list(curves.steps["minutes"] * 60) == pytest.approx([10, 60, 65, 110, 130, 150])
    assert list(curves.epochs["step"]) == [128] and curves.finished == 2


@pytest.mark.parametrize("epoch", [0, 1])
def test_without_the_log_before_the_middle_of_an_epoch_there_is_no_time(run, epoch):
    curves = read_curves(run(MIDDLE.format(epoch) + LAST.format(epoch), result(epoch + 1, x=0.2)))
    assert list(curves.steps["step"]) == [64 * epoch + 41, 64 * epoch + 64] and curves.steps["minutes"].isna().all()
    assert list(curves.epochs["x"]) == [0.2]


def test_a_log_that_is_cut_off_gives_what_it_has(run):
    log = (STOCK + SECOND.format("14.0", 30)).splitlines()
    folder = run("\n".join(log[:-1]) + "\n" + log[-1][:60], result(1, x=0.1), result(2, x=0.2))
    curves = read_curves(folder)
    assert list(curves.steps["step"]) == [1, 64, 65] and list(curves.epochs["x"]) == [0.1]
    assert curves.finished == 1 and list(read_curves(folder, epochs=1).steps["step"]) == [1, 64]


def test_a_log_that_begins_later_has_steps_but_no_time(run):
    curves = read_curves(run(SECOND.format("14.0", 30), result(2, x=0.2)))
    assert list(curves.steps["step"]) == [65, 128] and curves.steps["minutes"].isna().all()
    assert list(curves.epochs["step"]) == [128]


def test_results_that_cannot_be_meant_are_counted(run):
    epochs = ("Infinity", "NaN", "-1", "1.5", '"2"', "null", "true")
    lines = [f'{{"epoch": {epoch}, "x": 0.1}}\n' for epoch in epochs]
    lines += ["[" * 9_999 + "\n", "5\n", f'{{"epoch": 1, "x": 1{"0" * 400}}}\n', '{"epoch": 1, "step": 7, "x": 0.3}\n']
    curves = read_curves(run(STOCK, *lines))
    assert curves.unread == len(lines) - 1 and list(curves.epochs["x"]) == [0.3] and list(curves.epochs["step"]) == [64]


@pytest.mark.parametrize(("old", "new"), [("2026-11-24", "2026-19-24"), ("[  96/", "[   0/"), ("14.286", "1.4.286")])
def test_a_damaged_log_is_named(run, old, new):
    with pytest.raises(UsageError, match=r"out\.log: cannot be read as the log of"):
        read_curves(run(STOCK.replace(old, new)))


@pytest.mark.parametrize("log", [None, "", "nothing\n", "2026-11-23,23:59:30 | INFO | Start epoch 0\n"])
def test_a_run_without_training_is_named(tmp_path, log):
    if log is not None:
        (tmp_path / "out.log").write_text(log)
    with pytest.raises(UsageError, match=str(tmp_path)):
        read_curves(tmp_path)


@pytest.mark.slow
def test_a_run_of_ours(trainer, teacher):
    mining = ["--mining-model", "tiny-clip", "--mining-pretrained", str(teacher), "--mined-per-image", "2"]
    data = ["--json-text-key", "captions", "--val-data", str(trainer.shards / "00.tar"), "--val-num-samples", "16"]
    assert trainer("--method", "fff", *mining, *data, "--epochs", "2", "--class-key", "json", "--name", "ours") == 0
    curves = read_curves(trainer.run("ours"))
    assert list(curves.steps["step"]) == list(range(1, 9)) and curves.steps["minutes"].is_monotonic_increasing
    assert curves.steps[["scale", "bias", "mined"]].notna().all().all() and curves.steps["mined"].max() > 0
    assert list(curves.epochs["step"]) == [4, 8]
    assert {"all_captions_image_to_text_R@5", "image_to_text_R@5"} <= set(curves.epochs)


@pytest.mark.slow
def test_a_run_that_was_stopped_in_an_epoch(trainer):
    argv = ["--method", "clip", "--batch-size", "8", "--name", "stopped"]
    with in_step(5, told()):
        assert trainer(*argv) == 143
    assert trainer(*argv, "--resume", "latest") == 0
    curves = read_curves(trainer.run("stopped"))
    assert list(curves.steps["step"]) == list(range(1, 9)) and curves.steps["minutes"].is_monotonic_increasing
