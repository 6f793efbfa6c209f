"""Sentence models, which mine by captions alone."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.config.mining import FrozenSource
from open_clip_fff.config.text import TextSettings
from open_clip_fff.data.shards import read_samples
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.errors import UsageError
from open_clip_fff.fingerprint import same_model
from open_clip_fff.hub.stored_names import stored_name
from open_clip_fff.models.sentences import PADDING, POOLINGS, SentenceTower, load_sentences
from tests.test_features import embed
from tests.test_training import FFF

CPU = torch.device("cpu")
TEXTS = ["a red square", "img 7", "a much longer caption of many words that is cut", "", "a red square", "b", "", "bb"]


def full_length(folder: Path, texts: list[str], pooling: str) -> torch.Tensor:
    """Float64 features by transformers' own tokenizer and forward, all texts padded to the model's length."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = (kind.from_pretrained(folder) for kind in (AutoModel, AutoTokenizer))
    inputs = tokenizer(texts, padding="max_length", truncation=True, max_length=32, return_tensors="pt")
    with torch.no_grad():
        hidden = model.double().eval()(**inputs).last_hidden_state
    counts = inputs["attention_mask"].sum(dim=1)
    if pooling == "mean":
        pooled = torch.stack([row[:count].mean(dim=0) for row, count in zip(hidden, counts, strict=True)])
    else:
        places = {"cls": torch.zeros_like(counts), "last": counts - 1}[pooling]
        pooled = hidden[torch.arange(len(texts)), places]
    return F.normalize(pooled, dim=-1)


@pytest.fixture
def folder(sentence_model, tmp_path) -> Path:
    """The sentence model, in a folder of the test's own."""
    return Path(shutil.copytree(sentence_model, tmp_path / "sentences"))


def write(folder: Path, **files: object) -> Path:
    """Json files of sentence-transformers beside a model; `__` stands for a slash, and none for None."""
    for name, content in files.items():
        path = folder / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("pooling", POOLINGS)
def test_features_are_those_at_full_length(sentence_model, pooling):
    sentences = load_sentences(str(sentence_model))._replace(pooling=pooling)
    sentences.model.double()
    expected = full_length(sentence_model, TEXTS, pooling)
    assert expected.dtype == torch.float64
    tower = SentenceTower(sentences, CPU)
    torch.testing.assert_close(tower.texts(TEXTS), expected, atol=1e-12, rtol=0)
    # as a batch has them, [B, K, L], the last caption padding
    tokens = sentences.tokenizer(TEXTS).unflatten(0, (2, 4))
    valid = torch.tensor([True] * 7 + [False]).view(2, 4)
    expected[7] = 0
    found = tower(tokens, valid)
    torch.testing.assert_close(found, expected.view(2, 4, -1), atol=1e-12, rtol=0)
    for settings in (TextSettings(trim=False), TextSettings(distinct=False), TextSettings(multiple=1, groups=1)):
        torch.testing.assert_close(SentenceTower(sentences, CPU, settings)(tokens, valid), found, atol=1e-12, rtol=0)
    assert not tower(tokens, valid & False).any()  # no caption at all
    alone = SentenceTower(load_sentences(str(sentence_model))._replace(pooling=pooling), CPU)(tokens, valid)
    assert alone.dtype == torch.float32  # as mining has them
    torch.testing.assert_close(alone.double(), found, atol=1e-5, rtol=0)


def test_captions_are_encoded_once_and_cut(sentence_model):
    """What the model computes: distinct captions, in groups of like length, up to the longest of each."""
    sentences = load_sentences(str(sentence_model))
    assert sentences.tokenizer.length == 32
    tokens = sentences.tokenizer(TEXTS * 40)
    assert tokens.shape == (320, 32) and (tokens[3] == PADDING).sum() == 30
    shapes, encode = [], sentences.model.forward
    sentences.model.forward = lambda input_ids, **more: (
        shapes.append(tuple(input_ids.shape)) or encode(input_ids=input_ids, **more)
    )
    SentenceTower(sentences, CPU)(tokens, torch.ones(320, dtype=torch.bool))
    assert shapes == [(6, 32)]  # of so few rows another group would cost more than it saves
    shapes.clear()
    long, short = "many words " * 9, [f"a{i}" for i in range(100)]
    SentenceTower(sentences, CPU).texts([*short, long])
    assert shapes == [(100, 8), (1, 32)]


