"""What OpenCLIP and its libraries refuse: one line before anything is written, or at least before the first step."""

import argparse
import io
import json
import pickle
import re

import pytest
import torch

from tests.conftest import TINY
from tests.failing_plugin import FAILS
from tests.programs import torchrun
from tests.test_training import assert_equal_checkpoints

FLAGS = [
    ("--lock-text", "--lock-text-freeze-layer-norm"),
    ("--lr-scheduler linear", "cosine, const, const-cooldown"),
    ("--lr-scheduler const-cooldown", "--epochs-cooldown N"),
    ("--report-to wandb", "the package wandb is not installed"),
    ("--report-to tensorbord", "choose wandb, tensorboard, all"),
    ("--imagenet-val /nowhere", "--imagenet-val /nowhere"),
    ("--imagenet-v2 /nowhere", "imagenetv2_pytorch"),
    ("--train-data-upsampling-factors 2::1", "--dataset-resampled"),
    ("--train-data-upsampling-factors 2::1 --dataset-resampled", "as many numbers as --train-data has parts"),
    ("--train-data-upsampling-factors x --dataset-resampled", "could not convert"),
    *((f"--train-data-upsampling-factors {x} --dataset-resampled", "finite numbers") for x in ("0", "inf", "1e999")),
    ("--pretrained laion2b_e16", "which has none"),
    ("--pretrained /etc", "is a folder; of a run name a checkpoint"),
    ("--resume /etc", "is a folder; of a run name a checkpoint"),
    ("--model RN50 --pretrained laion2b_e16", "a tag of RN50, which has openai, yfcc15m, cc12m"),
    ("--distill-model tiny-clip --distill-pretrained x", "--distill-pretrained x: neither a file nor a tag"),
    ("--distill-model tiny-clip --distill-pretrained x --accum-freq 2", "--accum-freq 2: does not go with"),
    ("--distill-model tiny-clip --distill-pretrained x --siglip", "--siglip: does not go with --distill-model"),
    ("--distill-model ViT-B-16-SigLIP --distill-pretrained x", "--distill-model ViT-B-16-SigLIP: does not go with"),
    ("--distill-model tiny-clip", "--distill-model does nothing without --distill-pretrained"),
    ("--distill-pretrained x", "--distill-pretrained does nothing without --distill-model"),
    ("--opt timm/lamb", "say one, as --lr 1e-3"),
    ("--opt timm/lamb --lr 1e-3 --beta1 .9", "takes both or neither"),
    ("--opt timm/nonsense --lr 1e-3", "not found in registry"),
    ("--opt sgd", "timm/sgd"),
    ("--lr -1", "Invalid learning rate: -1.0"),
    ("--lr inf", "--lr: inf is not a finite number"),
    ("--image-mean .5 nan .5", "--image-mean: nan is not a finite number"),
    ("--method fff --logit-scale-init 1e999", "--logit-scale-init: 1e999 is not a finite number"),
    ("--opt timm/lion --lr 1e-3 --eps -1", "--eps -1.0: must be 0 or more"),
    ("--lr-cooldown-power -1", "--lr-cooldown-power -1.0: must be 0 or more"),
    ("--beta1 1.5", "Invalid beta parameter"),
    ("--log-every-n-steps 0", "must be 1 or more"),
    ("--batch-size 0", "must be 1 or more"),
    ("--accum-freq 0", "must be 1 or more"),
    ("--warmup -1", "must be 0 or more"),
    ("--grad-clip-norm 0", "must be above 0"),
    (f"--name {256 * 'x'}", "is 256 bytes long"),
    ("--epochs 0", "must be 1 or more"),
    ("--workers -1", "must be 0 or more"),
    ("--seed -1", "must be 0 or more"),
    ("--seed 4294967296", "less than 2**32"),
    ("--force-context-length 0", "must be 1 or more"),
    ("--force-image-size 0", "a side in pixels"),
    ("--force-image-size 32 32 32", "a side in pixels"),
    ("--force-patch-dropout 2", "less than 1"),
    ("--force-patch-dropout -1", "must be 0 or more"),
    ("--train-num-samples 0", "it is 1 or more"),
    ("--trace", "cannot be trained"),
    ("--siglip --loss-dist-impl nonsense", "bidir, shift, reduce, gather"),
    ("--method siglip --loss-dist-impl nonsense", "bidir, shift, reduce, gather"),
    ("--aug-cfg nonsense", "NAME=VALUE"),
    ("--aug-cfg scale=(0.9,", "NAME=VALUE"),
    ("--aug-cfg foo=1", "unexpected keyword argument 'foo'"),
    ("--image-mean .5 .5", "no image can be made with it"),
    ("--image-std -1 0.2 0.2", "pixels are divided by it; above 0"),
    ("--val-data /nowhere.json", "/nowhere.json does not exist"),
    ("--val-data /etc/hostname", "say what it is with --dataset-type"),
    ("--val-data /etc", "/etc is a folder; name the table in it, or its tars"),
    ("--device nonsense", "--device nonsense: "),
    ("--device meta", "--device meta: "),
    ("--horovod", "the package horovod is not installed"),
    ("--use-bnb-linear SwitchBackLinearGlobal", "bitsandbytes"),
    ("--logs /dev/null", "nothing can be written in /dev/null"),
    ("--lock-image --lock-image-unlocked-groups=-1", "--lock-image-unlocked-groups -1: must be 0 or more"),
    ("--remote-sync-protocol fsspec --remote-sync nowhere://x", "--remote-sync nowhere://x: cannot be written to"),
    ("--logs /dev --name null", "--logs /dev: nothing can be written in /dev/null"),
    ("--resume latest --save-most-recent --remote-sync s3://x", "--remote-sync and --save-most-recent"),
    (f"--name {'字' * 100} --resume latest", "字… is 300 bytes long, and files' names have at most 255"),
    (f"--logs /tmp/{'x' * 256}/logs", "x… is 256 bytes long"),
    (f"--imagenet-val {'x' * 256}", "no folder there that holds a folder for each class"),
    (f"--method albef --fusion-pretrained {'x' * 256}", "no such folder or checkpoint"),
]


