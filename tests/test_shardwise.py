"""Going through a data set shard by shard: whole files, shares, what is missing, what is wrong; scripts/embed.py."""

import json
import multiprocessing
import os
import re
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_clip_fff.atomic_io import atomic_file
from open_clip_fff.cli import main
from open_clip_fff.data.data_sets import record_path
from open_clip_fff.data.features import FEATURE_COLUMN, MEMBER, unpack_features
from open_clip_fff.data.prefetch import prefetch_map
from open_clip_fff.data.shards import read_samples
from open_clip_fff.errors import OneRankError, UsageError
from open_clip_fff.tools.shards.folder import OutFolder, ShardRecord, by_stem
from open_clip_fff.tools.shards.run import process_shards
from open_clip_fff.tools.shards.share import Share
from open_clip_fff.tools.shards.tars import count_samples, tar_writer
from tests.conftest import colour_sample, write_tar
from tests.programs import ROOT, contents, run, torchrun
from tests.test_unusable_data import torn_tar

EMBED = str(ROOT / "scripts" / "embed.py")


def copy(source, file, tick):
    """A shard's work: copies a text file, by lines."""
    record = ShardRecord(source)
    try:
        lines = Path(source).read_text().splitlines(keepends=True)
    except OSError as error:
        raise UsageError(f"{source} cannot be read ({error.strerror})") from error
    for line in lines:
        if line.startswith("#"):
            record.leave_out(line.strip(), "a comment")
            continue
        file.write(line.encode())
        record.counts.update(lines=1)
    tick(len(lines))
    return record


@pytest.fixture
def texts(tmp_path):
    """Four sources by stem."""
    (tmp_path / "in").mkdir()
    for number in range(4):
        (tmp_path / "in" / f"{number}.txt").write_text(f"a{number}\n# no\nb\n")
    return {str(number): str(tmp_path / "in" / f"{number}.txt") for number in range(4)}


@pytest.fixture
def folder(tmp_path):
    return OutFolder(tmp_path / "out", ".txt", {"words": "few"})


def test_a_file_of_something_else_is_no_shard_that_is_done(folder, texts):
    folder.file("2").write_text("another program's")
    line = r"2\.txt is there, and no record .*; remove 2\.txt, and it is made again, or"
    with pytest.raises(OneRankError, match=line):
        process_shards(texts, folder, Share(), copy)
    assert folder.file("2").read_text() == "another program's" and not folder.file("1").exists()


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_file_is_whole_or_not_there(tmp_path):
    out = tmp_path / "x.bin"
    with pytest.raises(ZeroDivisionError), atomic_file(out) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    (tmp_path / ".x.bin.unfinished").write_bytes(b"what a killed process left, which is longer")
    with atomic_file(out) as file:
        file.write(b"all")
        assert not out.exists()
    assert contents(tmp_path) == {"x.bin": b"all"}


def _hold(path, ready, go):
    with atomic_file(path) as file:
        file.write(b"first")
        ready.set()
        go.wait(60)


def test_two_processes_do_not_write_one_file(tmp_path):
    fork = multiprocessing.get_context("fork")
    ready, go = fork.Event(), fork.Event()
    other = fork.Process(target=_hold, args=(tmp_path / "x.bin", ready, go))
    other.start()
    assert ready.wait(60)
    with pytest.raises(BlockingIOError), atomic_file(tmp_path / "x.bin"):
        pass
    go.set()
    other.join(60)
    assert contents(tmp_path) == {"x.bin": b"first"}


