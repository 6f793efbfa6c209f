"""Sets that would be scored wrongly in silence, and the names by which sets are found."""
# ruff: noqa: F811

import gc
import os
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from open_clip_fff.config.zero_shot import ZeroShotSettings
from open_clip_fff.errors import UsageError, reason
from open_clip_fff.evaluation.layouts import find_set, find_sets, memory_warnings, name_warnings
from open_clip_fff.evaluation.probe import ProbeSettings, probe, training_split
from open_clip_fff.evaluation.score_all import score_line
from open_clip_fff.evaluation.scoring import score_set
from open_clip_fff.evaluation.store import write_score
from open_clip_fff.host.zero_shot import find_zero_shot_sets
from tests.conftest import write_tar
from tests.eval_sets import jpeg, webdataset
from tests.test_evaluation import QUICK, folder, loaded  # noqa: F401

NAMES, TEMPLATES = "classnames.txt", "zeroshot_classification_templates.txt"
UNUSABLE = {  # of a set's files and members, what is wrong with it
    "line 2 is empty; delete it": {NAMES: b"red\n\ngreen\nblue\nyellow"},
    "line 5 is empty": {NAMES: b"red\ngreen\nblue\nyellow\n\n"},
    "a byte order mark would be a part of 'red'": {NAMES: b"\xef\xbb\xbfred\r\ngreen\r\nblue\r\nyellow"},
    "classnames.txt: cannot be read ('utf-8' codec": {NAMES: b"red\ngr\xfcn\nblue\nyellow"},
    "holds no name; write one a line": {NAMES: b""},
    "'a photo' has no {c} for the class's name": {TEMPLATES: b"a {c}\na photo"},
    "'a {}' has no {c}": {TEMPLATES: b"a {}"},
    "is code; write a template a line": {TEMPLATES: b"lambda c: f'a {c}',"},
    "an image has the class -1, counted from 0, of 4 classes": {"cls": b"-1"},
    "b.cls in 0.tar cannot be read: invalid literal for int": {"cls": b"red"},
    "b.jpg in 0.tar cannot be read: cannot identify image file": {"jpg": b"no image"},
    "b in 0.tar has no cls": {"jpg": None},
    "b in 0.tar has no webp or png or jpg or jpeg": {"cls": None},
}


@pytest.mark.parametrize("says", UNUSABLE)
def test_sets_that_would_be_scored_wrongly_are_refused(says, loaded, tmp_path):
    folder = webdataset(tmp_path / "mine", shards=1, images=2)
    for name, content in UNUSABLE[says].items():
        if name.endswith(".txt"):
            (folder / name).write_bytes(content)
        else:
            members = {"jpg": jpeg(0), "cls": b"0"}
            last = members | {name: content} if content is not None else {name: members[name]}
            write_tar(folder / "test" / "0.tar", {"a": members, "b": last})
    with pytest.raises(UsageError) as found:
        score_set(loaded, find_set("mine", tmp_path), QUICK, tmp_path / "store")
    assert says in str(found.value) and "\n" not in str(found.value)
    assert not any((tmp_path / "store").rglob("*"))


def test_the_reason_of_a_loaders_worker_is_the_errors_own():
    caught = "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  x"
    assert reason(ValueError(f"{caught}\nValueError: a.cls: no number\n")) == "a.cls: no number"


def test_captions_that_are_empty_lines_are_told(loaded, tmp_path):
    folder = webdataset(tmp_path / "mine", shards=1, images=2, retrieval=True)
    texts = [b"a\n\nb", b"", b"c"]
    write_tar(folder / "test" / "0.tar", {str(n): {"jpg": jpeg(n), "txt": text} for n, text in enumerate(texts)})
    score, _ = score_set(loaded, find_set("mine", tmp_path), QUICK, tmp_path / "store")
    assert "3 images, 4 captions (1 of them empty lines) (1 of the images have none)" in score_line(score)


@pytest.mark.slow
@pytest.mark.parametrize("retrieval", [True, False])
def test_tars_without_a_sample(loaded, tmp_path, retrieval):
    folder = webdataset(tmp_path / "mine", images=4, retrieval=retrieval)
    expected, _ = score_set(loaded, find_set("mine", tmp_path), QUICK, tmp_path / "store")
    (folder / "test" / "nshards.txt").write_text("3")
    write_tar(folder / "test" / "2.tar", {})
    three = replace(QUICK, workers=3)  # one of which has the empty tar alone
    score, _ = score_set(loaded, find_set("mine", tmp_path), three, tmp_path / "store", again=True)
    assert str(score.metrics) == str(expected.metrics)  # acc5 of four classes is NaN
    for shard in range(2):
        write_tar(folder / "test" / f"{shard}.tar", {})
    with pytest.raises(UsageError, match=f"^{folder / 'test'}: no sample in 3 tars$"):
        score_set(loaded, find_set("mine", tmp_path), QUICK, tmp_path / "store", again=True)


def test_a_set_of_one_class_is_told(tmp_path):
    """Whatever is predicted is right; of several labels an image may have none."""
    folder = webdataset(tmp_path / "mine", shards=1)
    assert name_warnings([find_set("mine", tmp_path)]) == []
    (folder / NAMES).write_text("red\n")
    (told,) = name_warnings([find_set("mine", tmp_path)])
    assert told == f"warning: {folder / NAMES}: names one class, red, so that its accuracy is 100 % with any model"
    (folder / "dataset_type.txt").write_text("multilabel")
    write_tar(folder / "test" / "0.tar", {"0": {"jpg": jpeg(0), "npy": b""}})
    assert name_warnings([find_set("mine", tmp_path)]) == []