@pytest.fixture
def refused(trainer, capsys):
    """Runs the trainer, expects a refusal before anything is printed or written, and gives its one line."""

    def run(*argv: str, data: list[str] | None = None) -> str:
        assert trainer("--name", "x", *argv, data=data) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith("open_clip_fff.train: error: ") and len(printed.err.splitlines()) == 1, printed
        assert not printed.out and not trainer.logs.exists()
        return printed.err

    return run


@pytest.mark.parametrize(("flags", "says"), FLAGS, ids=[flags for flags, _ in FLAGS])
def test_a_flag_of_open_clips_that_cannot_work(refused, flags, says):
    line = refused(*flags.split())
    assert says in line and any(flag in line for flag in flags.split() if flag.startswith("--"))


@pytest.mark.parametrize("method", [[], ["--method", "clip"], ["--loss", "fff"]])
def test_nothing_to_do(refused, method):
    assert "nothing to train on" in refused(*method, data=[])
    assert "--train-num-samples" in refused(*method, data=["--dataset-type", "synthetic"])
    both = ["--dataset-type", "synthetic", "--train-num-samples", "32", "--val-data", "x.tar"]
    assert "--val-data: does not go with" in refused(*method, data=both)


@pytest.mark.parametrize(
    "flags", ["--train-data x.tar", "--json-text-key captions", "--class-key x", "--min-coverage 0.5"]
)
def test_made_up_data_have_nothing_to_read(refused, flags):
    data = ["--dataset-type", "synthetic", "--train-num-samples", "32"]
    assert f"{flags.split()[0]}: does not go with --dataset-type synthetic" in refused(*flags.split(), data=data)


def test_a_column_that_a_stock_run_does_not_find(trainer, capsys):
    from open_clip_fff.train import main

    for flag in ("--csv-img-key", "--csv-caption-key"):
        assert main([*trainer.common, *trainer.table, flag, "blip"]) == 2
        assert f"{flag} blip: {trainer.csv} has no such column; it has filepath, title" in capsys.readouterr().err
    assert not trainer.logs.exists()


