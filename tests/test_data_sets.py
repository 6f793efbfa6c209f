"""Several data sets at once, `A::B`, as img2dataset writes them: their shards and keys have the same names."""

import dataclasses
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_clip_fff import UsageError, sample_id
from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.data.data_sets import parquets
from open_clip_fff.data.preview import preview_sets
from open_clip_fff.data.preview_text import check_previews, preview_lines
from tests import recorder
from tests.conftest import colour_image, write_tar

ROWS = 8
FFF = ["--method", "fff", "--mining-features", "off", *recorder.RECORDED, "--captions-per-image", "1"]


def two_sets(folder: Path, shared: int = 0) -> dict[str, list[bytes]]:
    """Sets `a` and `b` of one shard each, equal in all names; the first `shared` images of `b` are images of `a`."""
    images = {name: [colour_image("red", at * ROWS + row) for row in range(ROWS)] for at, name in enumerate("ab")}
    images["b"][:shared] = images["a"][:shared]
    for name, some in images.items():
        (folder / name).mkdir()
        rows = {f"{n:09d}": {"png": image, "txt": f"{name} says {n}".encode()} for n, image in enumerate(some)}
        write_tar(folder / name / "00000.tar", rows)
    return images


def both(folder: Path) -> list[str]:
    shards = "::".join(str(folder / name / "00000.tar") for name in "ab")
    return ["--train-data", shards, "--train-num-samples", str(2 * ROWS), "--batch-size", str(2 * ROWS)]


def test_two_sets_of_equal_names_are_different_images_and_a_picture_in_both_is_one(trainer, tmp_path):
    images = two_sets(tmp_path, shared=2)
    assert trainer(*FFF, "--name", "x", data=both(tmp_path)) == 0
    expected = [sample_id(image) for some in images.values() for image in some]
    assert sorted(recorder.ids()) == sorted(expected) and len(set(expected)) == 2 * ROWS - 2
    # each image has one own caption, and the two that are there twice have two each: 2 * 2 more of 16 * 16 pairs
    share = (2 * ROWS + 2 * 2) / (2 * ROWS) ** 2
    assert f"Positives: {share:.3%}" in trainer.log("x")


def beside(folder: Path, source: Path, say: str) -> None:
    """A sidecar for each shard of a data set."""
    folder.mkdir(parents=True)
    for shard in source.glob("*.tar"):
        keys = [f"{row:09d}" for row in range(ROWS)]
        table = {"key": keys, "captions": [f"{say} captions {row}" for row in range(ROWS)]}
        pq.write_table(pa.table(table), folder / f"{shard.stem}.parquet")


def test_each_data_set_has_the_captions_of_its_own_folder(trainer, tmp_path, capsys):
    two_sets(tmp_path)
    for name in "ab":
        beside(tmp_path / "captions" / name, tmp_path / name, name)
    one, other = (str(tmp_path / "captions" / name) for name in "ab")
    flags = ["--text-key", "", "--caption-sidecar"]
    assert trainer(*FFF, *flags, f"{one}::{other}", "--name", "x", data=both(tmp_path)) == 0
    assert recorder.rows() == recorder.rows_of(*([f"{name} captions {row}"] for name in "ab" for row in range(ROWS)))
    assert "'a captions 0'" in (printed := capsys.readouterr().out) and "'b captions 0'" in printed
    for folders, why in {
        one: f"{tmp_path}/a/00000.tar and {tmp_path}/b/00000.tar would both have {one}/00000.parquet",
        f"{one}::{one}": f"{tmp_path}/a/00000.tar and {tmp_path}/b/00000.tar would both have {one}/00000.parquet",
        f"{one}::{other}::{one}": "3 folders for 2 data sets",
        f"{one}::{other}x": f"{other}x/00000.parquet does not exist",
    }.items():
        assert trainer(*FFF, *flags, folders, "--name", "y", data=both(tmp_path)) == 2
        error = capsys.readouterr().err
        assert why in error and error.startswith("open_clip_fff.train: error: --caption-sidecar"), error
    assert not trainer.run("y").exists()


def test_a_data_set_may_have_no_sidecars(tmp_path):
    two_sets(tmp_path)
    for number in "12":
        shutil.copy(tmp_path / "a" / "00000.tar", tmp_path / "a" / f"0000{number}.tar")
    beside(tmp_path / "captions", tmp_path / "a", "a")
    (tmp_path / "captions" / "00000.parquet").unlink()
    (tmp_path / "none").mkdir()
    shards = f"{tmp_path}/a/{{00000..00002}}.tar::{tmp_path}/b/00000.tar"
    captions = CaptionSettings(sidecar=f"{tmp_path}/captions::{tmp_path}/none", shards=shards)
    previews = preview_sets(shards, captions)
    check_previews(previews, captions)
    assert [preview.rows_with["sidecar:captions"] for preview in previews] == [ROWS, 0]
    assert [preview.name[-11:] for preview in previews] == ["a/00001.tar", "b/00000.tar"]
    assert "  ! --sidecar-text-key captions: none in this data set; " in "\n".join(preview_lines(previews, captions))
    captions = dataclasses.replace(captions, text_keys=())
    with pytest.raises(UsageError, match=r"b/00000.tar has a caption in sidecar:captions; \S*/none/00000.parquet"):
        check_previews(preview_sets(shards, captions), captions)


