"""Data of which nothing can be used: found before training, or, of validation, without losing what was trained."""

import errno
import io
import json
import re
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from open_clip_train.data import DataInfo

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.data.data_sets import check_files, check_tars
from open_clip_fff.data.preview import preview_sets, preview_shard
from open_clip_fff.data.preview_text import check_previews, check_validation, preview_lines
from open_clip_fff.data.shards import as_usage_errors, read_samples
from open_clip_fff.data.sidecar import Sidecar
from open_clip_fff.data.table_columns import read_table
from open_clip_fff.errors import UsageError, reason
from open_clip_fff.host.fixes import copy_codebase
from open_clip_fff.host.loader.timeouts import LoaderTimeouts
from open_clip_fff.host.validation import evaluator
from open_clip_fff.tools.class_set import _images_of
from open_clip_fff.tools.evaluation_sets import retrieval_set
from open_clip_fff.tools.pack.folder_files import UnusedFiles
from open_clip_fff.train import main
from tests.conftest import colour_sample, write_tar

RAW = CaptionSettings()


def reading(url: str) -> str:
    """The line of a shard that cannot be read."""
    with pytest.raises(UsageError) as error:
        list(as_usage_errors(read_samples([url]), url))
    return str(error.value)


def test_a_program_that_fails_is_told_by_its_exit_status(shards, tmp_path):
    assert reading("pipe:exit 3").endswith("cannot be read as a tar (exit status 3 of exit)")
    assert "exit status 1 of cat" in reading(f"pipe:cat {tmp_path}/none.tar 2>/dev/null")
    https = "((['curl', '-f', '-s', 'https://x/0.tar'],), {'bufsize': 8192}): exit 22 (read) {}"  # webdataset's
    assert reason(OSError(https)) == "exit status 22 of curl"
    (tmp_path / "cut.tar").write_bytes((shards / "00.tar").read_bytes()[:2000])
    assert "unexpected end of data" in reading(f"pipe:cat {tmp_path}/cut.tar")  # the program did its part


