"""Training a discriminator on one's own pairs: what is drawn, what is measured, and the program from end to end."""

import argparse
import io
import json
import math
import random
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from open_clip_fff.commands.train_discriminator import main
from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.config.connection import UNDECIDED, ConnectionSettings
from open_clip_fff.data.shards import id_of, read_samples
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.errors import UsageError
from open_clip_fff.matching.discriminators import make_discriminator
from open_clip_fff.mining.itm_reference import itm_reference
from open_clip_fff.tools.finetune import pairs
from open_clip_fff.tools.finetune.discriminator_losses import (
    alignment_loss,
    draw_negatives,
    hardest_pairs,
    losses,
    same_pair,
)
from open_clip_fff.tools.finetune.loop import check_trained, fine_tune, lr_factor
from open_clip_fff.tools.finetune.measure import scores
from open_clip_fff.tools.finetune.pairs import TrainingPairs, held_out, held_out_pairs
from open_clip_fff.tools.finetune.random_weights import from_config
from tests.conftest import colour_sample, write_tar
from tests.matching_models import make

MAFA = ConnectionSettings("blip:x")
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "initializer_range": 0.1}
DIGITS = {
    "model_type": "blip",
    "image_text_hidden_size": 64,
    "initializer_range": 0.1,
    "vision_config": {**SMALL, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8},
    "text_config": {**SMALL, "num_hidden_layers": 1, "max_position_embeddings": 32, "vocab_size": 1000},
}


def program(*argv: object) -> int:
    return main([str(argument) for argument in argv], prog="scripts/train_discriminator.py")


def reader() -> CaptionReader:
    return CaptionReader(CaptionSettings(per_image=10, policy="all", text_keys=(), json_keys=("captions",)))


# --- what is drawn ---------------------------------------------------------------------------------------------------


def test_negatives_are_never_of_the_same_image_or_words():
    torch.manual_seed(0)
    ids, captions = torch.tensor([1, 1, 2, 3]), ["a", "b", "b", "c"]
    same = same_pair(ids, captions)
    assert same.int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    cosines = torch.tensor([[1.0, 1, 0, 0.4], [1, 1, 1, 0], [0.4, 1, 1, 0], [0.4, 0, 0, 1]])
    counts = {share: torch.zeros(4, 4) for share in (0.0, 1.0)}
    for share, count in counts.items():
        for _ in range(500):
            rows, columns = draw_negatives(cosines, same, share)
            assert rows.tolist() == [0, 1, 2, 3] and not same[rows, columns].any()
            count[rows, columns] += 1
    assert counts[1.0][[0, 2, 3], [3, 0, 0]].min() > 480  # the most alike
    assert (counts[0.0][3, :3] / 500 - 1 / 3).abs().max() < 0.1  # evenly
    rows, columns = draw_negatives(cosines[:2, :2], same[:2, :2], 0.5)
    assert len(rows) == len(columns) == 0
    assert len(draw_negatives(torch.full((4, 4), torch.nan), same, 0.5)[1]) == 4  # the loss shows it


def test_a_training_that_diverges_is_not_written():
    model, args = torch.nn.Linear(1, 1), argparse.Namespace(lr=10.0)
    check_trained(model, {"matching": 0.7}, args)
    with pytest.raises(UsageError, match=r"--lr 10: training diverged \(matching nan\)"):
        check_trained(model, {"contrastive": 1.0, "matching": torch.tensor(torch.nan).item()}, args)
    torch.nn.init.constant_(model.bias, torch.inf)
    with pytest.raises(UsageError, match=r"--lr 10: training diverged \(bias is not finite\)"):
        check_trained(model, {"matching": 0.7}, args)


def test_a_training_that_diverges_in_its_last_step_is_not_written(shards, tmp_path, capsys):
    """Whose own loss is that of the weights before."""
    argv = ["--model", make(tmp_path / "blip", "blip"), "--out", tmp_path / "out", "--steps", "1", "--lr", "1e30"]
    argv += ["--train-data", shards / "{00..03}.tar", "--json-text-key", "captions", "--held-out", "0.3"]
    assert program(*argv, "--batch-size", "8", "--workers", "0") == 2
    assert "are not finite: lower --lr" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_the_learning_rate_is_the_lower_of_warm_up_and_cosine():
    for warmup, highest in ((None, 0.98), (500, 0.72), (0, 1.0)):
        factors = [lr_factor(step, 1000, warmup) for step in range(1000)]
        assert max(factors) == pytest.approx(highest, abs=0.005) and factors[-1] < 1e-4