def test_architectures_that_cannot_do_what_is_asked(refused, tmp_path):
    (tmp_path / "tiny-siglip.json").write_text(json.dumps({**TINY, "init_logit_bias": -10}))
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}
    (tmp_path / "tiny-rn.json").write_text(json.dumps({**TINY, "vision_cfg": vision}))
    own = ["--model-config", str(tmp_path)]
    line = refused(*own, "--model", "tiny-siglip")
    assert "--model tiny-siglip: its tokenizer cannot be loaded" in line and "rename" in line
    locked = ["--lock-image", "--lock-image-unlocked-groups", "1"]
    assert "--lock-image-unlocked-groups 1: a ResNet" in refused(*own, "--model", "tiny-rn", *locked)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--lock-image", "--lock-image: --model coca_tiny is a CoCa, whose towers OpenCLIP cannot lock"),
        ("--lock-text --lock-text-freeze-layer-norm", "--lock-text: --model coca_tiny is a CoCa"),
        ("--precision bf16", "--precision bf16: --model coca_tiny is a CoCa, part of which stays in float32"),
        ("--force-context-length 77", "--force-context-length 77: --model coca_tiny is a CoCa"),
        ("--coca-contrastive-loss-weight 0 --coca-caption-loss-weight 0", "nothing would be trained"),
    ],
)
def test_what_a_coca_does_not_do(refused, tmp_path, flags, says):
    """OpenCLIP finds it out once all is built, or trains nothing without a word."""
    size = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    vision = {**TINY["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    text = {**TINY["text_cfg"], "width": 32, "embed_cls": True, "output_tokens": True}
    towers = {"vision_cfg": vision, "text_cfg": text, "multimodal_cfg": size, "custom_text": True}
    (tmp_path / "coca_tiny.json").write_text(json.dumps({**TINY, **towers}))
    assert says in refused("--model-config", str(tmp_path), "--model", "coca_tiny", *flags.split())


def saved(content: object, save=torch.save) -> bytes:
    file = io.BytesIO()
    save(content, file)
    return file.getvalue()


@pytest.mark.parametrize("flag", ["--resume", "--pretrained", "--distill-pretrained"])
def test_a_file_that_is_no_checkpoint(refused, tmp_path, shards, flag):
    torch.save({"epoch": 1}, tmp_path / "whole.pt")
    files = {
        "page.pt": (b"<html><body>404</body></html>", "the file begins with b'<html>"),
        "empty.pt": (b"", "the file is empty"),
        "shard.pt": ((shards / "00.tar").read_bytes(), "it is a tar"),
        "half.safetensors": (b"\x40" + 7 * b"\0" + b'{"x":{"dtype"', "the file is cut short"),
        "renamed.pt": (b"\x40" + 7 * b"\0" + b'{"x":{"dtype"', "it is safetensors"),
        "half.pt": ((tmp_path / "whole.pt").read_bytes()[:300], "the file is cut short"),
        "settings.pt": (saved({"state_dict": {}, "args": argparse.Namespace()}), "it holds argparse.Namespace beside"),
        "pickle.pt": (pickle.dumps({"epoch": 1}), "it is a pickle of something else than tensors"),
        "script.pt": (saved(torch.jit.script(torch.nn.Identity()), torch.jit.save), "it is a TorchScript archive"),
    }
    for name, (content, says) in files.items():
        (tmp_path / name).write_bytes(content)
        teacher = ["--distill-model", "tiny-clip"] if "distill" in flag else []
        line = refused(*teacher, flag, str(tmp_path / name))
        assert f"{flag} {tmp_path / name}: cannot be read as a checkpoint ({says}" in line


def test_the_newest_checkpoint_is_looked_at_before_it_is_resumed(trainer, capsys):
    assert trainer("--resume", "latest") == 2
    assert "--resume latest: the run that it goes on with is not named" in capsys.readouterr().err
    assert not trainer.logs.exists()
    assert trainer("--name", "x", "--resume", "latest") == 0  # there is none yet: as OpenCLIP does
    first = trainer.run("x") / "checkpoints" / "epoch_1.pt"
    first.write_bytes(b"")
    capsys.readouterr()
    assert trainer("--name", "x", "--resume", "latest", "--epochs", "3") == 2
    error = capsys.readouterr().err
    assert "epoch_1.pt: cannot be read as a checkpoint (the file is empty)" in error and len(error.splitlines()) == 1
    assert first.exists() and trainer.log("x")  # and all else is still there


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"SLURM_NTASKS": "4"}, "SLURM_NTASKS=4 in the environment"),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "3"}, "start with srun"),
        ({"WORLD_SIZE": "2"}, "MASTER_ADDR, MASTER_PORT, RANK is not set"),
        ({"WORLD_SIZE": "two"}, "no numbers"),
    ],
)
def test_an_environment_that_speaks_of_other_processes(refused, monkeypatch, environment, says):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert says in refused()


# --- whatever OpenCLIP, a library or we raise on the way to the first step -------------------------------------------


def given_up(trainer, capsys, *argv: str, data: list[str] | None = None) -> str:
    """The one line of a run that fails, whose name is free again: it then trains."""
    assert trainer("--name", "x", *argv, data=data) == 2
    errors = capsys.readouterr().err
    (line,) = (line for line in errors.splitlines() if line.startswith("open_clip_fff.train: error: "))
    assert "Traceback" not in errors and not list(trainer.logs.iterdir())
    assert trainer("--name", "x") == 0
    return line