def test_the_memory_that_a_large_retrieval_set_takes_is_told(program, folder, tmp_path, capsys):
    """1,300 images with 1,000 captions each, which are told before the first of them cannot be read."""
    webdataset(tmp_path / "small", retrieval=True)
    large = webdataset(tmp_path / "large", retrieval=True, shards=1)
    write_tar(large / "test" / "0.tar", {f"{row}": {"jpg": b"", "txt": b"a\n" * 999 + b"a"} for row in range(1300)})
    told = (
        "warning: large: 1,300 images x 1,300,000 captions take about 8 GB of memory to score; retrieval-set makes "
        "smaller sets, of fewer shards"
    )
    assert memory_warnings([find_set(name, tmp_path) for name in ("small", "large")]) == [told]
    find_zero_shot_sets(ZeroShotSettings(root=str(tmp_path)))
    assert told in capsys.readouterr().out
    flags = ["--data-root", tmp_path, "--datasets", "large", "--store", tmp_path / "store"]
    assert told in program("zero_shot", folder, *flags, expect=1).out


def test_a_set_is_found_by_its_name_in_clip_benchmark(tmp_path):
    webdataset(tmp_path / "cifar10", shards=1, images=2)
    webdataset(tmp_path / "wds_mine", shards=1, images=2)
    for name in ("wds/cifar10", "wds/vtab/cifar10", "wds_vtab-cifar10", "wds_mine", "wds/mine"):
        (found,), _ = find_sets([name], tmp_path)
        assert found.dataset in ("wds/cifar10", "wds/mine", "wds/wds_mine")
    (tmp_path / "folder" / "cat").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"no set in webdataset form; open-clip-fff class-set makes one"):
        find_sets(["folder"], tmp_path)


@pytest.mark.parametrize("typed", ["{absolute}", "mine/", "sets/mine", "../sets/mine", "sets/..", "wds/{absolute}"])
def test_a_path_is_no_name_of_a_set(typed, tmp_path, monkeypatch):
    """The store has a folder of each set's name, and STORE / "/sets/mine" is the set itself, which was replaced."""
    root = webdataset(tmp_path / "sets" / "mine").parent
    webdataset(tmp_path)
    root = root if typed in ("mine/", "../sets/mine") else tmp_path
    name = typed.format(absolute=tmp_path / "sets" / "mine")
    with pytest.raises(UsageError, match=r"is a path; name the set: --zero-data \S+ --zero-sets \w+$") as told:
        find_sets([name], root, ("--zero-sets", "--zero-data"))
    _, at, _, found = str(told.value).rsplit(maxsplit=3)
    (local,), _ = find_sets([found], Path(at))
    assert os.path.samefile(local.root, root / name.removeprefix("wds/"))


def test_a_folder_that_is_no_score_is_not_replaced(loaded, tmp_path):
    webdataset(tmp_path / "mine", shards=1, images=2)
    local, store = find_set("mine", tmp_path), tmp_path / "store"
    score, _ = score_set(loaded, local, QUICK, store)
    (meta,) = store.rglob("meta.json")
    meta.rename(meta.with_name("notes"))
    with pytest.raises(UsageError, match=rf"^--store {store}: {meta.parent} holds .* than a score; remove it, or"):
        score_set(loaded, local, QUICK, store)
    with pytest.raises(UsageError, match="not empty"):
        write_score(meta.parent, score)
    assert meta.with_name("notes").exists() and not any(store.rglob(".*"))


@pytest.mark.slow
def test_training_images_that_a_probe_cannot_be_fitted_on(loaded, tmp_path):
    webdataset(tmp_path / "mine", shards=1)
    webdataset(tmp_path / "mine", shards=1, split="train")
    at = find_set("mine", tmp_path)
    for labels, says in (
        ((3, 4), "an image has the class 4, counted from 0, of 4 classes"),
        ((1, 1), "its training images are all of one class"),
    ):
        rows = {str(n): {"jpg": jpeg(n), "cls": str(label).encode()} for n, label in enumerate(labels)}
        write_tar(at.root / "train" / "0.tar", rows)
        with pytest.raises(UsageError, match=says):
            probe(loaded, at, QUICK, training_split(at), ProbeSettings())
    rows = {str(n): {"jpg": jpeg(n), "cls": b"3"} for n in range(2)}
    write_tar(at.root / "test" / "0.tar", rows)
    write_tar(at.root / "train" / "0.tar", {str(n): {"jpg": jpeg(n), "cls": str(n).encode()} for n in range(2)})
    with pytest.raises(UsageError, match="are of none of the test images' classes"):
        probe(loaded, at, QUICK, training_split(at), ProbeSettings())


@pytest.mark.slow
def test_the_loader_of_a_set_that_failed_is_gone_before_the_next_one_forks(loaded, tmp_path, capfd, monkeypatch):
    """Else a worker that collects garbage ends it, and prints that another process's workers are not its children."""
    write_tar(webdataset(tmp_path / "bad", shards=1) / "test" / "0.tar", {"a": {"jpg": jpeg(0), "cls": b"red"}})
    webdataset(tmp_path / "good", shards=1, images=2)
    settings = replace(QUICK, workers=1)

    def preprocess(image):
        gc.collect()
        return loaded.preprocess(image)

    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)  # pytest's keeps what it gets in a worker
    gc.disable()
    try:
        with suppress(UsageError):
            score_set(loaded, find_set("bad", tmp_path), settings, tmp_path / "store")
        score_set(replace(loaded, preprocess=preprocess), find_set("good", tmp_path), settings, tmp_path / "store")
    finally:
        gc.enable()
    assert "Exception ignored" not in capfd.readouterr().err