def test_a_training_that_diverges_ends_early():
    model, steps = torch.nn.Linear(1, 1), []
    args = argparse.Namespace(steps=1000, batch_size=1, lr=1.0, wd=0.0, warmup=1, workers=0, device="cpu")
    last = fine_tune(model, Endless(), lambda x: {"loss": model(x).mean() * math.nan}, args, after_step=steps.append)
    assert math.isnan(last["loss"]) and len(steps) < 20


class Endless(torch.utils.data.IterableDataset):
    """Ones, without end."""

    def __iter__(self):
        return iter(lambda: torch.ones(1), None)


@pytest.mark.parametrize("case", range(12))
def test_the_hardest_pairs_are_mafas(case):
    """As the plain loop over the cosines has them, with a discriminator and without."""
    draw = torch.Generator().manual_seed(case)
    cosines = torch.rand(6, 6, generator=draw, dtype=torch.float64)
    ids = torch.randint(0, 6, (6,), generator=draw)
    values = torch.tensor([0.2, 0.5, 0.6, 0.8, 0.9], dtype=torch.float64)
    q = values[torch.randint(0, 5, (6, 6), generator=draw)]
    label = score = None
    if case % 3:
        label, score = lambda i, t: MAFA.match_label(q[i, t], UNDECIDED), lambda i, t: float(q[i, t])
    found = hardest_pairs(label)(cosines, ids[:, None] == ids)
    expected = itm_reference(cosines, ids, torch.ones(6, 1, dtype=torch.bool), score)
    assert sorted(zip(*(x.tolist() for x in found), strict=True)) == sorted(pair[:3] for pair in expected)


def test_equal_pairs_share_the_target():
    cosines = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    logits = cosines / 0.07
    own = torch.arange(3)
    expected = (torch.nn.functional.cross_entropy(x, own) for x in (logits, logits.T))
    assert alignment_loss(cosines, torch.eye(3, dtype=torch.bool)).item() == pytest.approx(sum(expected).item() / 2)
    same = same_pair(torch.tensor([4, 4, 5]), ["a", "b", "c"])
    target = torch.tensor([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]])
    expected = sum(-(target * x.log_softmax(dim=1)).sum(dim=1).mean() for x in (logits, logits.T)) / 2
    assert alignment_loss(cosines, same).item() == pytest.approx(expected.item())


def test_losses_of_a_batch_without_negatives(tmp_path):
    """An image twice and nothing else: there is nothing to deny."""
    from open_clip_fff.matching.loading import load_matching

    matching = load_matching(str(make(tmp_path / "blip", "blip")), "--model")
    x = torch.randn(2, 3, 24, 24)
    alignment, matched = losses(matching, x, ["a red square", "something red"], torch.tensor([7, 7]))
    with torch.no_grad():
        logits = matching.match(matching.encode(x), *matching.tokens(["a red square", "something red"]))
    assert matched.item() == pytest.approx(-logits.log_softmax(dim=1)[:, 1].mean().item(), abs=1e-5)
    (alignment + matched).backward()


@pytest.mark.parametrize("workers", [1, 2, 3, 6])
def test_a_pass_meets_each_image_once_and_none_that_is_held_out(shards, monkeypatch, workers):
    """With fewer shards than workers, too; in another order at each pass."""
    urls = sorted(map(str, shards.glob("*.tar")))
    everything = {id_of(sample) for sample in read_samples(urls, 1000)}
    kept = {image for image in everything if held_out(image, 0.25)}
    assert 0 < len(kept) < len(everything) / 2
    passes: list[list[int]] = [[], []]
    for worker in range(workers):
        info = type("Info", (), {"id": worker, "num_workers": workers})
        monkeypatch.setattr(pairs, "get_worker_info", lambda info=info: info)
        training = TrainingPairs(urls, reader(), lambda picture: torch.zeros(1), 0.25, seed=0)
        for epoch, images in enumerate(passes):
            images += [id_of(sample) for sample, _ in training._samples(epoch, worker, workers)]
    for images in passes:
        assert sorted(images) == sorted(everything - kept)
    assert passes[0] != passes[1]
    found, others = held_out_pairs(urls, reader(), lambda picture: torch.zeros(1), 0.25, 1000)
    assert {pair.id for pair in found} == kept and others == len(everything - kept)
    assert len(held_out_pairs(urls, reader(), lambda picture: torch.zeros(1), 0.25, 3)[0]) == 3
    found, others = held_out_pairs(urls, reader(), lambda picture: torch.zeros(1), 0.9, 1)  # the first one is held out
    assert len(found) == others == 1