@pytest.mark.parametrize("method", [[], ["--method", "clip"], ["--loss", "fff"]])
def test_open_clips_own_words(trainer, capsys, monkeypatch, method):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    line = given_up(trainer, capsys, *method, "--model", "RN50", "--pretrained", "yfcc15m", "--cache-dir", "/dev/null")
    assert "OpenCLIP stopped before the first step: Failed to download weights for tag 'yfcc15m'" in line
    assert "RuntimeError in open_clip/factory.py, line" in line and "--debug shows the traceback" in line


def test_the_first_backward_counts_as_well(trainer, capsys):
    line = given_up(trainer, capsys, "--opt", "timm/adahessian", "--lr", "1e-3")
    assert "does not require grad" in line and "open_clip_train/train.py" in line


def test_an_evaluation_alone_needs_rows(refused, tmp_path):
    (tmp_path / "empty.csv").write_text("filepath\ttitle\n")
    assert "--val-data: empty.csv holds no sample" in refused("--val-data", str(tmp_path / "empty.csv"), data=[])


def test_its_way_of_giving_up(trainer, capsys, tmp_path, monkeypatch):
    """`main` returns -1, and the reason is what was logged."""
    (tmp_path / "aws").write_text("#!/bin/sh\necho no credentials >&2\nexit 1\n")
    (tmp_path / "aws").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    line = given_up(trainer, capsys, "--remote-sync", "s3://nowhere")
    assert "Failed to sync with S3 bucket no credentials" in line


def test_a_plugins_mistake_names_its_line(trainer, capsys, monkeypatch):
    monkeypatch.setenv("FAILING", "0:0:error")
    line = given_up(trainer, capsys, *FAILS)
    assert "failing_plugin.py stopped before the first step: on purpose, in two lines (RuntimeError in " in line
    assert trainer("--name", "y", *FAILS, "--debug") == 2
    errors = capsys.readouterr().err
    assert "Traceback" in errors and "raise self.error" in errors
    assert errors.splitlines()[-1].startswith("open_clip_fff.train: error: failing_plugin.py")


def test_a_mistake_in_a_loaders_worker_comes_without_the_workers_traceback(trainer, capsys, monkeypatch):
    import open_clip_train.data

    def fail(self, index):
        raise KeyError(f"row {index} on purpose")

    monkeypatch.setattr(open_clip_train.data.SyntheticDataset, "__getitem__", fail)
    synthetic = ["--dataset-type", "synthetic", "--train-num-samples", "16", "--workers", "1"]
    line = given_up(trainer, capsys, data=synthetic)
    assert re.search(r"stopped before the first step: .?row \d+ on purpose.? \(KeyError in ", line)


def test_too_few_rows_for_a_step_leave_no_folder(trainer, capsys):
    data = ["--dataset-type", "synthetic", "--train-num-samples", "32"]
    line = given_up(trainer, capsys, "--loss", "fff", "--batch-size", "64", data=data)
    assert "filled no step" in line or "fewer rows than one step" in line