def test_the_files_of_sentence_transformers_say_how(folder):
    """Pooling in its older and newer form, length, case; what is not known is refused."""
    steps = [{"type": f"sentence_transformers.models.{name}", "path": name} for name in ("Transformer", "Normalize")]
    pool = {"type": "sentence_transformers.models.Pooling", "path": "pool"}
    old = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    assert load_sentences(str(folder)).pooling == "mean"
    assert load_sentences(str(write(folder, **{"1_Pooling__config": old}))).pooling == "cls"
    assert load_sentences(str(write(folder, **{"1_Pooling__config": {"pooling_mode": "mean"}}))).pooling == "mean"
    write(folder, modules=[*steps, pool], pool__config={"pooling_mode_lasttoken": True})
    assert load_sentences(str(folder)).pooling == "last"
    write(folder, modules=None, sentence_bert_config={"max_seq_length": 5, "do_lower_case": True})
    tokenizer = load_sentences(str(folder)).tokenizer
    assert tokenizer(["a red square"]).shape == (1, 5) and torch.equal(tokenizer(["A Red"]), tokenizer(["a red"]))
    write(folder, config_sentence_transformers={"prompts": {"query": "Find: "}, "default_prompt_name": "query"})
    prompted = load_sentences(str(folder)).tokenizer
    assert torch.equal(prompted(["A Red"]), tokenizer(["Find: a red"]))
    write(folder, config_sentence_transformers={"prompts": {"query": "Find: "}, "default_prompt_name": None})
    assert torch.equal(load_sentences(str(folder)).tokenizer(["a red"]), tokenizer(["a red"]))
    write(folder, sentence_bert_config={"max_seq_length": 4096, "do_lower_case": False})
    assert load_sentences(str(folder)).tokenizer.length == 32  # as many positions as it has
    write(folder, **{"1_Pooling__config": {"pooling_mode": "max"}})
    with pytest.raises(UsageError, match="pools its tokens by max; known are mean, cls, last"):
        load_sentences(str(folder))
    write(folder, modules=[*steps, {**pool, "type": "sentence_transformers.models.Dense"}])
    with pytest.raises(UsageError, match=r"its modules.json has a step Dense; known are Transformer, Pooling"):
        load_sentences(str(folder))


@pytest.mark.parametrize("path", ["", "Transformer"])
def test_a_model_of_the_hub_loads_by_its_name(folder, path, tmp_path):
    """From the hub's cache, where its client refuses a file whose name begins with a slash."""
    steps = [{"type": f"sentence_transformers.models.{name}", "path": name} for name in ("Transformer", "Pooling")]
    write(folder, modules=[{**steps[0], "path": path}, steps[1]], Pooling__config={"pooling_mode_cls_token": True})
    write(folder, **{f"{path}/sentence_bert_config".lstrip("/"): {"max_seq_length": 7}})
    for file in [file for file in folder.iterdir() if path and file.is_file() and file.name != "modules.json"]:
        shutil.move(file, folder / path / file.name)
    cached, commit = tmp_path / "cache" / "models--org--sentences", "a" * 40
    shutil.copytree(folder, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    found = load_sentences("org/sentences", str(tmp_path / "cache"))
    assert found.pooling == "cls" and found.tokenizer.length == 7
    for wrong in ("org/sentence", "sentences", "./sentences", str(tmp_path / "sentence")):
        with pytest.raises(UsageError, match=f"--mining-model {wrong}: there is no folder of that name, and from the"):
            load_sentences(wrong, str(tmp_path / "cache"))


def test_a_model_that_reads_images_too_is_none(tmp_path):
    from transformers import CLIPConfig, CLIPModel

    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    text, vision = {**small, "vocab_size": 8, "bos_token_id": 0, "eos_token_id": 1}, {**small, "image_size": 32}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision)).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="a clip is no sentence model, as it reads images, too; a CLIP mines with"):
        load_sentences(str(tmp_path))


def test_files_that_are_missing_or_broken_are_named(folder):
    """A tokenizer of config.json alone gives all words one token; a pooling that is not there is not the mean."""

    def refused(match):
        with pytest.raises(UsageError, match=match) as found:
            load_sentences(str(folder))
        assert "\n" not in str(found.value)

    steps = [{"type": f"sentence_transformers.models.{name}", "path": name} for name in ("Transformer", "Pooling")]
    write(folder, modules=[{**steps[0], "path": ""}, steps[1]])
    refused("modules.json names Pooling/config.json, which says how tokens are pooled and is not there")
    write(folder, Pooling__config={"pooling_mode_cls_token": True})
    assert load_sentences(str(folder)).pooling == "cls"
    for broken in ("{", '{"a": 1}', "[1]"):
        (folder / "modules.json").write_text(broken)
        refused("json files beside it cannot be read")
    below = folder / "Transformer"
    write(folder, modules=steps, Transformer__sentence_bert_config={"max_seq_length": 7})
    for path in [path for path in folder.iterdir() if path.is_file() and path.name != "modules.json"]:
        shutil.move(path, below / path.name)
    assert load_sentences(str(folder)).tokenizer(["a red square"]).shape == (1, 7)  # an older layout
    for path in below.glob("tokenizer*"):
        path.unlink()
    refused("its tokenizer's files are missing")