def test_a_worker_whose_shards_have_no_captions_reads_those_of_others(tmp_path, monkeypatch):
    some, none = {f"{row}": colour_sample(row) for row in range(4)}, {"png": colour_sample(0)["png"]}
    urls = [str(write_tar(tmp_path / "some.tar", some)), str(write_tar(tmp_path / "none.tar", {"x": none}))]
    for worker in range(2):
        info = type("Info", (), {"id": worker, "num_workers": 2})
        monkeypatch.setattr(pairs, "get_worker_info", lambda info=info: info)
        stream = iter(TrainingPairs(urls, reader(), lambda picture: torch.zeros(1), 1e-4, seed=0))
        assert len({next(stream).id for _ in range(40)}) == 4


def test_captions_are_drawn_anew_and_damage_costs_its_own_rows(tmp_path, caplog):
    good = write_tar(tmp_path / "00.tar", {f"{row}": colour_sample(row) for row in range(8)})
    content = write_tar(tmp_path / "01.tar", {f"{row}": colour_sample(row) for row in range(8, 16)}).read_bytes()
    (tmp_path / "01.tar").write_bytes(content[: len(content) // 2])
    rows = {"bad": {**colour_sample(3), "png": b"no image"}, "none": {"png": colour_sample(0)["png"]}}
    other = write_tar(tmp_path / "02.tar", {**rows, "fine": colour_sample(19)})
    urls = [str(path) for path in (good, tmp_path / "01.tar", other)]
    drawn: dict[int, set[str]] = {}
    stream = iter(TrainingPairs(urls, reader(), lambda picture: torch.zeros(1), 1e-4, seed=0))
    for _ in range(300):
        pair = next(stream)
        drawn.setdefault(pair.id, set()).add(pair.caption)
    assert 9 < len(drawn) < 17 and max(map(len, drawn.values())) == 4
    assert "01.tar cannot be read to its end" in caplog.text
    nothing = TrainingPairs([str(tmp_path / "01.tar")][:0], reader(), lambda picture: torch.zeros(1), 0.1, seed=0)
    with pytest.raises(UsageError, match="found no image with a caption"):
        next(iter(nothing))


def test_its_figures():
    found = scores(torch.tensor([0.9, 0.85, 0.6, 0.1]), torch.tensor([0.95, 0.7, 0.2, 0.1]))
    assert found["pairs"] == 4 and found["precision at 0.8"] == 2 / 3 and found["recall at 0.8"] == 0.5
    assert found["precision at 0.5"] == 3 / 5 and found["recall at 0.5"] == 0.75
    assert found["auc"] == pytest.approx((3 + 3 + 2 + 0.5) / 16)
    assert scores(torch.tensor([0.1]), torch.tensor([0.2]))["precision at 0.8"] is None


# --- the program -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_on_the_digits_it_beats_chance_and_its_folder_judges(tmp_path, capsys, monkeypatch):
    """From random weights, in half a minute; chance is a precision of .5, and a digit in ten is right by chance."""
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "scripts")
    from digits.shards import write_shards

    write_shards(tmp_path / "data", seed=0)
    (tmp_path / "small.json").write_text(json.dumps(DIGITS))
    data = [
        "--train-data",
        tmp_path / "data" / "train-{00000..00003}.tar",
        "--text-key",
        "",
        "--json-text-key",
        "captions",
    ]
    options = ["--steps", "250", "--batch-size", "48", "--lr", "3e-3", "--held-out", "0.15", "--workers", "0"]
    options += ["--hard-negatives", "0"]  # whatever fits an image as well as its own caption is no negative to learn
    assert program("--from-config", tmp_path / "small.json", "--out", tmp_path / "con-d", *data, *options) == 0
    out = capsys.readouterr().out
    assert f"--discriminator blip:{tmp_path / 'con-d'}" in out and "matched against" in out
    told = json.loads((tmp_path / "con-d" / "discriminator.json").read_text())
    before, after = (told["held_out"][when]["random"] for when in ("before", "after"))
    assert after["pairs"] > 150 and abs(before["auc"] - 0.5) < 0.2
    assert after["auc"] > 0.8 and after["precision at 0.5"] > 0.7 and after["recall at 0.5"] > 0.6, after
    # the folder judges: the right digit's name is likelier than another one's
    discriminator = make_discriminator(
        ConnectionSettings(f"blip:{tmp_path / 'con-d'}"), torch.device("cpu"), (0.5,) * 3, (0.5,) * 3
    )
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    samples = list(read_samples([str(tmp_path / "data" / "test" / "0.tar")], 100))
    images = torch.stack([pixels(sample["png"]) for sample in samples]) * 2 - 1
    labels = torch.tensor([int(sample["cls"]) for sample in samples])
    rows = torch.arange(100).repeat_interleave(10)
    q = discriminator.pairs(images, rows, [f"a handwritten {name}" for name in names] * 100).view(100, 10)
    assert (q.argmax(dim=1) == labels).double().mean() > 0.4  # chance is a tenth


def pixels(content: bytes) -> torch.Tensor:
    from torchvision.transforms.functional import to_tensor

    return to_tensor(Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["blip", "blip2"])
def test_a_folder_is_trained_on_and_gives_the_same_twice(shards, tmp_path, capsys, kind):
    model = make(tmp_path / "start", kind)
    data = ["--train-data", shards / "{00..03}.tar", "--json-text-key", "captions", "--held-out", "0.3"]
    options = ["--steps", "3", "--batch-size", "8", "--lr", "1e-2"]
    weights = []
    capsys.readouterr()
    mafa = ["--itm-negatives", "hardest", "--discriminator", str(model), "--match-positive", "0.6"]
    assert program("--model", model, "--out", tmp_path / "mafa", *data, *options, *mafa, "--workers", "0") == 0
    assert (tmp_path / "mafa" / "discriminator.json").is_file()
    assert program("--model", model, "--out", tmp_path / "none", *data, *mafa[2:]) == 2
    assert "add --itm-negatives hardest" in capsys.readouterr().err
    for number, more in enumerate((["--workers", "0"], ["--workers", "0", "--freeze-vision"])):
        for repeat in range(2 - number):
            out = tmp_path / f"out-{number}-{repeat}"
            assert program("--model", model, "--out", out, *data, *options, *more) == 0
            judge = make_discriminator(ConnectionSettings(f"{kind}:{out}"), torch.device("cpu"), (0.5,) * 3, (0.5,) * 3)
            weights.append(judge.matching.model.state_dict())
            assert judge.matching.tokens(["a red square"])[0].shape == (1, 5)
    start = make_discriminator(ConnectionSettings(str(model)), torch.device("cpu"), (0.5,) * 3, (0.5,) * 3)
    begun = start.matching.model.state_dict()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in begun)
    changed = {name for name in begun if not torch.equal(begun[name], weights[0][name])}
    assert {"itm_head.weight"} < changed and any(name.startswith("vision_model") for name in changed)
    frozen = [name for name in begun if name.startswith("vision_model")]
    assert all(torch.equal(begun[name], weights[2][name]) for name in frozen)
    assert "Writing" not in capsys.readouterr().err


