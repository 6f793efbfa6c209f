"""The trainer as a user runs it: stock runs bit for bit, every method on real tars and a real CSV, resume, hooks."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.conftest import DRAWN, colour_image, write_tar

FFF = ["--method", "fff", "--captions-per-image", "4", "--json-text-key", "captions"]


def mining(teacher, *thresholds: str) -> list[str]:
    values = dict(zip(("--p1", "--p2", "--p3", "--p1-prime"), thresholds, strict=True))
    flags = [word for pair in values.items() for word in pair]
    return ["--mining-model", "tiny-clip", "--mining-pretrained", str(teacher), *flags]


def assert_equal_checkpoints(a: dict, b: dict) -> None:
    assert a["state_dict"].keys() == b["state_dict"].keys()
    for name, tensor in a["state_dict"].items():
        assert torch.equal(tensor, b["state_dict"][name]), name
    for number, state in a["optimizer"]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, b["optimizer"]["state"][number][name])


@pytest.mark.parametrize("kind", ["csv", "synthetic"])
@pytest.mark.parametrize("siglip", [False, True])
def test_with_none_of_our_flags_training_is_open_clips_own(trainer, kind, siglip):
    from open_clip_train.main import main as open_clip_main

    from open_clip_fff.train import main

    data = trainer.table if kind == "csv" else ["--dataset-type", "synthetic", "--train-num-samples", "32"]
    argv = [*trainer.common, *data, *(["--siglip"] if siglip else []), "--epochs", "2", "--seed", "3"]
    open_clip_main([*argv, "--name", "theirs"])
    assert main([*argv, "--name", "ours"]) == 0
    assert_equal_checkpoints(trainer.checkpoint("theirs", 2), trainer.checkpoint("ours", 2))


@pytest.mark.parametrize("method", ["clip", "siglip"])
def test_a_stock_method_is_open_clips_own(trainer, method):
    from open_clip_train.main import main as open_clip_main

    stock = [*trainer.common, *trainer.table, "--name", "theirs"]
    open_clip_main(stock + (["--siglip"] if method == "siglip" else []))
    assert trainer("--method", method, "--name", "ours", data=trainer.table) == 0
    assert_equal_checkpoints(trainer.checkpoint("theirs"), trainer.checkpoint("ours"))


def test_fff_trains_on_tars_with_mining(trainer, teacher, capsys):
    assert trainer(*FFF, *mining(teacher, "0.2", "0.97", "0.97", "0.0"), "--name", "fff") == 0
    printed, log = capsys.readouterr().out, trainer.log("fff")
    # the plan, the coverage, three rows as strings
    assert re.search(r"method +fff: FFF, .*\n +given: .*--p1,", printed) and "image-text > p1 0.2, " in printed
    plan = printed[printed.index("  method ") : printed.index("Captions in ")]
    assert f"The plan:\n{plan}" in log and "The plan:" not in printed  # in the log, too, and shown once
    assert re.search(r"txt +text in 100.00% of rows, 1.00 captions per row", printed)
    assert re.search(r"json:captions +text in 100.00% of rows, 2.50 captions per row", printed)
    assert "1 'img 0'" in printed and "2 'a red square'" in printed
    # every step shows what was mined, beside OpenCLIP's line
    assert log.count("Train Epoch: 0") == log.count("FFF Epoch: 0") == 4
    rates = [float(x) for x in re.findall(r"Mined/image: ([\d.]+)", log)]
    assert len(rates) == 4 and min(rates) > 0
    assert "Logit bias starts at" in log
    # what the method stood for is kept
    params = (trainer.run("fff") / "params.txt").read_text()
    assert "method: fff\n" in params and "p1: 0.2\n" in params and "caption_policy: all\n" in params


@pytest.mark.slow
def test_a_hub_format_folder_mines(trainer, tmp_path, export_here):
    assert trainer("--method", "clip", "--name", "clip") == 0
    export_here(trainer.run("clip"), tmp_path / "miner")
    mines = ["--p1", "off", "--p3", "off", "--p2", "-1", "--mined-cap", "3", "--mined-as", "ignore"]
    assert trainer(*FFF, "--mining-model", str(tmp_path / "miner"), *mines, "--name", "mined") == 0
    assert (
        trainer(*FFF, "--mining-model", str(tmp_path / "miner"), *mines, "--ignore-band", "0.1", "--name", "band") == 0
    )
    assert len(re.findall(r"Mined/image: 3.000 .* Ignored: [1-9]", trainer.log("band"))) == 4
    # everything is alike enough, the cap leaves three captions, and ignored ones are not positives
    assert re.findall(r"Mined/image: ([\d.]+)", trainer.log("mined")) == ["3.000"] * 4


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "1", "3"])
def test_the_same_seed_gives_the_same_run_on_tars(trainer, teacher, workers):
    argv = [*FFF, *mining(teacher, "0.2", "0.97", "0.97", "0.0"), "--workers", workers, "--epochs", "2"]
    for name, seed in (("a", "5"), ("b", "5"), ("other", "6")):
        assert trainer(*argv, "--seed", seed, "--name", name) == 0
    assert_equal_checkpoints(trainer.checkpoint("a", 2), trainer.checkpoint("b", 2))
    with pytest.raises(AssertionError):
        assert_equal_checkpoints(trainer.checkpoint("a", 2), trainer.checkpoint("other", 2))


@pytest.mark.slow
def test_equal_captions_from_any_source_train_equally(trainer, tmp_path):
    """The same two captions as tar members, as json in three forms, and as a sidecar: the same batches, bit for bit."""
    captions = {
        f"{shard:02d}": {f"{row:04d}": [f"number {row}", f"shard {shard}, number {row}"] for row in range(16)}
        for shard in range(2)
    }

    def members(form: str, first: str, second: str) -> dict[str, bytes]:
        fields = {
            "members": None,
            "list": {"captions": [first, second]},
            "nested": {"meta": {"generated": [{"text": first}, {"text": second}]}},
            "pattern": {"short_caption": first, "other": "x", "long_caption": second},
            "sidecar": None,
        }[form]
        texts = {"txt": first, "caption": second} if form == "members" else {}
        encoded = {name: text.encode() for name, text in texts.items()}
        return encoded | ({} if fields is None else {"json": json.dumps(fields).encode()})

    flags = {
        "members": ["--text-key", "txt;caption"],
        "list": ["--text-key", "", "--json-text-key", "captions"],
        "nested": ["--text-key", "", "--json-text-key", "meta.generated.text"],
        "pattern": ["--text-key", "", "--json-text-key", "re:.*_caption"],
        "sidecar": ["--text-key", "", "--caption-sidecar", str(tmp_path / "sidecar")],
    }
    for form, sources in flags.items():
        (tmp_path / form).mkdir()
        for shard, rows in captions.items():
            tar = tmp_path / form / f"{shard}.tar"
            images = {key: {"png": colour_image("red", int(shard + key))} for key in rows}
            write_tar(tar, {key: {**images[key], **members(form, *texts)} for key, texts in rows.items()})
            if form == "sidecar":
                table = {"key": list(rows), "captions": list(rows.values())}
                pq.write_table(pa.table(table), tar.with_suffix(".parquet"))
        data = ["--train-data", str(tmp_path / form / "{00..01}.tar"), "--train-num-samples", "32"]
        argv = ["--method", "fff", "--mining-features", "off", "--captions-per-image", "2", "--name", form]
        assert trainer(*argv, *sources, data=data) == 0
        assert_equal_checkpoints(trainer.checkpoint("members"), trainer.checkpoint(form))


def test_softmax_trains_and_keeps_the_stock_optimizer(trainer, teacher):
    argv = ["--method", "fff-softmax", *FFF[2:], *mining(teacher, "0.2", "off", "off", "off"), "--name", "softmax"]
    assert trainer(*argv) == 0
    checkpoint = trainer.checkpoint("softmax")
    assert "logit_bias" not in checkpoint["state_dict"] and len(checkpoint["optimizer"]["param_groups"]) == 2


def test_one_caption_drawn_per_visit_keeps_open_clips_loss(trainer):
    assert trainer(*DRAWN, "--name", "sample") == 0
    assert "FFF Epoch" not in trainer.log("sample")


def test_fff_trains_on_a_csv_with_two_columns(trainer):
    data = [*trainer.table[:-1], "title;pseudo"]
    argv = ["--loss", "fff", "--captions-per-image", "2", "--mining-features", "off", "--name", "csv"]
    assert trainer(*argv, data=data) == 0
    # own captions only: 2 positives of 32 captions per image
    assert "Positives: 6.250%" in trainer.log("csv")


def test_fff_trains_on_synthetic_data_where_no_image_has_an_id(trainer):
    data = ["--dataset-type", "synthetic", "--train-num-samples", "32"]
    assert trainer("--loss", "fff", "--name", "synthetic", data=data) == 0
    assert "Positives: 6.250%" in trainer.log("synthetic")


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["fff", "softmax", "s-itc"])
def test_accumulation_equals_the_doubled_batch(trainer, teacher, loss):
    """Two micro-batches of 8 train as one batch of 16: assignment, towers, scale and bias (contract 11)."""
    shared = [
        *("--loss", loss, "--captions-per-image", "2", "--opt", "timm/sgd", "--momentum", "0.9", "--lr", "0.1"),
        *("--mining-features", "frozen", *mining(teacher, "0.2", "0.97", "0.97", "0.0")),
        *("--logit-scale-init", "10"),
    ]
    if (
        loss == "s-itc"
    ):  # with a discriminator of the whole accumulated batch's hardest pairs, and smoothed from the start
        shared += ["--plugin", "tests.colour_discriminator", "--discriminator", "colours", "--smoothing-start", "0"]
    data = [*trainer.table[:-1], "title;pseudo"]
    assert trainer(*shared, "--batch-size", "16", "--name", "whole", data=data) == 0
    assert trainer(*shared, "--batch-size", "8", "--accum-freq", "2", "--name", "halves", data=data) == 0
    whole, halves = trainer.checkpoint("whole"), trainer.checkpoint("halves")
    pairs = [(halves["state_dict"][name], tensor) for name, tensor in whole["state_dict"].items()]
    momenta = [[state["momentum_buffer"] for state in x["optimizer"]["state"].values()] for x in (halves, whole)]
    for found, expected in [*pairs, *zip(*momenta, strict=True)]:  # weights, and gradients by the momentum
        assert (found - expected).norm() <= 5e-6 * expected.norm()
    mined = [re.findall(r"Mined/image: ([\d.]+)", trainer.log(name)) for name in ("whole", "halves")]
    assert mined[0] == mined[1] and float(mined[0][0]) > 0
    judged = [re.findall(r"False negatives: [^P]*", trainer.log(name)) for name in ("whole", "halves")]
    assert judged[0] == judged[1] and len(judged[0]) == (2 if loss == "s-itc" else 0)
    assert not any(line.startswith("False negatives: 0.0%") for line in judged[0])


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["amp_bf16", "pure_bf16"])
def test_lower_precision(trainer, teacher, precision):
    thresholds = mining(teacher, "0.2", "0.97", "0.97", "0.0")
    assert trainer(*FFF, *thresholds, "--precision", precision, "--name", precision) == 0
    assert trainer(*FFF, *thresholds, "--name", "fp32") == 0
    first = [re.search(r"Mined/image: ([\d.]+)", trainer.log(name))[1] for name in (precision, "fp32")]
    assert first[0] == first[1]  # what mines is float32 whatever the training is


@pytest.mark.slow
def test_resume_goes_on_as_if_never_stopped(trainer, teacher):
    """Equal to the last bit, where nothing random is left but the order of the shards and rows, which is seeded."""
    still = ["--aug-cfg", "scale=(1.0,1.0)"]
    argv = [*FFF, *mining(teacher, "0.2", "0.97", "0.97", "0.0"), "--epochs", "2", *still]
    assert trainer(*argv, "--name", "straight") == 0
    assert trainer(*argv, "--name", "resumed", "--resume", str(trainer.run("straight") / "checkpoints/epoch_1.pt")) == 0
    log = trainer.log("resumed")
    assert "Logit bias starts at" not in log and "Start epoch 1" in log
    assert_equal_checkpoints(trainer.checkpoint("straight", 2), trainer.checkpoint("resumed", 2))


@pytest.mark.parametrize(("first", "second"), [("20", "1"), ("1", "20")])
def test_resume_with_another_learning_rate_for_the_scalars_is_refused(trainer, capsys, first, second):
    argv = [*FFF, "--mining-features", "off", "--epochs", "2"]
    assert trainer(*argv, "--logit-lr-mult", first, "--name", "first") == 0
    resume = ["--resume", str(trainer.run("first") / "checkpoints/epoch_1.pt")]
    assert trainer(*argv, *resume, "--logit-lr-mult", second, "--name", "second") == 2
    assert "--logit-lr-mult" in capsys.readouterr().err


def test_scale_and_bias_have_a_learning_rate_of_their_own(trainer):
    argv = ["--loss", "fff", "--opt", "timm/sgd", "--lr", "0.01", "--logit-bias-init", "-2"]
    starts = {}
    for multiple in ("1", "10"):
        name = f"x{multiple}"
        data = ["--dataset-type", "synthetic", "--train-num-samples", "16"]
        assert trainer(*argv, "--logit-lr-mult", multiple, "--warmup", "0", "--name", name, data=data) == 0
        starts[multiple] = trainer.checkpoint(name)["state_dict"]["logit_bias"].item() + 2
    assert starts["10"] == pytest.approx(10 * starts["1"], rel=1e-3)
    for scheduler in ("const", "const-cooldown"):
        more = ["--lr-scheduler", scheduler, "--epochs-cooldown", "1", "--logit-lr-mult", "10", "--name", scheduler]
        assert trainer(*argv, *more) == 0
        groups = trainer.checkpoint(scheduler)["optimizer"]["param_groups"]
        assert groups[-1]["lr"] == pytest.approx(10 * groups[0]["lr"]) and groups[-1]["weight_decay"] == 0
        assert len(groups[-1]["params"]) == 2


@pytest.mark.parametrize("method", [[], ["--method", "fff", "--mining-features", "off"]], ids=["stock", "ours"])
@pytest.mark.parametrize(
    "schedule", [["--warmup", "1"], ["--lr-scheduler", "const-cooldown", "--warmup", "0", "--epochs-cooldown", "0"]]
)
def test_a_schedule_without_steps_of_its_own_ends_where_the_run_does(trainer, method, schedule):
    """Two batches are left over by --accum-freq: OpenCLIP asks for the rate of a second step, and divides by zero."""
    argv = [*method, *schedule, "--batch-size", "12", "--accum-freq", "3", "--name", "x"]
    data = [*trainer.tars[:3], "60", *(["--json-text-key", "captions"] if method else [])]
    assert trainer(*argv, data=data) == 0
    assert trainer.log("x").count("Train Epoch") == 1


@pytest.mark.slow
def test_pretrained_weights_keep_their_scale_and_get_a_measured_bias(trainer, tmp_path):
    import open_clip

    model = open_clip.create_model("tiny-clip")
    with torch.no_grad():
        model.logit_scale.fill_(3.0)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    argv = [*FFF, "--mining-features", "off", "--pretrained", str(tmp_path / "weights.pt"), "--lr", "1e-9"]
    assert trainer(*argv, "--name", "kept") == 0
    assert trainer.checkpoint("kept")["state_dict"]["logit_scale"].item() == pytest.approx(3.0, abs=1e-4)
    assert "Logit bias starts at" in trainer.log("kept")
    assert trainer(*argv, "--logit-scale-init", "5", "--logit-bias-init", "-3", "--name", "typed") == 0
    state = trainer.checkpoint("typed")["state_dict"]
    assert state["logit_scale"].exp().item() == pytest.approx(5.0, rel=1e-4)
    assert state["logit_bias"].item() == pytest.approx(-3.0, abs=1e-4)
    # a model trained with a bias keeps it
    again = ["--pretrained", str(trainer.run("typed") / "checkpoints/epoch_1.pt")]
    assert trainer(*argv[:-4], *again, "--lr", "1e-9", "--name", "again") == 0
    assert trainer.checkpoint("again")["state_dict"]["logit_bias"].item() == pytest.approx(-3.0, abs=1e-4)


def test_validation_reads_the_same_keys_and_the_first_caption(trainer, shards):
    argv = [*FFF, "--mining-features", "off", "--text-key", "", "--val-data", str(shards / "00.tar")]
    assert trainer(*argv, "--val-num-samples", "16", "--name", "val") == 0
    assert "image_to_text_R@1" in trainer.log("val")


def test_tensorboard_gets_what_the_log_shows(trainer, teacher):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    argv = [*FFF, *mining(teacher, "0.2", "0.97", "0.97", "0.0"), "--report-to", "tensorboard", "--name", "board"]
    assert trainer(*argv) == 0
    events = EventAccumulator(str(trainer.run("board") / "tensorboard")).Reload()
    shown = [float(x) for x in re.findall(r"Mined/image: ([\d.]+)", trainer.log("board"))]
    logged = [event.value for event in events.Scalars("train/mined_per_image")]
    assert logged == pytest.approx(shown, abs=1e-3)
    for tag in (
        "mined_image_text",
        "mined_image_image",
        "mined_text_text",
        "positive_share",
        "logit_scale",
        "logit_bias",
    ):
        assert len(events.Scalars(f"train/{tag}")) == 4


def test_nothing_stays_patched_after_a_run(trainer):
    import open_clip_train.data
    import open_clip_train.main
    import timm.optim
    import webdataset

    def names() -> list[int]:
        modules = (open_clip_train.main, open_clip_train.data, timm.optim, webdataset)
        return [id(value) for module in modules for value in vars(module).values()]

    before = names()
    assert trainer(*FFF, "--mining-features", "off", "--name", "scoped") == 0
    assert trainer("--loss", "unknown", "--name", "failed") == 2
    assert names() == before
