"""The study on CIFAR-10, from parquets to its table, on a few images."""

import importlib
import io
import json
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD, ClipLoss
from PIL import Image

from open_clip_fff.config.objective import LossSettings
from open_clip_fff.data.shards import read_samples
from open_clip_fff.errors import UsageError
from open_clip_fff.losses.registry import LossContext
from tests import programs
from tests.conftest import write_tar

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg")
    return file.getvalue()


@pytest.fixture
def photos() -> list[dict]:
    draw = np.random.default_rng(0)
    return [
        {
            "image": {"bytes": jpeg(draw.integers(256, size=(32, 32, 3), dtype=np.uint8)), "path": ""},
            "label": label,
            "class": name,
        }
        for _ in range(20)
        for label, name in enumerate(NAMES)
    ]


@pytest.fixture
def test_set(tmp_path, photos):
    rows = {
        f"{number:04d}": {"jpg": row["image"]["bytes"], "cls": str(row["label"]).encode()}
        for number, row in enumerate(photos[:50])
    }
    folder = tmp_path / "cifar10"
    (folder / "test").mkdir(parents=True)
    write_tar(folder / "test" / "0.tar", rows)
    (folder / "test" / "nshards.txt").write_text("1\n")
    (folder / "classnames.txt").write_text("\n".join(NAMES) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of a {c}\n")
    return folder


def test_the_teachers_tower_takes_pixels_as_open_clip_gives_them(monkeypatch):
    monkeypatch.syspath_prepend(programs.ROOT / "scripts")
    teacher = importlib.import_module("cifar.teacher")
    pixels = torch.rand(2, 3, 8, 8)
    convolution, norm = torch.nn.Conv2d(3, 4, 3, bias=False), torch.nn.BatchNorm2d(4).eval()
    norm.running_mean.uniform_(-1, 1)
    wanted = norm(convolution((pixels - teacher.MEAN) / teacher.STD))
    teacher.take_open_clips_pixels(convolution.weight.data, norm.running_mean)
    mean, std = (torch.tensor(x)[:, None, None] for x in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    torch.testing.assert_close(norm(convolution((pixels - mean) / std)), wanted)


def test_swapped_first_captions_are_anothers_or_name_nothing(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(programs.ROOT / "scripts")
    noisy = importlib.import_module("flickr.noisy")
    captions = [[f"photograph {number}, caption {k}" for k in range(5)] for number in range(60)]
    rows = {
        f"{number:03d}": {
            "jpg": jpeg(np.zeros((80, 100, 3), np.uint8)),
            "json": json.dumps({"captions": texts}).encode(),
        }
        for number, texts in enumerate(captions)
    }
    keys = list(rows)
    for place, part in enumerate((keys[:25], keys[25:])):
        write_tar(tmp_path / f"train-{place}.tar", {key: rows[key] for key in part})
    for name, share in (("human", 0.0), ("swapped", 0.5)):
        noisy.write(sorted(tmp_path.glob("*.tar")), tmp_path / name, share)
    found = {
        name: [row for tar in sorted((tmp_path / name).glob("*.tar")) for row in read_samples([str(tar)])]
        for name in ("human", "swapped")
    }
    assert all(len(shards) == 60 for shards in found.values())
    assert [json.loads(row["json"])["captions"] for row in found["human"]] == captions
    firsts, texts = (
        [row["txt"].decode() for row in found["swapped"]],
        [json.loads(row["json"])["captions"] for row in found["swapped"]],
    )
    assert firsts == [each[0] for each in texts] and [each[1:] for each in texts] == [each[1:] for each in captions]
    own = sum(first == before[0] for first, before in zip(firsts, captions, strict=True))
    others = sum(first in {each[0] for each in captions} for first in firsts) - own
    assert 20 <= own <= 42 and others >= 6 and 60 - own - others >= 6
    assert Image.open(io.BytesIO(found["human"][0]["jpg"])).size == (90, 72)


def test_a_softmax_for_each_caption_is_the_mean_of_clips_losses(monkeypatch):
    monkeypatch.syspath_prepend(programs.ROOT / "scripts")
    loss = importlib.import_module("cifar.per_caption").PerCaptionSoftmax(LossContext(0, 1, LossSettings()))
    image, text = (torch.nn.functional.normalize(torch.randn(*shape, 8), dim=-1) for shape in ((6,), (6, 3)))
    own = [ClipLoss()(image, text[:, k], torch.tensor(9.0)) for k in range(3)]
    torch.testing.assert_close(loss(image, text, torch.tensor(9.0), labels=None), torch.stack(own).mean())


def test_differences_are_paired_by_seed_and_folder(tmp_path):
    """Two captioners with two seeds each: 1, 2, 3 and 6 ahead, by 3 ± 3.182 standard errors."""
    rows = {"condition": "c", "seed": [0, 1] * 2, "arm": ["a"] * 2 + ["b"] * 2, "top-1 in words": 5.0}
    for folder, values in (("one", [11, 22, 10, 20]), ("two", [43, 36, 40, 30])):
        (tmp_path / folder).mkdir()
        columns = {"top-1": values, "own captions R@5": 5.0, "class R@1": 5.0}
        pd.DataFrame({**rows, **columns}).to_csv(tmp_path / folder / "runs.csv", index=False)
    where = ["--condition", "c", "--results", tmp_path / "one", tmp_path / "two"]
    found = programs.run("scripts/study.py", "difference", "a", "b", *where).stdout
    assert "| the set's prompts | 4 | +3.0 [-0.4, +6.4] | +1.0, +2.0, +3.0, +6.0 |" in found
    missing = programs.run("scripts/study.py", "difference", "a", "z", *where)
    assert missing.stderr == "scripts/study.py: error: z: no run of it in c; there are a; b\n"


def test_what_is_not_there_is_named(tmp_path):
    none, some = tmp_path / "none", tmp_path / "some"
    some.mkdir()
    pd.DataFrame({"condition": ["c", "d"], "seed": 0, "arm": "a"}).to_csv(some / "runs.csv", index=False)
    for argv, line in (
        (["table", "--results", none], f"--results {none}: no runs.csv there"),
        (["difference", "a", "b", "--results", some, none], f"--results {none}: no runs.csv there"),
        (["difference", "a", "b", "--results", some, "--condition", "x"], "--condition x: no run; there are c; d"),
        (
            ["difference", "a", "b", "--results", some, "--condition", "c", "--seeds", "1", "2"],
            "--seeds 1 2: no run with one of them in c",
        ),
        (
            ["run", "--data", none, "--results", none],
            f"--data {none}: no balanced-web/*.tar there; `scripts/study.py data` makes them",
        ),
        (
            ["run", "--data", none, "--results", none, "--grid", "quarter", "--shares", "tailed"],
            "--shares tailed: no condition of --grid quarter has them",
        ),
        (
            ["batches", "--train-data", "00000.tar", "--features", none],
            f"--features {none}: no 00000.parquet there, of 00000.tar",
        ),
    ):
        done = programs.run("scripts/study.py", *argv)
        assert (done.returncode, done.stderr) == (1, f"scripts/study.py: error: {line}\n")
    assert not none.exists()


def test_captions_are_refused_beside_other_images(tmp_path, photos, monkeypatch):
    monkeypatch.syspath_prepend(programs.ROOT / "scripts")
    read_captions = importlib.import_module("cifar.data").read_captions
    (tmp_path / "bare").mkdir()
    write_tar(tmp_path / "bare" / "00000.tar", {f"{n:09d}": {"jpg": photos[n]["image"]["bytes"]} for n in range(3)})
    written = pd.DataFrame({"key": [f"{n:09d}" for n in range(4)], "captions": [[f"caption {n}"] for n in range(4)]})
    for rows, wrong in ((4, True), (2, True), (3, False)):
        written[:rows].to_parquet(tmp_path / "00000.parquet")
        with pytest.raises(UsageError, match="all 3 images of ") if wrong else nullcontext():
            assert list(read_captions(tmp_path, tmp_path).values()) == [[f"caption {n}"] for n in range(3)]
    for source, line in (
        ("--source", "--some: does not go with --captions"),
        ("--flickr8k", "--some, --captions: do not go with --flickr8k"),
    ):
        folders = [source, tmp_path, "--captions", tmp_path, "--data", tmp_path / "data"]
        done = programs.run("scripts/study.py", "data", *folders, "--some", "2")
        assert done.returncode == 2 and f"error: {line}" in done.stderr


@pytest.mark.slow
def test_from_parquets_to_the_table(tmp_path, photos, test_set):
    source, data, results = tmp_path / "train", tmp_path / "data", tmp_path / "results"
    source.mkdir()
    pd.DataFrame(photos).to_parquet(source / "0.parquet")
    made = programs.run("scripts/study.py", "data", "--source", source, "--data", data, "--captioner-steps", 2)
    assert made.returncode == 0, made.stdout[-2000:] + made.stderr[-2000:]
    elsewhere = ["--data", tmp_path / "elsewhere", "--captions", data / "captions"]  # no captioner is trained
    assert programs.run("scripts/study.py", "data", "--source", source, *elsewhere).returncode == 0
    tars = [sorted((folder / "balanced-web").glob("*.tar")) for folder in (data, tmp_path / "elsewhere")]
    assert tars[0] and [tar.read_bytes() for tar in tars[0]] == [tar.read_bytes() for tar in tars[1]]
    command = ["scripts/study.py", "run", "--data", data, "--test", test_set, "--grid", "try", "--results", results]
    done = programs.run(*command)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    rates, runs = pd.read_csv(results / "rates.csv"), pd.read_csv(results / "runs.csv")
    assert len(rates) == 6 and rates["validation top-1"].between(0, 100).all()
    assert list(runs["arm"]) == ["CLIP, raw caption", "FFF, five, none mined"]
    assert runs["top-1"].between(0, 100).all() and runs["mean per class"].notna().all()
    for name, table in (("rates", rates), ("runs", runs)):
        table[:-1].to_csv(results / f"{name}.csv", index=False)  # stopped as the last run had ended
    again = programs.run(*command)  # what is there is not run again
    assert again.returncode == 0 and "open_clip_fff.train" not in again.stdout, again.stderr[-2000:]
    scored, timed = pd.read_csv(results / "runs.csv"), [*runs["seconds"][:-1], np.nan]
    pd.testing.assert_frame_equal(scored, runs.assign(seconds=timed))
    pd.testing.assert_frame_equal(pd.read_csv(results / "rates.csv"), rates)
    table = programs.run("scripts/study.py", "table", "--results", results)
    assert table.returncode == 0 and "FFF, five, none mined" in table.stdout
    where = ["--condition", runs["condition"][0], "--seeds", runs["seed"][0], "--results", results]
    apart = programs.run("scripts/study.py", "difference", *runs["arm"], *where)
    by = runs["top-1"][0] - runs["top-1"][1]
    assert f"| the set's prompts | 1 | – | {by:+.1f} |" in apart.stdout, apart  # one seed has no interval
    assert runs["top-1 in words"].between(0, 100).all() and runs["mean per class in words"].notna().all()
    assert runs["own captions R@5"].between(0, 100).all() and runs["class R@1"].between(0, 100).all()
    curves = pd.read_csv(results / "curves.csv")
    assert curves.groupby("arm")["scale"].count().gt(0).all() and set(curves["arm"]) == set(runs["arm"])
    assert curves.groupby("arm")["bias"].count().gt(0).to_dict() == dict(zip(runs["arm"], (False, True), strict=True))
    assert all((results / f"{name}.png").stat().st_size > 10_000 for name in ("study", "curves"))