def test_the_same_captions_teach_the_same_tokenizer(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps(DIGITS))
    words = [f"{a}{b}{c}" for a in "abcde" for b in "lmnop" for c in ("s", "ing", "ed", "é")]
    captions = [" ".join(words[row : row + 9]) for row in range(80)]
    found = [from_config(tmp_path / "c.json", captions).tokenizer.get_vocab() for _ in range(4)]
    assert all(vocabulary == found[0] for vocabulary in found) and {"a", "##e"} <= found[0].keys()


def test_blip2_starts_from_random_weights_too(shards, tmp_path):
    config = {"model_type": "blip-2", "num_query_tokens": 2, "image_text_hidden_size": 8}
    config |= {"vision_config": {**DIGITS["vision_config"], "num_hidden_layers": 1}}
    config |= {"qformer_config": {**SMALL, "num_hidden_layers": 1, "max_position_embeddings": 16}}
    (tmp_path / "c.json").write_text(json.dumps(config))
    tokenizer = ["--tokenizer", make(tmp_path / "with-tokenizer", "blip")]
    data = [
        "--train-data",
        shards / "{00..03}.tar",
        "--json-text-key",
        "captions",
        "--held-out",
        "0.3",
        "--workers",
        "1",
    ]
    for more in ([], tokenizer):
        out = tmp_path / f"out-{len(more)}"
        argv = ["--from-config", tmp_path / "c.json", "--out", out, *data, "--steps", "1", "--batch-size", "4", *more]
        assert program(*argv) == 0
        q = make_discriminator(ConnectionSettings(f"blip2:{out}"), torch.device("cpu"), (0.5,) * 3, (0.5,) * 3)(
            torch.rand(1, 3, 32, 32), ["a red square"]
        )
        assert 0 < q.item() < 1 and math.isfinite(q.item())