def test_what_is_no_tar_is_named_by_its_first_bytes(tmp_path):
    for start, says in (
        (b"\x28\xb5\x2f\xfd", "it is zstd, which is not read: unzstd it"),
        (b"PK\x03\x04", "it is a zip archive: unpack it, and open-clip-fff pack"),
        (b"7z\xbc\xaf\x27\x1c", "it is a 7z archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "it is Git LFS's pointer to the file: git lfs pull"),
        (b"<html>\n<p>Ung\xc3\xbcltig", "it begins with '<html> <p>Ung\u00fcltig': download it again"),
        (b"Entry not found", "it begins with 'Entry not found': download it again"),
        (b"\x04\x22\x4d\x18", "truncated header"),  # lz4, of which there is no name
    ):
        (tmp_path / "0.tar").write_bytes(start)
        for url in (f"{tmp_path}/0.tar", f"pipe:cat {tmp_path}/0.tar"):
            assert f"{url} cannot be read as a tar ({says}" in reading(url)
            with pytest.raises(UsageError, match=r"0.tar cannot be read as a tar") as error:
                preview_sets(url, RAW)
            assert says in str(error.value)


@pytest.mark.parametrize("method", [[], ["--method", "clip"]], ids=["stock", "ours"])
def test_a_type_of_data_that_its_name_contradicts(trainer, tiny_name, shards, csv, capsys, method):
    """--dataset-type is of --train-data and --val-data alike; pandas names all members of a tar, in one line."""
    tars, tar = trainer.tars, str(shards / "00.tar")
    for kind, what, flag, name, data in (
        ("csv", "tar", "--train-data", tars[1], tars),
        ("csv", "tar", "--val-data", tar, [*trainer.table, "--val-data", tar]),
        ("webdataset", "table", "--train-data", csv, [*trainer.table, "--train-num-samples", "32"]),
        ("webdataset", "table", "--val-data", csv, [*tars, "--val-data", str(csv)]),
    ):
        argv = [*trainer.common, *data, "--dataset-type", kind, "--name", "x", *method]
        assert main(argv) == 2 and not trainer.logs.exists()
        says = f"{flag} {name}: is a {what}: drop --dataset-type {kind}, and each is told by its name"
        assert capsys.readouterr().err == f"open_clip_fff.train: error: {says}\n"
    with pytest.raises(UsageError, match=r"0\.tar cannot be read as a table") as error:
        read_table(tar, ",", ())
    assert len(str(error.value)) < 400 + len(tar)


def test_what_cannot_be_opened_is_told_before_it_is_tried(shards, tmp_path, monkeypatch):
    def refused(url: str) -> str:
        with pytest.raises(UsageError) as error:
            check_files("--train-data", [str(shards / "00.tar"), url])
        return str(error.value)

    check_files("--train-data", ["pipe:cat x", "https://x/0.tar", "file:/x/0.tar", "gs://x/0.tar"])
    told = refused(str(shards))
    assert f"{shards} is a folder; name the table in it, or its tars, as '{shards}/{{00000..00099}}.tar'" in told
    tars = f"{shards} is a folder; name its tars, as '{shards}/{{00000..00099}}.tar'; open-clip-fff pack makes tars of"
    with pytest.raises(UsageError, match=re.escape(tars)):  # where no table is read
        check_tars("--train-data", [str(shards)])
    assert "* is not expanded" in refused(f"{shards}/*.tar")
    assert "a quoted ~ is not expanded" in refused("~/0.tar")
    assert "a variable of that name is not set" in refused("$NOWHERE/0.tar")
    assert "a range is written {00000..00099}" in refused(f"{shards}/{{00-03}}.tar")
    both = [str(shards / "00.tar"), str(shards / "01.tar")]
    for between in (",", " ", "; "):
        assert f"several are separated by ::, as {'::'.join(both)}" in refused(between.join(both))
    assert f"'{both[0]} ' does not exist (1 of 2); drop the spaces or quotes around it" in refused(f"{both[0]} ")
    assert "write 'pipe:aws s3 cp s3://b/0.tar -'" in refused("s3://b/0.tar")
    assert "opens no az: itself" in refused("az://b/0.tar")
    monkeypatch.setenv("GOPEN_REWRITE", "s3://b/=/mnt/b/")
    check_files("--train-data", ["s3://b/0.tar"])


def torn_tar(path: Path, rows: int, whole: int) -> Path:
    """A tar of all images, then all texts, as `tar cf 0.tar *.png *.txt` writes it, with `whole` samples at the end."""
    samples = {f"{row}": colour_sample(row) for row in range(rows + whole)}
    members = [(f"{key}.{name}", content) for key, sample in samples.items() for name, content in sample.items()]
    order = sorted(members[: 3 * rows], key=lambda member: member[0].partition(".")[2])
    with tarfile.open(path, "w") as tar:
        for name, content in order + members[3 * rows :]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_a_tar_whose_rows_are_torn_apart(tmp_path):
    torn = torn_tar(tmp_path / "0.tar", 4, whole=0)
    with pytest.raises(UsageError, match=r"no row of 0.tar has both an image and a caption: .* --sort=name"):
        check_previews([preview_shard(str(torn), RAW)], RAW)


def test_a_tar_in_the_order_of_a_folder_where_a_few_rows_are_whole_by_chance(tmp_path):
    torn = torn_tar(tmp_path / "0.tar", 4, whole=2)
    with pytest.raises(
        UsageError, match=r"--val-data: only 2 rows of 0.tar have both an image and a caption: .*sort=name"
    ):
        check_validation([preview_shard(str(torn), RAW, data_flag="--val-data")], RAW)
    most = preview_shard(str(torn_tar(tmp_path / "1.tar", 2, whole=9)), RAW)
    check_previews([most], RAW)
    assert "4 rows whose files do not follow each other: " in "\n".join(preview_lines([most], RAW))
    for read in (retrieval_set, lambda arguments, _: _images_of(arguments.shards, "json.title", UnusedFiles())):
        with pytest.raises(UsageError, match=r"(SHARDS|SOURCE): in .*0.tar the files of '0' do not follow each other"):
            read(SimpleNamespace(shards=str(torn), out=tmp_path / "out", captions=1), RAW)


def test_a_tar_with_two_members_of_one_name(tmp_path):
    write_tar(tmp_path / "0.tar", {"0": colour_sample(0)})
    with tarfile.open(tmp_path / "0.tar", "a") as tar:
        tar.addfile(tarfile.TarInfo("0.png"))
    line = reading(str(tmp_path / "0.tar"))
    assert line.endswith("0.tar cannot be read as a tar (0.png: duplicate file name in tar file png)")


def test_validation_data_without_a_usable_row(shards, tmp_path):
    write_tar(tmp_path / "plain.tar", {"0": {"png": colour_sample(0)["png"]}})
    write_tar(tmp_path / "none.tar", {})
    for name, says in {"plain": "has a caption in txt; its rows hold png", "none": "none.tar holds no sample"}.items():
        with pytest.raises(UsageError, match=f"--val-data: .*{says}"):
            check_validation(preview_sets(str(tmp_path / f"{name}.tar"), RAW, data_flag="--val-data"), RAW)
    previews = preview_sets(str(shards / "{00..03}.tar"), RAW, enough=3, data_flag="--val-data")
    check_validation(previews, RAW)
    assert previews[0].rows == 3  # the rest need not be read


def test_an_epoch_outlives_validation_data_that_are_gone(caplog):
    def evaluate(model, data, epoch, args, tb_writer=None, tokenizer=None):
        return {"sum": torch.cat(list(data["val"].dataloader)).sum().item()}

    class Loader(list):
        num_samples = num_batches = 0

    run = evaluator(SimpleNamespace(plan=SimpleNamespace(given=()), loaders=LoaderTimeouts(1)), evaluate)
    assert run(None, {"val": DataInfo(Loader([torch.ones(2)]))}, 1, None, tokenizer=None) == {"sum": 2}
    assert run(None, {"train": None, "val": DataInfo(Loader())}, 3, None) == {}
    assert "--val-data: no row can be read after epoch 3" in caplog.text
    with pytest.raises(UsageError, match="no row can be read"):  # which is all that was asked for
        run(None, {"val": DataInfo(Loader())}, 3, None)
    with pytest.raises(RuntimeError):  # of another cause
        run(None, {"val": DataInfo(Loader([torch.ones(2), torch.ones(2, 2)]))}, 1, None)

    def full(*_, **more):
        raise OSError(errno.ENOSPC, "No space left on device")

    def large(*_, **more):
        return [0] * 2**60

    def larger(*_, **more):  # for torch's allocator, which raises a RuntimeError
        return torch.empty(2**60)

    def killed(model, data, *_, **more):  # before the first batch, which says nothing of the rows
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    for name, ends in (
        ("MemoryError", large),
        ("[enforce fail", larger),
        ("DataLoader worker (pid 7) is killed", killed),
        ("[Errno 28] No space left on device", full),
    ):
        run = evaluator(SimpleNamespace(plan=SimpleNamespace(given=()), loaders=LoaderTimeouts(1)), ends)
        assert run(None, {"train": None, "val": DataInfo(Loader())}, 4, None) == {}
        assert f"Evaluation after epoch 4 ended without results: {name}" in caplog.text
    with pytest.raises(OSError):
        run(None, {"val": DataInfo(Loader())}, 4, None)


def test_counts_beside_shards_that_tell_nothing(trainer, capsys, tmp_path):
    write_tar(tmp_path / "0.tar", {"0": colour_sample(0)})
    for name, content, says in (
        ("__len__", "many", "__len__ does not tell the shards' rows"),
        ("sizes.json", "{", "sizes.json does not tell the shards' rows"),
        ("sizes.json", json.dumps({"1.tar": 4}), "it has no '0.tar'"),
    ):
        (tmp_path / name).write_text(content)
        assert trainer("--name", "x", data=["--train-data", str(tmp_path / "0.tar")]) == 2
        assert says in capsys.readouterr().err
    assert not trainer.logs.exists()


def test_sidecars_that_are_not_all_there(tmp_path):
    (tmp_path / "00.parquet").touch()
    urls = ["a/00.tar", "b/01.tar", "https://x/02.tar"]
    assert Sidecar(str(tmp_path), ()).missing(urls) == [tmp_path / "01.parquet", tmp_path / "02.parquet"]
    assert len(Sidecar(str(tmp_path / "none"), ()).missing(urls)) == 3


def test_the_code_that_trains_is_copied_and_nothing_else(tmp_path):
    args = SimpleNamespace(logs=str(tmp_path), name="x", rank=0)
    copy_codebase(args)
    copied = sorted(path.name for path in (tmp_path / "x/code").iterdir())
    assert copied == ["open_clip", "open_clip_fff", "open_clip_train"]
    (tmp_path / "x/code/open_clip_fff/train.py").write_text("")
    copy_codebase(args)  # of a run that goes on
    assert not (tmp_path / "x/code/open_clip_fff/train.py").read_text()