def test_tars_of_the_same_samples_are_the_same_bytes(tmp_path):
    for name in "ab":
        with open(tmp_path / name, "wb") as file, tar_writer(file) as tar:
            for number in range(3):
                tar.write({"__key__": f"{'long/' * 40}{number}", "txt": b"x", "jpg": b"y"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found = list(read_samples([str(tmp_path / "a")], 9))
    assert [sample["__key__"] for sample in found] == [f"{'long/' * 40}{number}" for number in range(3)]
    assert count_samples(str(tmp_path / "a")) == 3 and count_samples("pipe:cat x") == 0


# --- shares ----------------------------------------------------------------------------------------------------------


def test_shares_are_disjoint_and_whole(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    parts = [Share.from_environment(f"{index}/3").of(range(10)) for index in range(3)]
    assert sorted(x for part in parts for x in part) == list(range(10)) and max(map(len, parts)) == 4
    assert Share.from_environment().of(range(10)) == list(range(10))
    for wrong in ("3/3", "1", "-1/2", "a/b", "1/"):
        with pytest.raises(UsageError, match="write I/N"):
            Share.from_environment(wrong)
    for name, value in (("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")):  # of a batch script, of which there is one
        monkeypatch.setenv(name, value)
    assert Share.from_environment() == Share()
    for name, value in (("SLURM_PROCID", "2"), ("SLURM_STEP_NUM_TASKS", "4")):  # of one of srun's four processes
        monkeypatch.setenv(name, value)
    assert Share.from_environment() == Share(2, 4) and Share.from_environment("0/3") == Share(0, 3)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert Share.from_environment() == Share(1, 2, True, 1)
    assert Share.from_environment().device("cuda") == "cuda:1" and Share.from_environment().device("cpu") == "cpu"
    with pytest.raises(UsageError, match="torchrun shares out"):
        Share.from_environment("0/2")
    monkeypatch.setenv("RANK", "")
    with pytest.raises(UsageError, match="RANK, WORLD_SIZE, LOCAL_RANK: no numbers"):
        Share.from_environment()


@pytest.mark.parametrize("name", ["vqa", "nlvr2", "train-captioner", "train-discriminator", "score", "analyze"])
def test_torchrun_does_not_do_the_same_several_times(name, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    for processes, by_torchrun in (("2", False), ("2", True), ("1", True)):  # a cluster's machine may have both, too
        monkeypatch.setenv("WORLD_SIZE", processes)
        if by_torchrun:
            monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
        assert main([name]) == 2  # without the flags that it needs
        refused = "each of torchrun's 2 processes would do all of it" in capsys.readouterr().err
        assert refused == (by_torchrun and processes == "2")


def test_ahead_keeps_the_order_and_raises_where_it_happens():
    assert list(prefetch_map(str, range(100), 3)) == list(map(str, range(100)))
    found = prefetch_map(lambda x: 1 // (5 - x), range(10), 2)
    assert [next(found) for _ in range(5)] == [0, 0, 0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(found)


# --- a run -----------------------------------------------------------------------------------------------------------


def test_a_second_start_does_what_is_missing(texts, folder, capsys):
    assert process_shards(texts, folder, Share(1, 2), copy) == 0
    assert "the others are other processes'" in capsys.readouterr().out
    assert process_shards(texts, folder, Share(), copy) == 0
    out = capsys.readouterr().out
    assert "2 of 4 shards to do" in out and "holds 4 of 4 shards: 8 lines" in out and "left out: 4 × a comment" in out
    assert folder.record("2") == ShardRecord(texts["2"], Counter(lines=2), [("# no", "a comment")], 10)
    before = contents(folder.path)
    assert process_shards(texts, folder, Share(), copy) == 0
    assert contents(folder.path) == before and "0 of 4 shards to do" in capsys.readouterr().out


def test_a_shard_that_cannot_be_read_costs_itself_only(texts, folder, capsys):
    assert process_shards({**texts, "4": "nowhere.txt", "5": texts["0"]}, folder, Share(), copy) == 1
    done = capsys.readouterr()
    assert "left out: nowhere.txt cannot be read" in done.err and "not done, since they cannot be read: 4" in done.out
    assert sorted(path.name for path in folder.path.glob("*.txt")) == [f"{x}.txt" for x in (0, 1, 2, 3, 5)]
    assert not list(folder.path.glob(".*"))


def test_a_source_whose_name_is_not_utf8_is_done_once(texts, folder, tmp_path):
    source = f"{tmp_path}/caf\udce9.txt"
    os.rename(texts["0"], source)
    for _ in range(2):
        assert process_shards({"0": source}, folder, Share(), copy) == 0
    assert folder.is_done("0", source) and folder.record("0").source.endswith("caf\\udce9.txt")


def test_a_folder_of_other_settings_or_sources_is_refused(texts, folder):
    process_shards(texts, folder, Share(), copy)
    with pytest.raises(UsageError, match="was made with words 'few' and not 'many'; name another folder"):
        OutFolder(folder.path, ".txt", {"words": "many"})
    with pytest.raises(OneRankError, match=r"0.txt was made of .*0.txt and not of .*1.txt"):
        process_shards({"0": texts["1"]}, folder, Share(), copy)
    for others in ('{"mine": 1}', "[1]"):
        (folder.path / "settings.json").write_text(others)
        with pytest.raises(UsageError, match=r"its settings\.json is another program's; name another folder"):
            OutFolder(folder.path, ".txt", {"words": "many"})
    (folder.path / "settings.json").write_text("{")
    with pytest.raises(UsageError, match="cannot be used"):
        OutFolder(folder.path, ".txt", {})
    with pytest.raises(UsageError, match="would share a name"):
        by_stem(["a/0.tar", "b/0.tar"])
    assert by_stem(["pipe:aws s3 cp s3://b/0.tar -", "c/1.tar"]) == {
        "0": "pipe:aws s3 cp s3://b/0.tar -",
        "1": "c/1.tar",
    }


def test_a_source_that_was_rewritten_is_refused(texts, folder, capsys):
    process_shards(texts, folder, Share(), copy)
    before = contents(folder.path)
    Path(texts["2"]).write_text("a longer one\n")
    line = r"2.txt was made of a 2.txt of 10 bytes, which has 13 now; remove 2.txt, and it is made again, or"
    with pytest.raises(OneRankError, match=line):
        process_shards(texts, folder, Share(), copy)
    assert contents(folder.path) == before
    folder.file("2").unlink()
    assert process_shards(texts, folder, Share(), copy) == 0 and folder.file("2").read_text() == "a longer one\n"
    Path(texts["1"]).unlink()  # of captions that are made, the images need not be there
    record = record_path(folder.path, "0")
    record.write_text(record.read_text().replace('"bytes": 10,', ""))  # as an earlier version wrote it
    Path(texts["0"]).write_text("another\n")
    assert process_shards(texts, folder, Share(), copy) == 0 and "0 of 4 shards to do" in capsys.readouterr().out


# --- scripts/embed.py ------------------------------------------------------------------------------------------------


@pytest.fixture
def flags(trainer, teacher):
    """Training's, for embedding the colour shards."""
    model = ["--mining-model", "tiny-clip", "--mining-pretrained", str(teacher), "--model-config", str(trainer.config)]
    return [*trainer.tars, "--json-text-key", "captions", *model]


@pytest.mark.slow
def test_a_killed_run_that_is_started_again_gives_the_same_bytes(flags, tmp_path):
    """Killed with a shard's features made but not named, between record and file, and between two shards."""
    command = [EMBED, "--workers", "2", "--into", "tars", "--out"]
    assert run(*command, str(tmp_path / "whole"), "--", *flags).returncode == 0
    whole = contents(tmp_path / "whole")
    assert len(whole) == 9
    for point in (2, 3, 6):
        out = tmp_path / str(point)
        run(*command, str(out), "--", *flags, die_at=point)
        left = contents(out)
        assert left != whole and all(left[name] == whole[name] for name in left if "/." not in f"/{name}")
        assert any(name.endswith(".unfinished") for name in left)
        done = run(*command, str(out), "--", *flags)
        assert done.returncode == 0 and f"{4 - (point - 2) // 2} of 4 shards to do" in done.stdout, done
        left = contents(out)
        assert {name: left[name] for name in left if not name.split("/")[-1].startswith(".")} == whole


@pytest.mark.slow
def test_two_processes_give_the_same_as_one(flags, tmp_path):
    command = [EMBED, "--out", str(tmp_path / "one"), "--", *flags]
    assert run(*command).returncode == 0
    done = torchrun(2, EMBED, "--out", str(tmp_path / "two"), "--", *flags)
    assert done.returncode == 0 and "holds 4 of 4 shards: 64 images, 224 captions" in done.stdout, done
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_features_beside_the_images_are_those_of_the_sidecar(program, flags, tmp_path):
    program("embed", "--out", tmp_path / "side", "--", *flags, folder="scripts")
    program("embed", "--out", tmp_path / "tars", "--into", "tars", "--", *flags, folder="scripts")
    table = pq.read_table(tmp_path / "side" / "01.parquet").to_pylist()
    samples = list(read_samples([str(tmp_path / "tars" / "01.tar")], 99))
    assert [row["key"] for row in table] == [sample["__key__"] for sample in samples]
    assert all(row[FEATURE_COLUMN] == sample[MEMBER] and {"png", "txt", "json"} < set(sample) for row, sample in
               zip(table, samples, strict=True))  # fmt: skip
    assert unpack_features(table[3][FEATURE_COLUMN]).texts.shape == (5, 32)


def test_embedding_leaves_out_what_it_cannot_read_and_says_so(program, flags, tmp_path):
    samples = {f"{row:02d}": colour_sample(row) for row in range(5)}
    samples["00"].pop("txt"), samples["00"].pop("json")
    samples["04"].update(txt=b"caf\xe9", json=b"")
    samples["01"]["png"] = samples["01"]["png"][:60]
    samples["02"].pop("png")
    samples["02"]["v2.png"] = samples["03"]["png"]
    write_tar(tmp_path / "0.tar", samples)
    whole = write_tar(tmp_path / "1.tar", {f"{row}": colour_sample(row) for row in range(9)}).read_bytes()
    (tmp_path / "1.tar").write_bytes(whole[: len(whole) // 2])
    data = ["--train-data", str(tmp_path / "{0..1}.tar"), *flags[4:]]
    done = program("embed", "--out", tmp_path / "out", "--", *data, folder="scripts", expect=1)
    assert "1 of 2 shards: 1 image, 5 captions" in done.out
    no_image = "1 × image cannot be read, 1 × no image: its key has a dot"
    assert f"1 × no caption, {no_image}, 1 × captions cannot be read" in done.out
    assert re.search(r"left out: .*1.tar cannot be read as a tar \(unexpected end of data\)$", done.err, re.M)
    left_out = json.loads((tmp_path / "out" / "records" / "0.json").read_text())["left_out"]
    assert [entry["key"] for entry in left_out] == ["00", "01", "02", "04"]
    for wrong, line in ((["--device", "cuda:9"], "--device cuda:9"), (["--share", "5"], "write I/N")):
        done = program("embed", "--out", tmp_path / "o", *wrong, "--", *data, folder="scripts", expect=2)
        assert line in done.err and len(done.err.splitlines()) == 1, done.err
    done = program("embed", "--out", tmp_path, "--into", "tars", "--", *data, folder="scripts", expect=2)
    assert "the shards that are read are there" in done.err and not (tmp_path / "settings.json").exists()


def test_a_torn_tar_behind_the_first_is_left_out(program, flags, tmp_path):
    write_tar(tmp_path / "0.tar", {f"{row}": colour_sample(row) for row in range(4)})
    torn_tar(tmp_path / "1.tar", 3, whole=1)
    out, line = tmp_path / "out", "1.tar the files of '0' do not follow each other"
    data = ["--train-data", str(tmp_path / "{0..1}.tar"), *flags[4:]]
    done = program("embed", "--out", out, "--", *data, folder="scripts", expect=1)
    assert line in done.err and "1 of 2 shards: 4 images" in done.out and not (out / "1.parquet").exists()
    done = program("pack", tmp_path / "{0..1}.tar", "--out", tmp_path / "packed", folder="scripts", expect=1)
    assert line in done.err and "1 of 2 shards: 4 images" in done.out and not (tmp_path / "packed" / "1.tar").exists()


def test_captions_that_are_not_where_the_flags_say_are_told_before_anything_is_embedded(program, flags, tmp_path):
    """Else the features are of txt alone; a first shard that cannot be read is passed over here, too."""
    for typed, line in (
        (["--json-text-key", "caption"], "--json-text-key caption: no row of 00.tar has text there"),
        (["--text-key", "text"], "--text-key text: no row of 00.tar has text there"),
        (["--caption-sidecar", str(tmp_path)], f"--caption-sidecar: {tmp_path / '00.parquet'} does not exist"),
    ):
        done = program("embed", "--out", tmp_path / "out", "--", *flags, *typed, folder="scripts", expect=2)
        assert line in done.err and len(done.err.splitlines()) == 1 and not (tmp_path / "out").exists()
    (tmp_path / "0.tar").write_bytes(b"no tar" * 1000)
    write_tar(tmp_path / "1.tar", {"0": colour_sample(0)})
    data = ["--train-data", str(tmp_path / "{0..1}.tar"), *flags[4:]]
    done = program("embed", "--out", tmp_path / "out", "--", *data, folder="scripts", expect=1)
    assert "1 of 2 shards: 1 image" in done.out and "0.tar cannot be read as a tar" in done.err
    (tmp_path / "captions").mkdir()  # of a job array whose task 0 has not made its own yet
    pq.write_table(pa.table({"key": ["0"], "captions": [["a dog"]]}), tmp_path / "captions" / "1.parquet")
    mine = ["--share", "1/2", "--", *data, "--caption-sidecar", tmp_path / "captions"]
    assert "1 image, 3 captions" in program("embed", "--out", tmp_path / "mine", *mine, folder="scripts").out
