"""Training a captioner of one's own, which then captions."""

import json

import pyarrow.parquet as pq
import pytest
import torch

from open_clip_fff.cli import main
from open_clip_fff.tools.finetune.captioner import load_blip, loss
from tests.captioning_models import make_captioner
from tests.programs import ROOT, run


@pytest.mark.slow
def test_a_captioner_is_trained_on_ones_own_images_and_captions_them(program, shards, tmp_path):
    """The colour of a picture, from random weights, in seconds; a colour in four is right by chance."""
    small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "initializer_range": 0.1}
    config = {
        "model_type": "blip",
        "vision_config": {**small, "num_hidden_layers": 1, "image_size": 32, "patch_size": 16},
        "text_config": {**small, "num_hidden_layers": 1, "max_position_embeddings": 24, "vocab_size": 200},
    }
    (tmp_path / "small.json").write_text(json.dumps(config))
    data = ["--", "--train-data", shards / "{00..03}.tar", "--text-key", "", "--json-text-key", "captions"]
    options = ["--steps", "60", "--batch-size", "16", "--lr", "1e-2", "--held-out", "0.2", "--workers", "0"]
    start = ["--from-config", tmp_path / "small.json", "--out", tmp_path / "mine"]
    done = program("train_captioner", *start, *options, *data, folder="scripts")
    told = json.loads((tmp_path / "mine" / "training.json").read_text())["held_out"]
    assert told["after"] < told["before"] / 2 and f"--model {tmp_path / 'mine'}" in done.out
    shown = ["--train-data", shards / "02.tar", "--out", tmp_path / "out", "--model", tmp_path / "mine"]
    program("caption", *shown, "--decoding", "greedy", "--max-new-tokens", "8", folder="scripts")
    captions = [row["captions"][0] for row in pq.read_table(tmp_path / "out" / "02.parquet").to_pylist()]
    named = [next((x for x in ("red", "green", "blue", "yellow") if x in caption), None) for caption in captions]
    right = [named[row] == ("red", "green", "blue", "yellow")[row % 4] for row in range(16)]
    assert sum(right) > 12, captions
    # it goes on from there, and what cannot work is a line
    answers = (
        (tmp_path / "mine" / "config.json").read_text().replace("ForConditionalGeneration", "ForQuestionAnswering")
    )
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers" / "config.json").write_text(answers)
    again = ["--model", tmp_path / "mine", "--steps", "1", "--batch-size", "2", "--workers", "0", "--held-out", "0.2"]
    program("train_captioner", *again, "--out", tmp_path / "more", *data, folder="scripts")
    for wrong, line in (
        (["--out", tmp_path / "mine"], "exists already"),
        (["--out", tmp_path / "x", "--steps", "0"], "--steps 0: must be 1"),
        (["--out", tmp_path / "x", "--min-crop", "2"], "--min-crop 2: a share"),
        (["--out", tmp_path / "x", "--held-out", "0.0001"], "keeps 0 of 64 images"),
        (["--out", tmp_path / "x", "--device", "nothing"], "--device nothing"),
        (["--out", tmp_path / "x", "--model", tmp_path / "small.json"], "cannot be loaded"),
        (["--out", tmp_path / "x", "--model", tmp_path / "answers"], "BlipForQuestionAnswering, which was trained to"),
    ):
        done = program("train_captioner", *again, *wrong, *data, folder="scripts", expect=2)
        assert line in done.err and len(done.err.splitlines()) == 1, done.err


@pytest.mark.parametrize("bos", ["[CLS]", "blue"])
def test_what_is_trained_is_what_is_generated(tmp_path, bos):
    """A text begins with the configuration's bos_token_id, which is not the tokenizer's [CLS] in Salesforce's BLIP."""
    captioner = load_blip(str(make_captioner(tmp_path / "blip", "blip")))
    words, config = captioner.tokenizer, captioner.model.config.text_config
    config.bos_token_id = words.convert_tokens_to_ids(bos)
    pixels, ids = torch.randn(1, 3, 24, 24), words("red", return_tensors="pt").input_ids  # [CLS], red, [SEP]
    options = {"max_new_tokens": 1, "output_scores": True, "return_dict_in_generate": True}
    with torch.no_grad():
        steps = [captioner.model.generate(pixels, prompt, **options).scores[0] for prompt in (ids[:, :2].clone(), ids)]
        trained = loss(captioner, pixels, ["red"])
    expected = torch.nn.functional.cross_entropy(torch.cat(steps), ids[0, 1:])
    assert trained.item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_training_that_diverges_is_not_written(shards, tmp_path, capsys):
    """At its last step, whose own loss is that of the weights before."""
    argv = ["train-captioner", "--model", make_captioner(tmp_path / "start", "blip"), "--out", tmp_path / "out"]
    argv += ["--train-data", shards / "{00..03}.tar", "--json-text-key", "captions", "--held-out", "0.2"]
    argv += ["--steps", "1", "--batch-size", "8", "--workers", "0", "--lr", "1e30"]
    assert main([str(word) for word in argv]) == 2
    assert "training diverged (" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_digits_captioner_names_them(tmp_path):
    """With a third of its steps; a digit in ten is right by chance."""
    done = run(ROOT / "scripts" / "caption_digits.py", "--out", tmp_path / "out", "--steps", 200)
    assert done.returncode == 0, done
    rows = [line.strip("| ").split(" | ") for line in (tmp_path / "out" / "table.md").read_text().splitlines()[2:]]
    assert [row[0] for row in rows] == ["nucleus", "nucleus, --top-p 0.5", "beam", "greedy"]
    assert all(float(row[4]) > 30 for row in rows) and rows[2][1:3] == ["1,945", "5.00"], rows
