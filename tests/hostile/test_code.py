"""Data runs no code: members that webdataset would unpickle, images that would reach Ghostscript."""

import gzip
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from subprocess import CalledProcessError
from types import SimpleNamespace

import numpy as np
import open_clip_train.data as oc_data
import pytest
import torch
import webdataset as wds
from PIL import EpsImagePlugin, Image
from safetensors.torch import save_file
from torchvision.transforms.functional import to_tensor

from open_clip_fff import UsageError
from open_clip_fff.data.counters import LoaderCounters
from open_clip_fff.data.images import open_image, read_image, to_rgb
from open_clip_fff.evaluation.benchmark import EvalSettings, make_loader
from open_clip_fff.evaluation.layouts import find_set
from open_clip_fff.host.fixes import fixes
from open_clip_fff.hub.loading import load_model
from open_clip_fff.tools.pack.items import SkipSample, prepare_image
from open_clip_fff.tools.pack.settings import ImageSettings
from tests import recorder
from tests.conftest import colour_image, colour_sample, write_tar
from tests.hostile.conftest import FFF as MANY
from tests.hostile.conftest import GOOD, SIZE, bomb

FFF = [*MANY, "--captions-per-image", "1"]
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n0 0 moveto showpage\n%%EOF\n"


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def trap(tmp_path):
    """Members that make a folder `tmp_path/ran` when webdataset's own decoders meet them, and the folder."""
    ran = tmp_path / "ran"
    content = pickle.dumps(Payload(ran))
    saved = io.BytesIO()
    torch.save(Payload(ran), saved)
    array = io.BytesIO()
    np.save(array, np.array([Payload(ran)], dtype=object), allow_pickle=True)
    members = {name: content for name in ("pyd", "pickle", "pkl", "more.pyd")}
    members |= {"pyd.gz": gzip.compress(content), "pth": saved.getvalue(), "npy": array.getvalue()}
    return members, ran


@pytest.mark.parametrize("member", ["pyd", "pickle", "pkl", "more.pyd", "pyd.gz", "pth"])
def test_the_trap_works(trap, tmp_path, member):
    members, ran = trap
    write_tar(tmp_path / "0.tar", {"0": {member: members[member]}})
    with suppress(Exception):  # some fail once they have run
        list(wds.WebDataset(str(tmp_path / "0.tar"), shardshuffle=False).decode("pilrgb"))
    assert ran.exists()


@pytest.mark.slow
def test_a_tokenizers_own_code_is_not_run(trainer, bert_clip, tmp_path, capsys):
    """OpenCLIP passes `tokenizer_kwargs` of an architecture, which may come with weights, to transformers."""
    folder, ran, asks = tmp_path / "model", tmp_path / "ran", {"trust_remote_code": True}
    shutil.copytree(bert_clip.parent, folder)
    code = f"import os\nos.mkdir({str(ran)!r})\nfrom transformers import BertTokenizerFast as Evil"
    (folder / "evil.py").write_text(code)
    auto = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(auto))
    load = f"import transformers as x; x.AutoTokenizer.from_pretrained({str(folder)!r}, trust_remote_code=True)"
    env = {**os.environ, "HF_HOME": str(tmp_path)}  # where transformers copies the code to
    subprocess.run([sys.executable, "-c", load], env=env, capture_output=True)
    assert ran.exists()  # the trap works
    ran.rmdir()
    model = json.loads(bert_clip.read_text())
    model["text_cfg"] |= {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder), "tokenizer_kwargs": asks}
    config = folder / "evil-clip.json"
    config.write_text(json.dumps(model))
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": {}}))
    save_file({"logit_scale": torch.zeros(())}, folder / "open_clip_model.safetensors")
    own = ["--model-config", str(config), "--model", "evil-clip"]
    teacher = ["--distill-model", f"local-dir:{folder}", "--distill-pretrained", "own"]
    for argv in (own, ["--model", f"local-dir:{folder}"], teacher):
        assert trainer(*argv, "--name", "x") == 2
        assert "trust_remote_code among its tokenizer_kwargs would run code" in capsys.readouterr().err
    for source in (str(folder), f"evil-clip,{folder / 'open_clip_model.safetensors'}"):
        with pytest.raises(UsageError, match="trust_remote_code among its tokenizer_kwargs would run code"):
            load_model(source)
    assert not ran.exists()


@pytest.mark.parametrize("flags", [[], FFF, ["--method", "clip"]], ids=["stock", "fff", "clip"])
def test_training_and_validation_unpickle_nothing(trainer, tmp_path, trap, flags):
    members, ran = trap
    write_tar(tmp_path / "00.tar", {str(row): {**members, **colour_sample(row)} for row in range(GOOD)})
    data = ["--train-data", str(tmp_path / "00.tar"), *SIZE, "--val-data", str(tmp_path / "00.tar")]
    assert trainer(*flags, "--batch-size", str(GOOD), "--name", "x", data=data) == 0
    assert not ran.exists() and "cannot be read" not in trainer.log("x")
    assert f"[{GOOD}/{GOOD} (100%)]" in trainer.log("x") and f"num_samples: {GOOD}" in trainer.log("x")