def test_equal_stems_within_a_data_set_are_refused(trainer, tmp_path, capsys):
    two_sets(tmp_path)
    beside(tmp_path / "captions", tmp_path / "a", "a")
    data = ["--train-data", str(tmp_path / "{a,b}/00000.tar"), "--train-num-samples", "16"]
    for sidecar in (["--caption-sidecar"], ["--mining-features", "precomputed", "--feature-sidecar"]):
        assert trainer(*FFF, *sidecar, str(tmp_path / "captions"), "--name", "x", data=data) == 2
        error = capsys.readouterr().err
        assert f"{sidecar[-1]}: {tmp_path}/a/00000.tar and {tmp_path}/b/00000.tar would both have" in error
        assert "make data sets of them, A::B" in error


def test_which_parquet_is_whose():
    sets = "s3://x/{00..01}.tar::pipe:cat /y/00.tar -"
    with pytest.raises(UsageError, match=r"00.tar and pipe:cat /y/00.tar - would both have F/00.parquet"):
        parquets("F", sets, "--caption-sidecar")
    found = parquets("F::G", sets, "--caption-sidecar")
    assert {url: str(path) for url, path in found.items()} == {
        "s3://x/00.tar": "F/00.parquet",
        "s3://x/01.tar": "F/01.parquet",
        "pipe:cat /y/00.tar -": "G/00.parquet",
    }
    # one that is named twice is not two
    assert len(parquets("F", "a/00.tar::a/00.tar", "--caption-sidecar")) == 1
    with pytest.raises(UsageError, match=r"a/00.tar is in two data sets, with F/00.parquet and G/00.parquet"):
        parquets("F::G", "a/00.tar::a/00.tar", "--caption-sidecar")


def test_validation_does_not_take_the_captions_of_training(trainer, tmp_path, capsys):
    two_sets(tmp_path)
    for name in "ab":
        beside(tmp_path / "captions" / name, tmp_path / name, name)
    one, other = (str(tmp_path / "captions" / name) for name in "ab")
    data = ["--train-data", str(tmp_path / "a" / "00000.tar"), "--train-num-samples", str(ROWS)]
    data += ["--val-data", str(tmp_path / "b" / "00000.tar"), "--val-num-samples", str(ROWS)]
    flags = [*FFF, "--captions-per-image", "2", "--caption-sidecar", one, "--batch-size", str(ROWS)]
    assert trainer(*flags, "--name", "x", data=data) == 2
    assert "b/00000.tar of --val-data would have the captions of" in capsys.readouterr().err
    assert trainer(*flags, "--val-caption-sidecar", other + "x", "--name", "x", data=data) == 2
    assert f"{other}x/00000.parquet does not exist" in capsys.readouterr().err
    assert trainer(*flags, "--val-caption-sidecar", other, "--name", "x", data=data) == 0
    assert f"all {2 * ROWS} captions of {ROWS} images" in trainer.log("x")
    assert trainer(*flags, "--val-caption-sidecar", "", "--name", "y", data=data) == 0
    assert f"all {ROWS} captions of {ROWS} images" in trainer.log("y")


def test_data_sets_may_have_captions_in_different_places(trainer, tmp_path, capsys):
    images = two_sets(tmp_path)
    rows = {
        f"{n:09d}": {"png": image, "json": f'{{"alt": "b json {n}"}}'.encode()} for n, image in enumerate(images["b"])
    }
    write_tar(tmp_path / "b" / "00000.tar", rows)
    assert trainer(*FFF, "--name", "x", data=both(tmp_path)) == 2  # a set without any caption would be left out
    assert f"no row of {tmp_path}/b/00000.tar has a caption in txt; its rows hold json, png" in capsys.readouterr().err
    assert trainer(*FFF, "--json-text-key", "alt", "--name", "x", data=both(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert f"Captions in {tmp_path}/a/00000.tar, 8 rows:" in printed and f"Captions in {tmp_path}/b/" in printed
    assert printed.count("! --text-key txt: none in this data set; its rows hold json, png, and json has alt") == 1
    assert printed.count("! --json-text-key alt: none in this data set; its rows hold png, txt") == 1
    assert len(recorder.ids()) == 2 * ROWS


def test_formats_do_not_mix(trainer, tmp_path, csv, capsys):
    two_sets(tmp_path)
    for shards, why in {
        f"{csv}::{tmp_path}/a/00000.tar": f"{csv} is a table among tars",
        f"{tmp_path}/a/00000.tar::{csv}": f"{csv} is a table among tars",
        f"{csv}::{csv}": "names 2 tables, and one is read",
        f"{csv.parent}/{{train,train}}.csv": "names 2 tables, and one is read",
    }.items():
        data = ["--train-data", shards, "--train-num-samples", "16", "--csv-img-key", "filepath"]
        assert trainer(*FFF, "--name", "x", data=data) == 2
        assert why in capsys.readouterr().err


def test_rows_of_several_folders_are_not_counted_by_the_first_ones_sizes(trainer, tmp_path, capsys):
    """OpenCLIP looks for `00000.tar` of both in the first folder, and finds it."""
    two_sets(tmp_path)
    (tmp_path / "a" / "sizes.json").write_text('{"00000.tar": 8}')
    data = [*both(tmp_path)[:2], "--batch-size", "8"]
    assert trainer(*FFF, "--name", "x", data=data) == 2
    line = capsys.readouterr().err
    assert f"--train-num-samples: OpenCLIP counts the rows of all shards by {tmp_path / 'a'}/sizes.json" in line
    assert f"some are in {tmp_path / 'b'}; say how many there are: {2 * ROWS}" in line