@pytest.mark.parametrize("flags", ["--batch-size 65", "--batch-size 16 --accum-freq 5", "--batch-size 33 --workers 2"])
def test_tars_with_fewer_rows_than_a_step(trainer, capsys, flags):
    """For OpenCLIP's losses, whose loaders drop what fills no mini-batch; ours read rows again."""
    assert trainer("--name", "x", "--method", "clip", *flags.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert not trainer.logs.exists()
    assert "--batch-size and --accum-freq: an epoch holds fewer rows than one step takes" in line
    assert "4 shards with 64; lower them" in line and ("--workers" in line) == ("--workers" in flags)


@pytest.mark.parametrize("flags", ["--batch-size 33", "--batch-size 16 --accum-freq 3"])
def test_a_table_with_fewer_rows_than_a_step(refused, trainer, flags):
    line = refused("--method", "clip", *flags.split(), data=trainer.table)
    step = 33 if flags == "--batch-size 33" else 48
    assert (
        f"--batch-size and --accum-freq: an epoch holds fewer rows than one step takes, {step}: train.csv has 32"
        in line
    )


def test_ctrl_c_before_the_first_step_is_one_line(trainer, monkeypatch, capsys):
    monkeypatch.setenv("FAILING", "0:0:ctrl-c")
    assert trainer("--name", "x", *FAILS) == 130 and not list(trainer.logs.iterdir())
    assert capsys.readouterr().err.endswith("\nopen_clip_fff.train: interrupted; what is not saved yet is lost\n")


def test_after_the_first_step_an_exception_stays_one(trainer, monkeypatch):
    monkeypatch.setenv("FAILING", "0:1:error")
    with pytest.raises(RuntimeError, match="on purpose"):
        trainer("--name", "x", *FAILS)
    assert "Train Epoch: 0" in trainer.log("x")


def test_only_what_a_run_has_made_goes(trainer, monkeypatch):
    monkeypatch.setenv("FAILING", "0:0:error")
    notes = trainer.run("x") / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    assert trainer("--name", "x", *FAILS) == 2
    assert notes.read_text() == "mine"
    assert trainer("--name", "y") == 0
    assert trainer("--name", "y", *FAILS, "--resume", "latest", "--epochs", "2") == 2
    assert trainer.checkpoint("y")["epoch"] == 1 and trainer.log("y")


# --- what is said, and what trains ------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["timm/lamb", "timm/lookahead_adamw"])
def test_a_timm_optimizer_trains_with_a_learning_rate_alone(trainer, optimizer):
    started = ["--loss", "fff", "--ema-decay", "0.5"] if "lookahead" in optimizer else []
    assert trainer("--name", "x", "--opt", optimizer, "--lr", "1e-3", *started) == 0
    groups = trainer.checkpoint("x")["optimizer"]["param_groups"]
    assert all(group["eps"] in (1e-6, 1e-8) for group in groups)  # timm's own
    if started:
        extra = torch.load(trainer.run("x") / "checkpoints" / "epoch_1.extra", weights_only=True)
        assert extra["ema"]["steps"] == 4


def test_debug_is_no_flag_of_ours(trainer):
    from open_clip_fff.train import main

    argv = [*trainer.common, "--dataset-type", "synthetic", "--train-num-samples", "32"]
    assert main([*argv, "--name", "plain"]) == 0 and main([*argv, "--debug", "--name", "debug"]) == 0
    assert_equal_checkpoints(trainer.checkpoint("plain"), trainer.checkpoint("debug"))
    assert "FFF" not in trainer.log("debug")


def test_a_class_key_with_nothing_to_judge_is_a_warning(trainer, capsys):
    assert trainer("--name", "x", "--method", "clip", "--class-key", "json") == 0
    assert capsys.readouterr().out.count("warning: --class-key tells which mined pairs are right") == 1


def test_flags_of_open_clips_that_do_nothing_are_told(trainer, capsys):
    locks = ["--lock-image-unlocked-groups", "1", "--lock-text-freeze-layer-norm", "--epochs-cooldown", "1"]
    augmentation = ["--aug-cfg", "color_jitter=(0.1,0.1,0.1,0.1)", "re_prob=0.2"]
    assert trainer("--name", "x", "--method", "clip", "--momentum", "0.9", *locks, *augmentation) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if " does nothing without " in line]
    assert told == [
        "warning: --lock-image-unlocked-groups does nothing without --lock-image",
        "warning: --lock-text-freeze-layer-norm does nothing without --lock-text",
        "warning: --epochs-cooldown does nothing without --lr-scheduler const-cooldown",
        "warning: --momentum does nothing without an optimizer of timm's, as --opt timm/sgd",
        "warning: --aug-cfg re_prob does nothing without use_timm=True",
        "warning: --aug-cfg color_jitter does nothing without color_jitter_prob, or use_timm=True",
    ]


# --- several processes ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failing", "flags", "line"),
    [
        ("1:0:error", FAILS, "rank 1: failing_plugin.py stopped before the first step: on purpose"),
        ("", ["--opt", "timm/adahessian", "--lr", "1e-3"], "OpenCLIP stopped before the first step: element 0"),
    ],
    ids=["one rank", "all ranks"],
)
def test_one_of_several_ranks_tells(trainer, monkeypatch, failing, flags, line):
    monkeypatch.setenv("FAILING", failing)
    argv = [*trainer.common, *trainer.tars, "--model-config", str(trainer.config), "--name", "x", *flags]
    done = torchrun(2, "-m", "open_clip_fff.train", "--", *argv)
    told = [each for each in done.stderr.splitlines() if each.startswith("open_clip_fff.train: error: ")]
    assert done.returncode and len(told) == 1 and told[0].startswith(f"open_clip_fff.train: error: {line}"), done.stderr
    assert not (trainer.logs / "x").exists()
    assert "exitcode  : 2" in done.stderr