@pytest.mark.parametrize("retrieval", [False, True])
def test_scoring_a_set_unpickles_nothing(tmp_path, trap, retrieval):
    members, ran = trap
    members.pop("npy")  # classification of several labels reads it, without pickles
    (tmp_path / "mine" / "test").mkdir(parents=True)
    (tmp_path / "mine" / "classnames.txt").write_text("a\nb")
    (tmp_path / "mine" / "zeroshot_classification_templates.txt").write_text("a {c}")
    folder = tmp_path / "mine" / "test"
    label = {"txt": b"a\nb"} if retrieval else {"cls": b"1"}
    write_tar(folder / "0.tar", {str(row): {**members, "png": colour_image("red", row), **label} for row in range(4)})
    (folder / "nshards.txt").write_text("1")
    if retrieval:
        (tmp_path / "mine" / "dataset_type.txt").write_text("retrieval")
    at = find_set("mine", tmp_path)
    loader = make_loader(at, np.asarray, EvalSettings(workers=0, batch_size=4))
    images, labels = next(iter(loader))
    assert len(images) == 4 and list(labels[0]) == ["a", "b"] if retrieval else labels.tolist() == [1] * 4
    assert not ran.exists()


@pytest.mark.parametrize("flags", [[], FFF], ids=["stock", "fff"])
def test_an_image_of_another_format_is_no_image(trainer, tmp_path, flags):
    """Pillow goes by content, whatever the name says."""
    gif = io.BytesIO()
    Image.new("RGB", (40, 40)).save(gif, "gif")
    samples = {f"good{row}": colour_sample(row) for row in range(GOOD)}
    samples |= {name: {"txt": b"x", "jpg": content} for name, content in {"eps": EPS, "gif": gif.getvalue()}.items()}
    write_tar(tmp_path / "00.tar", samples)
    data = ["--train-data", str(tmp_path / "00.tar"), *SIZE]
    assert trainer(*flags, "--batch-size", str(GOOD), "--epochs", "2", "--name", "x", data=data) == 0
    assert re.search(r"Rows skipped or damaged in epoch 0: [24] with an unreadable member or image", trainer.log("x"))


def test_tars_of_gifs_are_told_what_helps(trainer, tmp_path, capsys):
    gif = io.BytesIO()
    Image.new("RGB", (40, 40)).save(gif, "gif")
    write_tar(tmp_path / "00.tar", {str(row): {"txt": b"x", "jpg": gif.getvalue()} for row in range(GOOD)})
    assert trainer("--name", "x", data=["--train-data", str(tmp_path / "00.tar"), *SIZE]) == 2
    assert "in tars they are JPEG, PNG, WEBP: open-clip-fff pack re-encodes others" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--method", "clip"]], ids=["stock", "clip"])
def test_tables_open_three_more_formats(trainer, tmp_path, flags):
    """Its CSVs may name files of any format: photographs of satellites and of patients are TIFFs, BMPs and GIFs."""
    rows = ["filepath\ttitle"]
    for row, form in enumerate(["gif", "bmp", "tiff", "png"]):
        path = tmp_path / f"{row}.{form}"
        Image.open(io.BytesIO(colour_image("red", row))).save(path)
        rows.append(f"{path}\tgood {row}")
    (tmp_path / "train.csv").write_text("\n".join(rows))
    data = ["--train-data", str(tmp_path / "train.csv"), "--csv-img-key", "filepath", "--batch-size", "4"]
    assert trainer(*flags, "--name", "x", data=data) == 0
    assert "Rows skipped" not in trainer.log("x")