def test_weights_that_are_missing_are_named(folder):
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights = load_file(path)
    save_file({name: x for name, x in weights.items() if "pooler" not in name}, path, {"format": "pt"})
    load_sentences(str(folder))  # nothing here asks for it
    save_file({name: x for name, x in weights.items() if "layer.0" not in name}, path, {"format": "pt"})
    with pytest.raises(UsageError, match=r"weights are missing \(encoder.layer.0.attention\S+ and 15 more"):
        load_sentences(str(folder))


@pytest.mark.slow
def test_captions_alone_mine(trainer, sentence_model, capsys):
    text = [*FFF, "--mining-features", "text", "--mining-model", str(sentence_model)]
    assert trainer(*text, "--mined-per-image", "14", "--workers", "1", "--epochs", "2", "--name", "text") == 0
    log = trainer.log("text")
    by_clause = re.findall(
        r"Mined/image: ([\d.]+) \(image-text ([\d.]+), image-image ([\d.]+), text-text ([\d.]+)", log
    )
    assert len(by_clause) == 8
    for all_of_them, image_text, image_image, text_text in by_clause:
        assert image_text == image_image == "0.000" and all_of_them == text_text
    assert sum(float(rates[0]) for rates in by_clause) > 0
    # images of one colour have the same first caption, about three of them per image: one cannot be told from the rest
    first = ["--captions-per-image", "1", "--text-key", "", "--mined-per-image", "1"]
    assert trainer(*text, *first, "--epochs", "5", "--name", "few") == 0
    assert set(re.findall(r"Mined/image: ([\d.]+)", trainer.log("few"))) == {"0.000"}
    assert trainer.log("few").count("in 20 steps nothing is mined, since more pairs than that are equally similar") == 1
    capsys.readouterr()
    assert trainer(*text, "--p1", "0.3", "--name", "no") == 2
    assert "--p1: a sentence model knows no images" in capsys.readouterr().err
    assert trainer(*FFF, "--mining-features", "text", "--name", "no") == 2
    assert "name the model with --mining-model" in capsys.readouterr().err
    assert trainer(*text[:-1], str(trainer.shards), "--name", "no") == 2
    assert "cannot be loaded as a sentence model" in capsys.readouterr().err


@pytest.fixture
def text(sentence_model) -> list[str]:
    """Flags of training that mine by the sentence model."""
    return [*FFF, "--mining-features", "text", "--mining-model", str(sentence_model)]


def threshold(trainer, folder: Path) -> float:
    """A p3 for the colours, between two cosines of pooled captions that float16 cannot mistake for each other."""
    tower = SentenceTower(load_sentences(str(folder)), CPU)
    reader = CaptionReader(CaptionSettings(4, "all", json_keys=("captions",)))
    rows = [reader.row(sample) for sample in read_samples(sorted(map(str, trainer.shards.glob("*.tar"))))]
    texts = [tower.texts(row.captions[:4]) for row in rows]

    def cosines(features: list[torch.Tensor]) -> torch.Tensor:
        pooled = F.normalize(torch.stack([each.mean(dim=0) for each in features]), dim=-1)
        return (pooled @ pooled.T)[torch.ones(len(rows), len(rows)).triu(1).bool()]

    exact, rounded = cosines(texts), cosines([F.normalize(each.half().float(), dim=-1) for each in texts])
    some = exact.sort().values[1000:1900]
    gap = some.diff().argmax()
    assert some[gap + 1] - some[gap] > 4 * (exact - rounded).abs().max()
    return float(some[gap : gap + 2].mean())


