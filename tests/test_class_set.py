"""open-clip-fff class-set: folders of classes and shards as sets for clip-benchmark, and sets that lack files."""

import hashlib
import json
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.zero_shot_metadata import SIMPLE_IMAGENET_TEMPLATES

from open_clip_fff import UsageError
from open_clip_fff.cli import main
from open_clip_fff.evaluation.benchmark import EvalSettings, evaluate
from open_clip_fff.evaluation.layouts import find_set, find_sets
from open_clip_fff.evaluation.probe import training_split
from open_clip_fff.tools.class_set import GENERIC_TEMPLATES
from tests.conftest import COLOURS, colour_image, write_tar
from tests.eval_sets import jpeg, put, webdataset
from tests.full_disk import full_disk

LABELS = [f"{colour}_square" for colour in sorted(COLOURS)]
QUICK = EvalSettings(batch_size=3, workers=0, progress_bars=False)


@pytest.fixture
def command(capsys):
    def run(*arguments: object, expect: int = 0) -> str:
        code = main(["class-set", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert code == expect, (out, err)
        return out if expect == 0 else err.strip()

    return run


@pytest.fixture
def folders(tmp_path) -> Path:
    """Two images of each of four classes, one of them below a folder and one in upper case; and what is no image."""
    root = tmp_path / "images"
    for number, label in enumerate(LABELS):
        colour = label.partition("_")[0]
        put(root / label / "more" / f"{number}.png", colour_image(colour, number))
        put(root / label / f"{number}.JPG", jpeg(list(COLOURS).index(colour)))
    put(root / LABELS[0] / "broken.jpg", "no image")
    put(root / "LICENSE", "")
    put(root / LABELS[1] / "notes.txt", "")
    return root


def files_of(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_folders_of_classes_are_scored_by_clip_benchmark(command, folders, tiny_name, tmp_path):
    said = command(folders, "--out", tmp_path / "sets" / "mine")
    assert "8 images of 4 classes (2 each), 7 templates, split test; left out: 1 × image cannot be read" in said
    assert "not used: 1 without a suffix (LICENSE), 1 .txt (notes.txt)" in said
    assert f"--data-root {tmp_path / 'sets'} --datasets mine" in said
    at = find_set("mine", tmp_path / "sets")
    names = (at.root / "classnames.txt").read_text().splitlines()
    assert names == [label.replace("_", " ") for label in LABELS]
    torch.manual_seed(3)
    model, _, preprocess = open_clip.create_model_and_transforms(tiny_name)
    outcome = evaluate(model.eval(), preprocess, open_clip.get_tokenizer(tiny_name), at, QUICK)
    assert outcome.sizes == {"images": 8, "classes": 4, "templates": 7} and 0 <= outcome.metrics["acc1"] <= 1
    assert outcome.samples["target"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    # the same images make the same bytes; a second split joins the first one
    command(folders, "--out", tmp_path / "again")
    assert files_of(tmp_path / "again") == files_of(at.root)
    assert "split train" in command(folders, "--out", at.root, "--split", "train")
    assert training_split(find_set("mine", tmp_path / "sets")) is not None
    other = put_lines(tmp_path / "templates.txt", "a {c}")
    said = command(folders, "--out", at.root, "--split", "val", "--templates", other, expect=2)
    assert f"--templates: {at.root} has others, for all of its splits" in said
    one = tmp_path / "one"
    assert "1 template, split test" in command(folders, "--out", one, "--templates", other)
    assert "1 template, split train" in command(folders, "--out", one, "--split", "train")
    shutil.rmtree(folders / LABELS[3])
    assert "is a set of other classes" in command(folders, "--out", at.root, "--split", "val", expect=2)
    assert "exists already" in command(folders, "--out", at.root, expect=2)


def test_the_generic_templates_are_open_clips():
    assert [make("{c}") for make in SIMPLE_IMAGENET_TEMPLATES] == list(GENERIC_TEMPLATES)


def test_shards_with_classes(command, tmp_path):
    rows = [
        {"jpg": jpeg(row), "txt": b"a", "json": json.dumps({"label": LABELS[row % 4]}).encode()} for row in range(8)
    ]
    rows[0]["jpg"], rows[5]["json"] = b"no image", b"{}"
    samples = {f"{row}": {**members, "cls": str(row % 4).encode()} for row, members in enumerate(rows)}
    (tmp_path / "data").mkdir()
    write_tar(tmp_path / "data" / "a.tar", samples)
    said = command(tmp_path / "data", "--out", tmp_path / "named", "--class-key", "label")
    assert "6 images of 4 classes (1 to 2 each)" in said
    assert "1 × image cannot be read" in said and "1 × without a class" in said
    names = put_lines(tmp_path / "names.txt", "one", "two", "Two", "four", "five")
    templates = put_lines(tmp_path / "templates.txt", "a {}", "the {c}")
    flags = ["--class-names", names, "--templates", templates]
    said = command(tmp_path / "data" / "{a..a}.tar", "--out", tmp_path / "numbered", *flags)
    assert "7 images of 5 classes (0 to 2 each), 2 templates" in said and "without images: five" in said
    assert "several classes have the same name, and no model can tell them apart: two" in said
    assert (tmp_path / "numbered" / "zeroshot_classification_templates.txt").read_text() == "a {c}\nthe {c}\n"
    by_label = put_lines(tmp_path / "by.txt", *(f"{label}\tclass {label[0]}" for label in reversed(LABELS)))
    command(tmp_path / "data", "--out", tmp_path / "b", "--class-key", "label", "--class-names", by_label)
    assert (tmp_path / "b" / "classnames.txt").read_text().split() == [x for n in LABELS for x in ("class", n[0])]


def put_lines(path: Path, *lines: str) -> Path:
    put(path, "".join(f"{line}\n" for line in lines))
    return path


def test_mistakes_are_one_line_and_leave_nothing(command, folders, tmp_path):
    tar = tmp_path / "a.tar"
    write_tar(tar, {f"{row}": {"jpg": jpeg(row), "cls": str(row).encode()} for row in range(4)})
    few, gap = put_lines(tmp_path / "few.txt", "a", "b"), put_lines(tmp_path / "gap.txt", "a", "", "b")
    tabs = put_lines(tmp_path / "tabs.txt", f"{LABELS[0]}\ta")
    table = put_lines(tmp_path / "a.csv", "image,class")
    beside = put_lines(tmp_path / "beside.txt", *(f"{label}, a name" for label in LABELS))
    for label in LABELS:
        put(tmp_path / "broken" / label / "a.jpg", "no image")
    put(tmp_path / "splits" / "train" / "cat" / "a.jpg", jpeg(0))
    put(tmp_path / "splits" / "val" / "cat" / "a.jpg", jpeg(0))
    put(tmp_path / "one" / "cat" / "a.jpg", jpeg(0))
    put(tmp_path / "texts" / "cat" / "a.jpg", jpeg(0))
    put(tmp_path / "texts" / "texts" / "a.txt", "")
    put(tmp_path / "texts" / "dog" / "a.jpg", "no image")
    for arguments, named in (
        ([tar], "--class-names: the classes are numbers (0, 1, 2, 3)"),
        ([tar, "--class-names", few], "has 2 names, from class 0 on, and there is a class 3"),
        ([tar, "--class-key", "nope"], "--class-key nope: no sample"),
        ([tmp_path / "no.tar"], f"SOURCE: {tmp_path / 'no.tar'} does not exist"),
        ([table], "a.csv is a table and no tar; open-clip-fff pack makes shards of it"),
        ([beside], "beside.txt is a table and no tar"),
        ([folders, "--class-names", few], "has 2 names for 4 classes"),
        ([folders, "--class-names", gap], "line 2 is empty"),
        ([folders, "--class-names", tabs], f"has no name for {LABELS[1]}, "),
        ([folders, "--class-names", tmp_path / "none"], "cannot be read"),
        ([folders, "--class-names", beside], "each line begins with a label"),
        ([folders, "--templates", few], "'a' has no {c}"),
        ([folders, "--split", "a/b"], "--split a/b"),
        ([folders / LABELS[0]], "has 1 class (more)"),
        ([tmp_path / "splits"], "holds splits (train, val)"),
        ([tmp_path / "one"], "has 1 class (cat)"),
        (
            [tmp_path / "texts"],
            "only cat has images that can be read, and a set needs two classes with images; left out",
        ),
        ([tmp_path / "broken"], "left out: 4 × image cannot be read"),
    ):
        error = command(*arguments, "--out", tmp_path / "out", expect=2)
        assert named in error and len(error.splitlines()) == 1, error
    with full_disk(1000):
        error = command(folders, "--out", tmp_path / "out", expect=2)
    assert error.endswith(f"--out {tmp_path / 'out'}: cannot be written ([Errno 27] File too large)"), error
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))


def test_names_that_are_codes_are_told(command, tmp_path):
    """wordnet's ids, as ImageNet's folders have, and numbers, as CUB's; what macOS zips beside is no class."""
    for label in ("n01440764", "001.Black_Albatross", "00.5", "cat", "3d_model", "__MACOSX"):
        put(tmp_path / "in" / label / "a.jpg", jpeg(0))
    told = command(tmp_path / "in", "--out", tmp_path / "out")
    assert "5 images of 5 classes" in told
    assert "codes or begin with numbers, of which models know nothing: 00.5, 001.Black Albatross, n01440764;" in told


@pytest.mark.parametrize("name", ["mine", "cifar10"])
def test_a_set_that_lacks_files_is_named_with_them(name, tmp_path):
    webdataset(tmp_path / name)
    for lost in ("classnames.txt", "zeroshot_classification_templates.txt", "test/nshards.txt"):
        (tmp_path / name / lost).rename(tmp_path / "kept")
        for names in ([name], ["all"]):
            with pytest.raises(UsageError, match=f"{name}: is a set in webdataset form without {lost};"):
                find_sets(names, tmp_path)
        (tmp_path / "kept").rename(tmp_path / name / lost)
    webdataset(tmp_path / "pairs", retrieval=True)  # needs no names of classes
    (tmp_path / "pairs" / "dataset_type.txt").rename(tmp_path / "kept")
    with pytest.raises(UsageError, match=r"0.tar: its first sample has .*txt.*, and no cls, .*dataset_type.txt says"):
        find_sets(["pairs"], tmp_path)
    (tmp_path / "kept").rename(tmp_path / "pairs" / "dataset_type.txt")
    (webdataset(tmp_path / ".killed.x") / "test/nshards.txt").unlink()  # what a killed process left
    assert {at.spec.name for at in find_sets(["all"], tmp_path)[0]} == {name, "pairs"}