def test_tables_open_no_other_format_either(trainer, tmp_path):
    rows = ["filepath\ttitle"]
    for row in range(GOOD + 1):
        path = tmp_path / f"{row}.jpg"
        path.write_bytes(colour_image("red", row) if row else EPS)
        rows.append(f"{path}\tgood {row}")
    (tmp_path / "train.csv").write_text("\n".join(rows))
    data = ["--train-data", str(tmp_path / "train.csv"), "--csv-img-key", "filepath", "--batch-size", str(GOOD + 1)]
    assert trainer(*FFF, "--name", "x", data=data) == 0
    assert f"{tmp_path}/0.jpg cannot be read (cannot identify image file" in trainer.log("x")


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A program of that name, and the file that is there once it was given an image."""
    program, ran = tmp_path / "gs", tmp_path / "ran"
    program.write_text(f'#!/bin/sh\ncase "$1" in --version) ;; *) touch {ran}; exit 1;; esac\n')
    program.chmod(0o755)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", str(program))
    return ran


def test_the_program_is_run(ghostscript):
    with suppress(CalledProcessError):
        Image.open(io.BytesIO(EPS)).load()
    assert ghostscript.exists()


def write_folder(folder: Path, content: bytes) -> Path:
    """A class with a good image and one more."""
    (folder / "0").mkdir(parents=True)
    for name, image in (("0.jpeg", colour_image("red", 0)), ("1.jpeg", content)):
        (folder / "0" / name).write_bytes(image)
    return folder


@pytest.mark.parametrize("flags", [[], ["--method", "clip"]], ids=["stock", "clip"])
@pytest.mark.parametrize("content", [EPS, bomb()], ids=["eps", "bomb"])
def test_an_image_of_imagenet_that_cannot_be_read_costs_the_evaluation(
    trainer, tmp_path, monkeypatch, ghostscript, flags, content
):
    monkeypatch.setattr("open_clip_train.zero_shot.build_zero_shot_classifier", lambda *_, **__: torch.zeros(16, 1000))
    folder = write_folder(tmp_path / "images", content)
    assert trainer(*flags, "--imagenet-val", str(folder), "--zeroshot-frequency", "1", "--name", "x") == 0
    ended = f"Evaluation after epoch 1 ended without results: {folder}/0/1.jpeg cannot be read ("
    assert ended in trainer.log("x") and trainer.checkpoint("x") and not ghostscript.exists()


class Second(torch.utils.data.Dataset):
    """As imagenetv2_pytorch, which is not installed, reads its images."""

    def __init__(self, location, transform):
        self.fnames, self.transform = sorted(Path(location).glob("**/*.jpeg")), transform

    def __len__(self):
        return len(self.fnames)

    def __getitem__(self, i):
        return self.transform(Image.open(self.fnames[i])), int(self.fnames[i].parent.name)


def test_the_second_imagenet_is_read_by_ours(tmp_path, monkeypatch, ghostscript):
    monkeypatch.setitem(sys.modules, "imagenetv2_pytorch", SimpleNamespace(ImageNetV2Dataset=Second))
    folder = write_folder(tmp_path / "images", EPS)
    args = SimpleNamespace(imagenet_v2=str(folder), batch_size=1, workers=0)
    with fixes(LoaderCounters(), 0, read_image):
        read = oc_data.get_imagenet(args, (None, to_tensor), "v2").dataloader.dataset
        assert torch.equal(read[0][0], to_tensor(read_image(folder / "0" / "0.jpeg"))) and read[0][1] == 0
        with pytest.raises(OSError, match=r"1\.jpeg cannot be read"):
            read[1]
    assert not ghostscript.exists()


def png(values: np.ndarray) -> bytes:
    """Grey of 8 or 16 bits."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "png")
    return buffer.getvalue()


def test_sixteen_bits_of_grey_are_scaled_and_everything_else_is_pillows():
    grey = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    content = png(grey)
    assert np.array_equal(np.asarray(read_image(content))[..., 0], grey >> 8)
    assert (np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) == 255).mean() > 0.9  # Pillow's
    for image in (colour_image("red", 1), png((grey >> 8).astype(np.uint8))):
        assert np.array_equal(read_image(image), Image.open(io.BytesIO(image)).convert("RGB"))
    palette = Image.open(io.BytesIO(colour_image("blue", 2))).quantize(8)
    assert np.array_equal(to_rgb(palette), palette.convert("RGB"))


def test_a_bomb_is_refused_before_it_is_decoded():
    buffer = io.BytesIO()
    Image.new("1", (10_000, 9_000)).save(buffer, "png")
    with pytest.raises(ValueError, match="10000 x 9000 pixels, more than 89,478,485"):
        open_image(buffer.getvalue())
    assert open_image(buffer.getvalue(), max_pixels=90_000_000).size == (10_000, 9_000)


def test_sixteen_bit_images_reach_training_scaled(trainer, tmp_path):
    """Under flags of ours; a stock run has them as OpenCLIP has."""
    grey = np.full((40, 40), 20_000, dtype=np.uint16)
    write_tar(tmp_path / "00.tar", {str(row): {**colour_sample(row), "png": png(grey + row)} for row in range(8)})
    data = ["--train-data", str(tmp_path / "00.tar"), *SIZE, "--batch-size", str(GOOD)]
    assert trainer(*FFF, "--image-mean", "0", "0", "0", "--image-std", "1", "1", "1", "--name", "x", data=data) == 0
    images = torch.cat([batch.images for batch in recorder.BATCHES])
    assert torch.allclose(images, torch.full_like(images, (20_000 >> 8) / 255), atol=1 / 255)


def test_packing_opens_what_it_says_and_scales_sixteen_bits():
    with pytest.raises(SkipSample):
        prepare_image(EPS, ImageSettings())
    grey = np.full((40, 40), 20_000, dtype=np.uint16)
    smaller = prepare_image(png(grey), ImageSettings(resize=20, format="keep"))
    pixels = np.asarray(Image.open(io.BytesIO(smaller.content)))
    assert smaller.reencoded and np.unique(pixels).tolist() == [20_000 >> 8]
