"""Validation with all captions: its arithmetic, what it reads, and that nothing else notices it."""

import io
import json
import random
import shutil

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from open_clip_fff import CaptionBatch
from open_clip_fff.config.command_line import parse_open_clip
from open_clip_fff.config.flags import split
from open_clip_fff.config.resolve import make_plan
from open_clip_fff.host.report import recall as recall_at_k
from open_clip_fff.host.report.recall import TIE, TOPS, recall
from open_clip_fff.host.state import RunState
from open_clip_fff.host.validation import validate
from tests.conftest import COLOURS, DRAWN, colour_image, colour_sample, write_tar

FFF = ["--method", "fff", "--mining-features", "off", "--captions-per-image", "4", "--json-text-key", "captions"]
BOTH_COLUMNS = "title;pseudo"


def recall_by_sorting(image, text, image_ids, text_ids) -> dict[str, float]:
    """Each query's targets sorted in a list, best first, and among equals its own ones last."""

    def share(scores: list[list[float]], query_ids: list[int], target_ids: list[int], k: int) -> float:
        hits = 0
        for row, query in zip(scores, query_ids, strict=True):
            own = [target == query for target in target_ids]
            best = max((score for score, mine in zip(row, own, strict=True) if mine), default=-np.inf)
            level = [best if abs(score - best) <= TIE else score for score in row]
            order = sorted(range(len(row)), key=lambda j: (-level[j], own[j]))
            hits += any(own[j] for j in order[:k])
        return hits / len(scores)

    scores = (image @ text.t()).tolist()
    turned = [list(column) for column in zip(*scores, strict=True)]
    images, texts = image_ids.tolist(), text_ids.tolist()
    directions = {"image_to_text": (scores, images, texts), "text_to_image": (turned, texts, images)}
    return {f"{name}_R@{k}": share(*given, k) for name, given in directions.items() for k in TOPS}


@pytest.mark.parametrize("block", [1, 100, 2**22])
@pytest.mark.parametrize("levels", [0, 2])
def test_recall_is_that_of_a_sorted_list(monkeypatch, block, levels):
    """Ragged captions in any order, an image that is there twice, and, with few levels, many equal scores."""
    generator = torch.Generator().manual_seed(levels)
    image_ids = torch.arange(40)[torch.randperm(40, generator=generator)]
    image_ids[7] = image_ids[3]
    text_ids = image_ids.repeat_interleave(torch.randint(1, 6, (40,), generator=generator))
    text_ids = text_ids[torch.randperm(len(text_ids), generator=generator)]
    prototype = torch.randn(40, 6, generator=generator)

    def features(ids: torch.Tensor) -> torch.Tensor:
        x = prototype[ids] + torch.randn(len(ids), 6, generator=generator)
        return (x * levels).round().clamp(-1, 1) if levels else F.normalize(x, dim=-1)

    image, text = features(image_ids), features(text_ids)
    monkeypatch.setattr(recall_at_k, "BLOCK", block)
    found = recall(image, text, image_ids, text_ids)
    assert found == pytest.approx(recall_by_sorting(image, text, image_ids, text_ids))
    assert 0 < found["image_to_text_R@1"] < found["image_to_text_R@5"] < found["image_to_text_R@10"] < 1