def test_what_cannot_work_is_refused_in_one_line(shards, tmp_path, capsys):
    model = make(tmp_path / "blip", "blip")
    data = ["--train-data", shards / "{00..03}.tar", "--json-text-key", "captions", "--held-out", "0.3"]
    whole = ["--model", model, "--out", tmp_path / "out", *data, "--steps", "1", "--workers", "0"]

    def refused(*argv: object) -> str:
        capsys.readouterr()
        assert program(*argv) == 2
        out, err = capsys.readouterr()
        error = err.splitlines()
        assert len(error) == 1 and error[0].startswith("train_discriminator.py: error: "), error
        assert "before, on" not in out  # nothing was measured yet
        return error[0]

    assert "--steps 0: must be 1 or more" in refused(*whole, "--steps", "0")
    assert "--held-out 0.9: a share" in refused(*whole, "--held-out", "0.9")
    assert "--nonsense: neither a flag" in refused(*whole, "--nonsense", "x")
    assert "--mining-model: neither a flag" in refused(*whole, "--mining-model", "x")
    assert f"--out {tmp_path}: exists already" in refused(*whole, "--out", tmp_path)
    for place in (tmp_path / "blip" / "config.json" / "below", "/proc/none"):
        assert f"--out {place}: cannot be written" in refused(*whole, "--out", place)
    hardest = ["--itm-negatives", "hardest"]
    assert "--hard-negatives: is of sampled ones" in refused(*whole, *hardest, "--hard-negatives", "0.9")
    assert "--discriminator blip:nowhere: there is no folder" in refused(
        *whole, *hardest, "--discriminator", "blip:nowhere"
    )
    assert "--tokenizer: goes with --from-config" in refused(*whole, "--tokenizer", "x")
    assert "--device nothing: " in refused(*whole, "--device", "nothing")
    assert "--model nowhere: there is no folder of that name" in refused(*whole, "--model", "nowhere")
    assert "--held-out 0.0001: keeps 0 of 64 images" in refused(*whole, "--held-out", "0.0001")
    assert "04.tar does not exist (1 of 2)" in refused(*whole, "--train-data", shards / "{03..04}.tar")
    (tmp_path / "no.tar").write_text("no tar")
    assert "no.tar cannot be read as a tar" in refused(*whole, "--train-data", tmp_path / "no.tar")
    scratch = ["--out", tmp_path / "out", *data]
    for content in ('{"model_type": "clip"}', "no json", '{"model_type": "blip", "text_config": {"hidden_size": "x"}}'):
        (tmp_path / "c.json").write_text(content)
        assert "no configuration of blip or blip-2 that" in refused("--from-config", tmp_path / "c.json", *scratch)
    assert "no configuration" in refused("--from-config", tmp_path / "none.json", *scratch)
    (tmp_path / "c.json").write_text(json.dumps(DIGITS))
    line = refused("--from-config", tmp_path / "c.json", "--tokenizer", tmp_path / "nowhere", *scratch)
    assert "--tokenizer" in line and "cannot be loaded" in line
    for lacks in ("pad_token", "sep_token"):
        shutil.copytree(model, tmp_path / lacks)
        config = json.loads((tmp_path / lacks / "tokenizer_config.json").read_text())
        (tmp_path / lacks / "tokenizer_config.json").write_text(json.dumps({**config, lacks: None}))
        line = refused("--from-config", tmp_path / "c.json", "--tokenizer", tmp_path / lacks, *scratch)
        assert f"--tokenizer {tmp_path / lacks}: has no {lacks}; name one that has" in line
    assert not (tmp_path / "out").exists()


def test_the_same_images_are_held_out_in_every_run():
    draw = random.Random(0)
    images = [draw.randrange(2**63) for _ in range(20_000)]
    kept = {share: {image for image in images if held_out(image, share)} for share in (0.05, 0.2)}
    assert kept[0.05] < kept[0.2] and abs(len(kept[0.05]) / 20_000 - 0.05) < 0.01