@pytest.mark.slow
@pytest.mark.parametrize("into", ["sidecar", "tars"])
def test_stored_features_mine_what_the_model_mines_in_the_step(trainer, sentence_model, text, into, tmp_path, capsys):
    """The same pairs, and so the same weights, to the last bit."""
    p3 = ["--p3", str(threshold(trainer, sentence_model))]
    assert (
        embed("--out", str(tmp_path / "out"), "--into", into, "--", *trainer.tars, *text, "--mined-per-image", "3") == 0
    )
    assert "of captions alone" in capsys.readouterr().out
    stored = [*FFF, "--mining-features", "precomputed", *p3]
    data = trainer.tars
    if into == "sidecar":
        stored += ["--feature-sidecar", str(tmp_path / "out")]
    else:
        data = ["--train-data", str(tmp_path / "out" / "{00..03}.tar"), "--train-num-samples", "64"]
    assert trainer(*stored, "--workers", "1", "--name", "stored", data=data) == 0
    printed = capsys.readouterr().out
    words = re.sub(r"\s+", " ", printed)
    told = rf", of {sentence_model}#\w{{16}}, which sees captions alone; p1 off, p2 off, text-text \(pooled\) > p3"
    assert re.search(told, words)
    assert trainer(*text, *p3, "--workers", "1", "--name", "text") == 0
    rates = [re.findall(r"Mined/image: ([\d.]+)", trainer.log(name)) for name in ("stored", "text")]
    assert rates[0] == rates[1] and len(rates[0]) == 4 and all(float(rate) > 0.5 for rate in rates[0])
    a, b = (trainer.checkpoint(name)["state_dict"] for name in ("stored", "text"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    params = (trainer.run("stored") / "params.txt").read_text()
    assert (
        re.search(rf"mining_model: {sentence_model}#\w{{16}}\n", params)
        and "\np1: None\n" in params
        and "\np1_prime: None\n" in params
    )


def test_stored_features_know_what_is_in_a_sentence_models_files(trainer, folder, text, tmp_path, capsys):
    """Other weights are another model under the same path; a copy is the same one under another."""
    out = tmp_path / "out"
    assert embed("--out", str(out), "--", *trainer.tars, *text, "--mining-model", str(folder)) == 0
    copy = shutil.copytree(folder, tmp_path / "copy")
    weights = folder / "model.safetensors"
    save_file({name: -tensor for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    flags = [*FFF, "--mining-features", "precomputed", "--feature-sidecar", str(out), "--name", "x", "--mining-model"]
    capsys.readouterr()
    assert trainer(*flags, str(folder)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(rf"its features are of {folder}#\w{{16}}, not of {folder}#\w{{16}}; make them again", line), line
    assert "or drop --mining-model where it names another" in line
    names = [stored_name(FrozenSource(name)) for name in (str(copy), f"{copy}/", os.path.relpath(copy))]
    assert trainer(*flags, f"{copy}/") == 0
    assert all(same_model(names[0], name) for name in names) and not same_model(
        names[0], stored_name(FrozenSource(str(folder)))
    )
    assert same_model(str(copy), names[0])  # features of before there were hashes have a path


def test_what_stored_features_of_captions_cannot_do(trainer, folder, text, tmp_path, capsys):
    out, text = tmp_path / "out", [*text, "--mining-model", str(folder)]
    assert embed("--out", str(out), "--", *trainer.tars, *text) == 0
    write(folder, config_sentence_transformers={"prompts": {"q": "query: "}, "default_prompt_name": "q"})
    (out / "00.parquet").unlink()
    assert embed("--out", str(out), "--", *trainer.tars, *text) == 2  # else some would be of another prompt
    assert f"--out {out}: was made with the model's files " in capsys.readouterr().err
    write(folder, config_sentence_transformers=None)
    assert embed("--out", str(out), "--", *trainer.tars, *text) == 0
    stored = [*FFF, "--mining-features", "precomputed", "--feature-sidecar", str(out)]
    judge = ["--plugin", "tests.colour_discriminator", "--discriminator", "colours", "--match-gate", "0.2"]
    grouped = [*stored, "--batch-hooks", "grit", "--group-features", "stored"]
    for argv, named in (
        ([*stored, "--p1", "0.3"], r"--p1: \S+, whose features are stored, knows no images, and mines by --p3 alone"),
        ([*stored, "--p3", "off"], "are all off: nothing can be mined"),
        ([*stored, *judge], "--match-gate goes by features of images and captions"),
        (
            [*grouped, "--group-search-space", "32"],
            r"--group-features stored: \S+, whose features are stored, knows no",
        ),
    ):
        capsys.readouterr()
        assert trainer(*argv, "--name", "no") == 2
        error = capsys.readouterr().err.strip()
        assert re.search(named, error) and "\n" not in error, error
        assert not trainer.run("no").exists()