def test_any_own_caption_is_a_hit_and_a_twin_is_no_rival():
    image = F.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.01, 1.0]]), dim=-1)
    text = F.normalize(torch.tensor([[-1.0, 0.0], [0.0, 1.0], [1.0, 0.1]]), dim=-1)
    found = recall(image, text, torch.tensor([5, 9, 9]), torch.tensor([5, 9, 5]))
    # image 5: its last caption leads. Images 9 are one. The caption that points away has both of them before it.
    assert found["image_to_text_R@1"] == 1.0 and found["text_to_image_R@1"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("value", [0.5, float("nan")])
def test_a_collapsed_model_finds_nothing(value):
    image, text = torch.full((30, 8), value), torch.full((60, 8), value)
    found = recall(image, text, torch.arange(30), torch.arange(30).repeat_interleave(2))
    assert set(found.values()) == {0.0}


def test_an_image_without_a_caption_is_never_found():
    image, text = torch.eye(3), torch.eye(3)[:2]
    found = recall(image, text, torch.arange(3), torch.arange(2))
    assert found["image_to_text_R@10"] == pytest.approx(2 / 3) and found["text_to_image_R@1"] == 1.0


class Largest(TorchDispatchMode):
    """The most bytes of any one tensor that is made meanwhile."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and not func.is_view:
            self.bytes = max(self.bytes, out.nbytes)
        return out


def test_memory_is_that_of_a_block(monkeypatch):
    monkeypatch.setattr(recall_at_k, "BLOCK", 25_000)
    image, text = torch.randn(500, 4), torch.randn(2500, 4)
    with Largest() as largest:
        recall(image, text, torch.arange(500), torch.arange(500).repeat_interleave(5))
    assert 80_000 <= largest.bytes <= 100_000  # 25,000 float32; all pairs would be 5 MB


def results(trainer, name: str, file: str = "fff_results.jsonl") -> list[dict]:
    return [json.loads(line) for line in (trainer.run(name) / "checkpoints" / file).read_text().splitlines()]


def captions_of_tars(rows: int) -> list[list[str]]:
    """Up to four captions of each of the first colour samples: the raw one, then those in the json."""
    samples = [colour_sample(row) for row in range(rows)]
    return [[s["txt"].decode(), *json.loads(s["json"])["captions"]][:4] for s in samples]


def expected(checkpoint: dict, captions: list[list[str]]) -> dict[str, float]:
    """The numbers of one epoch from its checkpoint, by stock OpenCLIP, plain lists and a dense loss."""
    state = checkpoint["state_dict"]
    options = {"init_logit_bias": 0.0} if "logit_bias" in state else {}
    model, _, prepare = open_clip.create_model_and_transforms("tiny-clip", **options)
    model.load_state_dict(state)
    tokenize, model = open_clip.get_tokenizer("tiny-clip"), model.eval()
    pictures = [Image.open(io.BytesIO(colour_image(list(COLOURS)[row % 4], row))) for row in range(len(captions))]
    with torch.no_grad():
        image = model.encode_image(torch.stack([prepare(picture) for picture in pictures]), normalize=True)
        text = model.encode_text(tokenize([text for texts in captions for text in texts]), normalize=True)
    ids = torch.arange(len(captions))
    text_ids = ids.repeat_interleave(torch.tensor([len(texts) for texts in captions]))
    values = {f"all_captions_{k}": v for k, v in recall_by_sorting(image, text, ids, text_ids).items()}
    if options:
        total = 0.0
        for some in ids.split(16):
            columns = torch.isin(text_ids, some)
            logits = state["logit_scale"].exp() * image[some] @ text[columns].t() + state["logit_bias"]
            sign = torch.where(some[:, None] == text_ids[columns], 1.0, -1.0)
            total += F.softplus(-sign * logits).sum().item()
        values["sigmoid_val_loss"] = total / len(captions)
    return values | {"num_images": len(captions), "num_captions": len(text)}


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("argv", [FFF, DRAWN], ids=["fff", "clip"])
def test_tars(trainer, shards, argv, workers):
    val = ["--val-data", str(shards / "{00..01}.tar"), "--val-num-samples", "32", "--workers", workers]
    assert trainer(*argv, *val, "--epochs", "2", "--name", "run") == 0
    for epoch, found in enumerate(results(trainer, "run"), start=1):
        assert found.pop("epoch") == epoch
        assert found == pytest.approx(expected(trainer.checkpoint("run", epoch), captions_of_tars(32)), rel=1e-4)
    assert epoch == 2
    log = trainer.log("run")
    assert log.count("FFF Eval Epoch: ") == 2 and "FFF Eval Epoch: 2 all 104 captions of 32 images: image-to" in log
    assert ("sigmoid_val_loss" in log) == (argv is FFF)


@pytest.mark.parametrize(
    "argv",
    [["--method", "fff-softmax", "--mining-features", "off"], ["--method", "clip", "--caption-policy", "sample"]],
    ids=["fff-softmax", "clip"],
)
def test_a_csv(trainer, csv, argv):
    data = [*trainer.table[:-1], BOTH_COLUMNS, "--val-data", str(csv)]
    assert trainer(*argv, "--captions-per-image", "2", "--name", "run", data=data) == 0
    captions = [[f"img {row}", f"a {list(COLOURS)[row % 4]} square"] for row in range(32)]
    (found,) = results(trainer, "run")
    assert found == pytest.approx({"epoch": 1, **expected(trainer.checkpoint("run"), captions)}, rel=1e-4)


@pytest.mark.slow
def test_stock_open_clip_with_validation_trains_and_validates_the_same(trainer, csv):
    """Its metrics, its file and, two epochs on, every weight: our pass leaves no trace in any of them."""
    from open_clip_train.main import main as open_clip_main

    argv = [*trainer.common, *trainer.table, "--val-data", str(csv), "--epochs", "3"]
    open_clip_main([*argv, "--name", "theirs"])
    ours = ["--method", "clip", "--captions-per-image", "2", "--caption-policy", "first", "--val-data", str(csv)]
    data = [*trainer.table[:-1], BOTH_COLUMNS]
    assert trainer(*ours, "--epochs", "3", "--name", "ours", data=data) == 0
    theirs, same = (results(trainer, name, "results.jsonl") for name in ("theirs", "ours"))
    assert len(theirs) == 3 and theirs == same
    assert not (trainer.run("theirs") / "checkpoints" / "fff_results.jsonl").exists()
    weights = [trainer.checkpoint(name, 3)["state_dict"] for name in ("theirs", "ours")]
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name
    assert [row["num_captions"] for row in results(trainer, "ours")] == [64] * 3


@pytest.mark.slow
def test_open_clips_numbers_are_those_of_the_first_caption(trainer, shards, tmp_path):
    """The same validation set with and without further captions: only our numbers tell them apart."""
    rows = {f"{row:04d}": colour_sample(row) for row in range(16)}
    lone = write_tar(tmp_path / "lone.tar", {key: {**members, "json": b"{}"} for key, members in rows.items()})
    for name, path in (("many", shards / "00.tar"), ("lone", lone)):
        argv = ["--val-data", str(path), "--val-num-samples", "16", "--epochs", "2", "--name", name]
        assert trainer(*FFF, *argv) == 0
    assert results(trainer, "many", "results.jsonl") == results(trainer, "lone", "results.jsonl")
    (many, _), (one, _) = results(trainer, "many"), results(trainer, "lone")
    assert (many["num_captions"], one["num_captions"]) == (52, 16)
    # with one caption each, all captions are the first ones
    stock = results(trainer, "lone", "results.jsonl")[0]
    for direction in ("image_to_text", "text_to_image"):
        assert one[f"all_captions_{direction}_R@10"] == pytest.approx(stock[f"{direction}_R@10"])


@pytest.mark.slow
def test_it_happens_when_open_clip_validates_and_tensorboard_gets_it(trainer, shards):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    val = ["--val-data", str(shards / "00.tar"), "--val-num-samples", "16", "--val-frequency", "2"]
    assert trainer(*FFF, *val, "--epochs", "3", "--report-to", "tensorboard", "--name", "board") == 0
    kept = results(trainer, "board")
    assert [row["epoch"] for row in kept] == [2, 3]
    events = EventAccumulator(str(trainer.run("board") / "tensorboard")).Reload()
    for name in kept[0].keys() - {"epoch"}:
        shown = [(event.step, event.value) for event in events.Scalars(f"val/{name}")]
        assert shown == [(row["epoch"], pytest.approx(row[name], rel=1e-6)) for row in kept]
    assert trainer(*FFF, *val[:-1], "0", "--name", "never") == 0
    assert not (trainer.run("never") / "checkpoints" / "fff_results.jsonl").exists()


def test_evaluation_only_and_a_sign_of_life(trainer, csv, tmp_path):
    """Without training data; 104 rows make 104 batches."""
    header, *rows = csv.read_text().splitlines()
    (tmp_path / "long.csv").write_text("\n".join([header, *(rows * 4)[:104]]) + "\n")
    table = ["--val-data", str(tmp_path / "long.csv"), "--csv-img-key", "filepath", "--csv-caption-key", BOTH_COLUMNS]
    argv = ["--loss", "fff", "--captions-per-image", "2", "--batch-size", "1", "--name", "only"]
    assert trainer(*argv, *table, data=[]) == 0
    assert "FFF Eval: all captions of [100 / 104] images encoded" in trainer.log("only")
    (found,) = results(trainer, "only")
    assert (found["epoch"], found["num_images"], found["num_captions"]) == (0, 104, 208)


def test_an_evaluation_alone_that_scores_nothing_says_so(trainer, csv):
    assert trainer("--name", "run", data=trainer.table) == 0
    at = trainer.run("run") / "checkpoints" / "epoch_1.pt"
    argv = ["--val-data", str(csv), "--csv-img-key", "filepath", "--epochs", "3", "--resume", str(at)]
    for every, said in ("2", True), ("1", False):
        assert trainer(*argv, "--val-frequency", every, "--name", every, data=[]) == 0
        line = "Nothing is scored: --val-frequency 2 passes over a checkpoint of 1 epoch; use 1"
        assert (line in trainer.log(every)) == said


def test_results_that_cannot_be_written_cost_no_epoch(trainer, csv):
    (trainer.run("run") / "checkpoints" / "fff_results.jsonl").mkdir(parents=True)
    assert trainer("--method", "clip", "--val-data", str(csv), "--name", "run", data=trainer.table) == 0
    assert "Results of epoch 1 are in the log alone: [Errno 21] Is a directory" in trainer.log("run")
    assert trainer.checkpoint("run")["epoch"] == 1


def test_too_little_memory_for_all_captions_costs_no_epoch(trainer, csv, monkeypatch):
    monkeypatch.setattr("open_clip_fff.host.validation.recall", lambda *_, **more: torch.empty(2**60))
    argv = ["--method", "clip", "--val-data", str(csv), "--ema-decay", "0.9", "--name", "x"]
    assert trainer(*argv, data=trainer.table) == 0
    for of_average in ("", " of the moving average"):
        assert f"Evaluation over all captions{of_average} after epoch 1 ended without results: " in trainer.log("x")
    assert trainer.checkpoint("x")["epoch"] == 1


def test_a_damaged_validation_image_is_not_counted_with_the_training_rows(trainer, csv, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "val.csv").write_text(f"{csv.read_text()}{tmp_path / 'bad.png'}\tbroken\tbroken\n")
    argv = ["--method", "clip", "--epochs", "2", "--val-data", str(tmp_path / "val.csv"), "--name", "run"]
    assert trainer(*argv, data=trainer.table) == 0
    log = trainer.log("run")
    assert "bad.png cannot be read" in log and "Rows skipped or damaged in epoch" not in log
    assert [row["num_images"] for row in results(trainer, "run")] == [33, 33]  # the next row stood in


def test_validation_on_what_is_trained_is_told(trainer, shards, csv, tmp_path, monkeypatch, capsys):
    told = "in --train-data, too: its figures are of images that are trained on\n"
    monkeypatch.chdir(shards)
    (tmp_path / "copy").mkdir()
    shutil.copy("00.tar", tmp_path / "copy" / "00.tar")
    for name, (val, line) in {
        "one": ("./03.tar", "--val-data: ./03.tar is"),
        "two": ("{02..03}.tar", "--val-data: 02.tar and 1 more are"),
        "none": (str(tmp_path / "copy" / "00.tar"), None),
    }.items():
        argv = ["--method", "clip", "--val-data", val, "--val-num-samples", "16", "--name", name]
        assert trainer(*argv) == 0
        out = capsys.readouterr().out
        assert told not in out if line is None else f"warning: {line} {told}" in out
    assert trainer("--method", "clip", "--val-data", str(csv), "--name", "table", data=trainer.table) == 0
    assert f"warning: --val-data: {csv} is {told}" in capsys.readouterr().out


@pytest.mark.parametrize("precision", ["amp_bf16", "pure_bf16"])
def test_lower_precision(trainer, shards, precision):
    val = ["--val-data", str(shards / "00.tar"), "--val-num-samples", "16"]
    for name in (precision, "fp32"):
        assert trainer(*FFF, *val, "--precision", name, "--name", name, data=[]) == 0
    low, full = (results(trainer, name)[0] for name in (precision, "fp32"))
    assert low["sigmoid_val_loss"] != full["sigmoid_val_loss"]  # the towers ran in bfloat16
    assert low["sigmoid_val_loss"] == pytest.approx(full["sigmoid_val_loss"], rel=0.02)


def test_any_model_under_any_prefix_is_left_as_it_was(tiny_name):
    """Modes, module by module, and the random generators, whatever the loader draws; images without ids are all own."""
    model = open_clip.create_model(tiny_name, init_logit_bias=-10.0).train()
    model.visual.eval()
    args = parse_open_clip(["--model", tiny_name, "--device", "cpu"])
    args.rank = 0
    state = RunState(args, make_plan(split(FFF)[0]))

    def batches():
        for _ in range(2):
            random.random(), np.random.rand()
            tokens = torch.randint(1, 400, (3, 4, 16))
            valid = torch.tensor([[True] * 4, [True, False, False, False], [True, True, False, False]])
            yield torch.randn(3, 3, 32, 32), CaptionBatch(tokens, valid, valid, torch.full((3,), -1), {})

    before = [module.training for module in model.modules()]
    generators = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    values = validate(model, batches(), state, prefix="ema_")
    assert [module.training for module in model.modules()] == before and len(set(before)) == 2
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == generators[1:]
    assert (values["ema_num_images"], values["ema_num_captions"]) == (6, 14)
    assert values["ema_all_captions_image_to_text_R@1"] < 1 and all(name.startswith("ema_") for name in values)


def test_data_that_no_epoch_scores_are_told(trainer, shards, tmp_path, capsys):
    for colour in ("red", "blue"):
        (tmp_path / "imagenet" / colour).mkdir(parents=True)
        (tmp_path / "imagenet" / colour / "0.png").write_bytes(colour_image(colour, 0))
    val = ["--val-data", str(shards / "00.tar"), "--val-num-samples", "16", "--val-frequency", "0"]
    val += ["--imagenet-val", str(tmp_path / "imagenet"), "--zeroshot-frequency", "0"]
    for name, data in {"trained": None, "evaluated": []}.items():
        assert trainer("--method", "clip", *val, "--name", name, data=data) == 0
        told = capsys.readouterr().out
        assert told.count("warning: --val-data does nothing without a --val-frequency above 0\n") == 1
        assert told.count("warning: --imagenet-val does nothing without a --zeroshot-frequency above 0\n") == 1
