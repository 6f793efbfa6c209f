"""The trainer on OpenCLIP's main branch, against the same runs on 3.3: OPEN_CLIP_MAIN=/path/to/clone names a clone.

Each run is a process of its own, in which the clone's `src` stands before the installed OpenCLIP.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch

from tests.conftest import TINY, Trainer, colour_sample, write_tar
from tests.programs import ROOT
from tests.test_architectures import TINY_COCA
from tests.test_training import assert_equal_checkpoints

CLONE = os.environ.get("OPEN_CLIP_MAIN", "")
KEPT = "KEPT_STEPS"  # of tests/kept_steps.py, which only programs of their own may import: it changes what it keeps
on_main = [
    pytest.mark.slow,
    pytest.mark.skipif(not CLONE, reason="OPEN_CLIP_MAIN names no clone of OpenCLIP's main branch"),
]
AT_THRESHOLD = 2  # pairs that float error may move over a threshold
FIVE = ["--captions-per-image", "4", "--json-text-key", "captions"]
EXPORT = """
import sys, torch, open_clip
from open_clip_fff.export import main
config, weights, out = sys.argv[1:]
open_clip.add_model_config(config)
torch.save({"state_dict": open_clip.create_model("tiny-modern").state_dict()}, weights)
sys.exit(main([weights, "--model", "tiny-modern", "--model-config", config, "--out", out]))
"""
GROUPED = [
    *("--method", "mafa-itc", "--group-search-space", "32", "--captions-per-image", "2", "--caption-policy", "all"),
    *("--plugin", "tests.colour_discriminator", "--discriminator", "colours", "--json-text-key", "captions"),
]


def test_other_versions_are_named_at_once(trainer, capsys, monkeypatch):
    for version in ("3.2.0", "4.0.0"):
        monkeypatch.setattr(open_clip, "__version__", version)
        assert trainer("--method", "clip", "--name", "other") == 2
        line = capsys.readouterr().err
        assert f"OpenCLIP {version} is installed; supported are 3.3" in line and line.count("\n") == 1
    assert not trainer.run("other").exists()


def environment(main: bool = True, **more: str) -> dict[str, str]:
    """Variables of a program on OpenCLIP's main branch, or on 3.3."""
    paths = [str(ROOT), *([str(Path(CLONE) / "src")] if main else [])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", **more}


class Versions:
    """The trainer on both versions.

    Args:
        trainer: for the flags that all runs share.
        folder: for what the runs leave behind.
    """

    def __init__(self, trainer: Trainer, folder: Path) -> None:
        self.trainer, self.folder = trainer, folder

    def __call__(self, main: bool, name: str, *argv: str, ranks: int = 0, data: list[str] | None = None) -> list[dict]:
        """A run on OpenCLIP's main branch or on 3.3.

        Returns:
            The steps of its rank 0, as `kept_steps` keeps them.
        """
        trainer, kept = self.trainer, self.folder / f"{name}.{main}"
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks else []
        command = [sys.executable, *torchrun, "-m", "open_clip_fff.train", *(["--"] if ranks else [])]
        command += [*trainer.common, "--model-config", str(trainer.config), *(data or trainer.tars)]
        command += ["--plugin", "tests.kept_steps", "--name", f"{name}.{main}", *argv]
        variables = environment(main, **{KEPT: str(kept)})
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        self.printed = done.stdout
        assert ("open_clip_fff 0" in done.stdout) and (f"on OpenCLIP {'4' if main else '3.3'}." in done.stdout)
        return torch.load(f"{kept}.0", weights_only=True)

    def same(self, *argv: str, **how) -> list[dict]:
        """Runs both, and checks that they are the same; returns the main branch's steps.

        The loss of the first step is that of the same weights and batch; float error grows from there on. The teacher's
        features differ by 1e-7, so that a pair whose cosine is at a threshold may be mined on one of them alone.
        """
        released, mains = (self(main, "run", *argv, **how) for main in (False, True))
        assert len(released) == len(mains) > 1
        within = 1e-6
        for old, new in zip(released, mains, strict=True):
            assert (new["assignment"] is None) == (old["assignment"] is None)
            if old["assignment"] is not None and (apart := int((new["assignment"] != old["assignment"]).sum())):
                assert apart <= AT_THRESHOLD
                within = 1e-2
            assert new["losses"] == pytest.approx(old["losses"], rel=within)
            within = max(within, 1e-4)
        return mains


@pytest.fixture
def versions(trainer, tmp_path) -> Versions:
    return Versions(trainer, tmp_path)


class TestOnMain:
    pytestmark = on_main

    @pytest.mark.parametrize("argv", [["--method", "clip"], ["--method", "clip", "--accum-freq", "2"]])
    def test_stock_losses(self, versions, argv):
        versions.same(*argv, "--json-text-key", "captions")

    @pytest.mark.parametrize("method", ["fff", "fff-softmax"])
    def test_mining_with_a_teacher_and_accumulation(self, versions, teacher, shards, method):
        argv = ["--method", method, *FIVE, "--mining-model", "tiny-clip", "--mining-pretrained", str(teacher)]
        argv += ["--mined-per-image", "2", "--accum-freq", "2", "--batch-size", "8", "--epochs", "2"]
        steps = versions.same(*argv, "--ema-decay", "0.9", "--val-data", str(shards / "00.tar"))
        assert any((step["assignment"] == 1).sum() > 16 * 4 for step in steps)
        logs = [versions.trainer.log(f"run.{main}") for main in (False, True)]
        for found in (
            r"FFF Eval Epoch.*?R@1 ([\d.]+)",
            r"Mined/image: ([\d.]+)",
            r"clip_val_loss: ([\d.]+)",
            r"LR: ([\d.]+)",
        ):
            old, new = ([float(x) for x in re.findall(found, log)] for log in logs)
            apart = AT_THRESHOLD / 16 if "Mined" in found else 0  # of an image in a global batch of 16
            assert len(old) >= 4 - 2 * ("Eval" in found or "val" in found)
            assert new == pytest.approx(old, rel=1e-3, abs=apart)

    def test_two_ranks(self, versions, teacher):
        argv = ["--method", "fff", *FIVE, "--mining-model", "tiny-clip", "--mining-pretrained", str(teacher)]
        versions.same(*argv, "--mined-per-image", "2", "--batch-size", "8", ranks=2)

    def test_grouped_mini_batches_and_a_discriminator(self, versions, tmp_path):
        for shard in range(4):
            rows = {
                f"{row:04d}": {**colour_sample(shard * 16 + row), "cls": str(row % 4).encode()} for row in range(16)
            }
            write_tar(tmp_path / f"{shard}.tar", rows)
        data = ["--train-data", str(tmp_path / "{0..3}.tar"), "--train-num-samples", "64"]
        # the tiny one's features of texts are so alike that float error changes the order in which they are walked
        wider = {**TINY, "text_cfg": {**TINY["text_cfg"], "width": 32}}
        versions.trainer.config = tmp_path / "tiny-clip.json"
        versions.trainer.config.write_text(json.dumps(wider))
        versions.same(*GROUPED, "--class-key", "cls", "--epochs", "2", data=data)
        found = [
            re.findall(r"False negatives: .*?right [\d.]+", versions.trainer.log(f"run.{x}")) for x in (0 > 1, True)
        ]
        assert found[0] == found[1] and len(found[0]) == 8

    def test_an_unreadable_image_is_named(self, versions, tmp_path):
        rows = {f"{row:04d}": colour_sample(row) for row in range(16)}
        rows["0006"]["png"] = b"no image at all"
        data = ["--train-data", str(write_tar(tmp_path / "0.tar", rows)), "--train-num-samples", "15"]
        argv = ["--method", "clip", "--json-text-key", "captions", "--val-data", data[1], "--batch-size", "5"]
        versions(True, "bad", *argv, "--val-num-samples", "16", data=data)
        log = versions.trainer.log("bad.True")
        assert "0.tar: 0006.png cannot be read (cannot identify image file)" in log and "a shard" not in log

    def test_a_table(self, versions):
        data = [*versions.trainer.table[:-1], "title;pseudo"]
        versions.same(
            "--method",
            "fff",
            "--captions-per-image",
            "2",
            "--mining-features",
            "online",
            "--epochs",
            "2",
            "--mining-warmup",
            "1",
            "--workers",
            "1",
            data=data,
        )

    def test_a_run_that_was_stopped_goes_on_and_is_exported(self, versions):
        """Behind an epoch, and in the middle of one, on two ranks; equal to a run that was never stopped."""
        trainer = versions.trainer
        argv = [
            "--method",
            "fff-softmax",
            *FIVE,
            "--mining-features",
            "ema",
            "--ema-decay",
            "0.9",
            "--mining-warmup",
            "2",
        ]
        argv += ["--mined-per-image", "2", "--batch-size", "8", "--epochs", "2"]
        versions(True, "whole", *argv, ranks=2)
        start = str(trainer.run("whole.True") / "checkpoints" / "epoch_1.pt")
        versions(True, "resumed", *argv, "--resume", start, ranks=2)
        whole = trainer.checkpoint("whole.True", 2)
        assert_equal_checkpoints(whole, trainer.checkpoint("resumed.True", 2))
        assert whole["global_step"] == 8 and not any(name.startswith("module") for name in whole["state_dict"])
        folder = versions.folder / "exported"
        command = [sys.executable, "-m", "open_clip_fff.export", str(trainer.run("whole.True")), "--out", str(folder)]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0 and "checked: stock OpenCLIP" in done.stdout, done.stderr
        released = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True).state_dict()
        assert all(torch.equal(released[name], tensor) for name, tensor in whole["state_dict"].items())

    def test_an_architecture_that_3_3_does_not_have_is_exported(self, tmp_path):
        text = {**TINY["text_cfg"], "text_arch": "modern", "pool_type": "mean", "pad_id": 0}
        config, folder = tmp_path / "tiny-modern.json", tmp_path / "exported"
        config.write_text(json.dumps({**TINY, "text_cfg": text, "custom_text": True}))
        command = [sys.executable, "-c", EXPORT, config, tmp_path / "lone.pt", folder]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0 and "checked: stock OpenCLIP 4.2.0.dev0, in a separate" in done.stdout, done.stderr

    def test_the_quickstart(self, tmp_path):
        """Its model is exported, too, and loaded by 3.3, which is what is installed."""
        command = [sys.executable, "scripts/quickstart.py", "--out", str(tmp_path / "out"), "--epochs", "2"]
        done = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=1200)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        assert f"OpenCLIP {open_clip.__version__} alone" in done.stdout and "logits differ by" in done.stdout
        assert "on OpenCLIP 4" in (tmp_path / "out" / "logs" / "fff.txt").read_text()

    @pytest.mark.parametrize(("precision", "within"), [("fp32", 1e-6), ("amp_bf16", 5e-3)])
    def test_fsdp2_is_ddp(self, versions, teacher, precision, within):
        """With one group of captions; and a run that was stopped goes on."""
        trainer, argv = versions.trainer, ["--method", "fff", *FIVE, "--batch-size", "8", "--epochs", "2"]
        argv += ["--mining-model", "tiny-clip", "--mining-pretrained", str(teacher), "--mined-per-image", "2"]
        argv += ["--length-groups", "1", "--precision", precision]
        plain = versions(True, "ddp", *argv, ranks=2)
        sharded = versions(True, "fsdp", *argv, "--fsdp", ranks=2)
        for old, new in zip(plain, sharded, strict=True):
            assert new["losses"] == pytest.approx(old["losses"], rel=within)
            assert torch.equal(new["assignment"], old["assignment"])
        start = str(trainer.run("fsdp.True") / "checkpoints" / "epoch_1.pt")
        versions(True, "resumed", *argv, "--fsdp", "--resume", start, ranks=2)
        weights = [trainer.checkpoint(f"{name}.True", 2)["state_dict"] for name in ("fsdp", "resumed", "ddp")]
        for name, tensor in weights[0].items():
            assert torch.equal(weights[1][name], tensor)
            torch.testing.assert_close(weights[2][name], tensor, rtol=10 * within, atol=within)

    def test_a_flag_of_both_is_in_the_help_once(self):
        command = [sys.executable, "-m", "open_clip_fff.train", "--help"]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
        flags = re.findall(r"^  (--[\w-]+)", done.stdout, re.MULTILINE)
        assert "--max-image-pixels" in flags and "--grad-checkpointing" in flags
        assert not [flag for flag in set(flags) if flags.count(flag) > 1]

    @pytest.mark.parametrize("flag", ["--torchcompile", "--use-naflex", "--length-bucketing"])
    def test_what_is_not_driven_is_said(self, versions, flag):
        with pytest.raises(AssertionError, match=f"error: {flag}: open_clip_fff does not go with it on OpenCLIP 4 yet"):
            versions(True, "refused", "--method", "clip", flag)

    def test_models_that_write_captions(self, versions, tmp_path):
        """Some commits of main put a mask of tokens into their batches, which our loader does not make."""
        if "--text-attention-mask" not in (Path(CLONE) / "src" / "open_clip_train" / "params.py").read_text():
            pytest.skip("this commit of OpenCLIP's main branch makes no masks of tokens")
        mammut = {name: part for name, part in TINY_COCA.items() if name not in ("text_cfg", "custom_text")}
        for name, config, line in (
            ("mammut", mammut, "it is no image tower beside a text tower"),
            ("coca", TINY_COCA, "wants masks of tokens, which our loader does not make yet"),
        ):
            versions.trainer.config = tmp_path / f"tiny-{name}.json"
            versions.trainer.config.write_text(json.dumps(config))
            argv = ["--model", f"tiny-{name}", "--method", "clip", "--json-text-key", "captions"]
            with pytest.raises(AssertionError, match=f"error: --model tiny-{name}: {line}"):
                versions(True, "refused", *argv)
        assert len(versions(True, "run", *argv, "--no-text-attention-mask")) == 4

    def test_what_main_fails_on_as_well_is_refused(self, versions, bert_clip, tmp_path):
        """Else it ends in a traceback, or in an error that does not name the flag or field."""
        text, vision = TINY["text_cfg"], TINY["vision_cfg"]
        half = ["--precision", "bf16"]
        for name, config, flags, line in (
            ("bert", json.loads(bert_clip.read_text()), half, "--precision bf16: --model bert has a text tower of t"),
            ("coca", TINY_COCA, half, "--precision bf16: --model coca is a CoCa"),
            ("coca", TINY_COCA, ["--force-context-length", "20"], "--force-context-length 20: --model coca is a CoCa"),
            ("coca", {**TINY_COCA, "custom_text": False}, [], 'json has multimodal_cfg, and lacks "custom_text": true'),
            ("bias", {**TINY, "init_logit_bais": 1}, [], "bias.json has no field init_logit_bais"),
            ("wide", {**TINY, "vision_cfg": {**vision, "witdh": 3}}, [], "vision_cfg has no field witdh"),
            ("pool", {**TINY, "text_cfg": {**text, "pool_type": "tok"}}, [], "pool_type 'tok': choose argmax, first"),
            ("lip", {**TINY, "genlip_cfg": {}}, [], "it is no image tower beside a text tower"),
        ):
            versions.trainer.config = tmp_path / f"{name}.json"
            versions.trainer.config.write_text(json.dumps(config))
            with pytest.raises(AssertionError, match=f"error: .*{line}"):
                versions(True, "refused", "--model", name, "--method", "clip", "--json-text-key", "captions", *flags)

    def test_what_fsdp_has_no_way_for_is_said(self, versions):
        for more, line in (
            (["--method", "fff", "--mining-features", "off"], "--fsdp: add --length-groups 1"),
            (["--method", "clip", "--ema-decay", "0.9"], "--ema-decay: does not go with --fsdp"),
            (["--method", "clip", "--save-every-n-steps", "2"], "--save-every-n-steps: --fsdp has no way for it"),
        ):
            with pytest.raises(AssertionError, match=f"error: {line}"):
                versions(True, "refused", *FIVE[2:], *more, "--fsdp")
