"""scripts/pack.py: what is killed, damaged, shared out, only looked at, or refused."""
# ruff: noqa: F811

import gc
import gzip
import io
import json
import shlex
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_clip_fff.data.data_sets import expand_shards
from open_clip_fff.errors import POINTER, UsageError
from open_clip_fff.tools.pack.report import MOST_NAMES, braces
from open_clip_fff.tools.pack.settings import ImageSettings
from open_clip_fff.tools.pack.source import ShardSource
from open_clip_fff.tools.pack.writing import write_shard
from open_clip_fff.tools.shards.tars import tar_writer
from tests.conftest import colour_sample, write_tar
from tests.full_disk import full_disk
from tests.packing_sets import TOKENS, csv, pack, pictures, refused, tars, tokens  # noqa: F401
from tests.programs import ROOT, contents, run, torchrun

PACK = str(ROOT / "scripts" / "pack.py")

# --- what is written -------------------------------------------------------------------------------------------------


class Failing(io.FileIO):
    """A disk that loses or changes what is written to it."""

    def __init__(self, path: Path, at: int, lose: bool) -> None:
        super().__init__(path, "w+")
        self.at, self.lose, self.calls = at, lose, 0

    def write(self, content) -> int:
        self.calls += 1
        given = bytes(content)
        if self.calls == self.at and self.lose:
            return len(given)
        if self.calls == self.at:
            given = given[:5] + bytes([given[5] ^ 1]) + given[6:]
        super().write(given)
        return len(given)


@pytest.mark.parametrize("lose", [False, True])
def test_damage_is_found_before_a_shard_gets_its_name(tmp_path, lose):
    """Whichever of the blocks that a tar is written in is lost or changed."""
    write_tar(tmp_path / "a.tar", {str(row): colour_sample(row) for row in range(4)})
    given = (lambda n: None, ShardSource((str(tmp_path / "a.tar"),), ("captions",), None), ImageSettings(), 0)
    with Failing(tmp_path / "whole", -1, lose) as file:
        assert write_shard(str(tmp_path / "a.tar"), file, *given).counts["images"] == 4
        blocks = file.calls
    for at in range(1, blocks):  # the last one is padding
        with Failing(tmp_path / "b", at, lose) as file, pytest.raises(UsageError, match="what was written"):
            write_shard(str(tmp_path / "a.tar"), file, *given)


@pytest.mark.parametrize(("size", "says"), [(100, "cannot be used"), (30_000, "00000.tar: cannot be written")])
def test_a_full_disk_is_one_line(pack, pictures, tmp_path, size, says):
    with full_disk(size):
        err = pack(pictures, "--out", tmp_path / "out", "--images-per-shard", 20, expect=2).err
    gc.collect()  # a tar that was not closed writes what is left
    line = err.splitlines()[-1]
    assert line.startswith("pack.py: error: ") and says in line and "File too large" in line, err
    assert err.count("error") == 1 and not [path for path in (tmp_path / "out").rglob("*") if ".tar" in path.name]


def test_a_dry_run_writes_nothing(pack, tokens, tars, pictures, tmp_path):
    before = contents(tmp_path)
    done = pack(tokens, "--out", tmp_path / "out", "--dry-run", "--group", "--images-per-shard", 3)
    assert (
        "caption: text in 100.00% of 8 samples, 3.00 captions each" in done.out and "8 samples would make 3" in done.out
    )
    assert done.out.count("caption 0 of") == 3 and '"caption 1 of 0"' in done.out
    done = pack(pictures, "--out", tmp_path / "out", "--dry-run", "--min-size", 50)
    assert "none can be packed" in done.out and "left out: 8 × smaller than 50 pixels" in done.out
    csv(tmp_path / "new.csv", [("key", "text"), ("0001", "new")])
    before["new.csv"] = (tmp_path / "new.csv").read_bytes()
    done = pack(tars, "--out", tmp_path / "out", "--dry-run", "--captions", tmp_path / "new.csv")
    assert "1 with captions joined" in done.out and "about 12 samples would make 2 shards" in done.out
    assert contents(tmp_path) == before


def test_the_estimate_is_the_size(pack, pictures, tmp_path):
    done = pack(pictures, "--out", tmp_path / "out", "--dry-run")
    pack(pictures, "--out", tmp_path / "out")
    size = (tmp_path / "out" / "00000.tar").stat().st_size
    said = float(done.out.partition("some ")[2].partition(" MiB")[0])
    assert abs(said - size / 2**20) < 0.06  # it is told to a tenth, and a tar is filled up to 10 KiB


def test_names_in_braces():
    assert braces(["00000"]) == ["00000"]
    assert braces(["00008", "00009", "00010", "00012"]) == ["{00008..00010}", "00012"]
    assert braces(["train-0", "train-1", "val", "9", "10"]) == ["train-{0..1}", "val", "9", "10"]


@pytest.fixture
def held(tokens) -> Path:
    """The rows of `tokens` with the images themselves."""
    rows = [{"image": {"bytes": (tokens.parent / name).read_bytes(), "path": name}, "caption": x} for name, x in TOKENS]
    pq.write_table(pa.Table.from_pylist(rows), tokens.parent / "held.parquet", row_group_size=7)
    return tokens.parent / "held.parquet"


@pytest.mark.slow
@pytest.mark.parametrize(("source", "points"), [("tokens", ((2, 3), (4, 3), (5, 2))), ("held", ((5, 2),))])
def test_a_killed_run_that_is_started_again_gives_the_same_bytes(request, tmp_path, source, points):
    """Killed as the list, a record and a shard would get their names."""
    path = str(request.getfixturevalue(source))
    command = [PACK, path, "--group", "--shuffle", "1", "--resize", "20", "--images-per-shard", "3", "--out"]
    assert run(*command, str(tmp_path / "whole")).returncode == 0
    whole = contents(tmp_path / "whole")
    assert len(whole) == 8  # settings, list, three shards with their records
    for point, missing in points:
        out = tmp_path / str(point)
        run(*command, str(out), die_at=point)
        left = contents(out)
        assert left != whole and all(left[name] == whole[name] for name in left if "/." not in f"/{name}")
        done = run(*command, str(out))
        assert done.returncode == 0 and f"{missing} of 3 shards to do" in done.stdout, done
        assert {name: x for name, x in contents(out).items() if "/." not in f"/{name}"} == whole


@pytest.mark.slow
def test_two_processes_give_the_same_as_one(tokens, tmp_path):
    command = [PACK, str(tokens), "--images-per-shard", "5", "--out"]
    assert run(*command, str(tmp_path / "one")).returncode == 0
    done = torchrun(2, *command, str(tmp_path / "two"))
    assert done.returncode == 0 and done.stdout.count("to train on them") == 1, done
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    for share in (1, 0):
        done = run(*command, str(tmp_path / "three"), "--share", f"{share}/2")
        assert done.returncode == 0, done
    assert contents(tmp_path / "one") == contents(tmp_path / "three")


def test_a_share_of_many_shards_prints_no_endless_line(pack, tmp_path):
    shards = tmp_path / "in"
    shards.mkdir()
    first = write_tar(shards / "00000.tar", {"0": {**colour_sample(0), "txt": b"a square"}})
    for number in range(1, 2 * MOST_NAMES + 4):
        shutil.copy(first, shards / f"{number:05d}.tar")
    flags = [f"{shards}/{{00000..{2 * MOST_NAMES + 3:05d}}}.tar", "--out", tmp_path / "out"]
    done = pack(*flags, "--share", "0/2").out.splitlines()[-1]
    assert done == f"{MOST_NAMES + 2} shards missing: once they are there, training's flags stand here"
    done = pack(*flags, "--share", "1/2").out.splitlines()[-1]
    assert f"{{00000..{2 * MOST_NAMES + 3:05d}}}.tar' --train-num-samples {2 * MOST_NAMES + 4} " in done


@pytest.mark.slow
def test_training_reads_what_was_packed(pack, trainer, tokens, tmp_path):
    done = pack(tokens, "--out", tmp_path / "out", "--group", "--images-per-shard", 4)
    flags = done.out.splitlines()[-1].replace("'", "").split()
    fff = ["--method", "fff", "--captions-per-image", "3", "--mining-features", "off", "--batch-size", "4"]
    assert trainer("--name", "x", *fff, data=flags) == 0
    assert "3.00 captions" in trainer.log("x") and "skipped" not in trainer.log("x")


# --- refusals --------------------------------------------------------------------------------------------------------


def test_what_is_not_there(pack, refused, tmp_path):
    assert "nowhere.csv does not exist; check the path" in refused(tmp_path / "nowhere.csv")
    assert "00.tar does not exist (and 2 more of 3)" in refused(tmp_path / "{00..02}.tar")
    (tmp_path / "a.doc").write_text("x")
    assert "neither a folder nor one of .csv" in refused(tmp_path / "a.doc")
    (tmp_path / "empty").mkdir()
    assert "no image in it or below" in refused(tmp_path / "empty")
    for name in ("lfs.parquet", "lfs.csv"):
        (tmp_path / name).write_bytes(POINTER + b".github.com/spec/v1\noid sha256:ab\nsize 12\n")
        assert "it is Git LFS's pointer to the file: git lfs pull" in refused(tmp_path / name)
    (tmp_path / "lfs.csv").rename(tmp_path / "lfs.tar")
    done = pack(tmp_path / "lfs.tar", "--out", tmp_path / "out", expect=1)
    assert f"{tmp_path}/lfs.tar cannot be read as a tar (it is Git LFS's pointer" in done.out + done.err


def test_tables_that_need_a_hand_are_told_how(refused, pictures, tmp_path):
    """Paths of Windows, files without a header, urls, Flickr's numbers after names."""
    for content, says in {
        "image,title\npics\\0.png,a\npics\\1.png,b\n": "write / for \\ in the paths",
        "image,title\nE:\\pics\\0.png,a\nE:\\pics\\1.png,b\n": "write / for \\ in the paths and no drive",
        "image,title\npics/0.png#0,a\npics/0.png#1,b\n": "drop the # and the number after it",
        "pics/0.png,a\npics/1.png,b\n": "that is a row and no header: write names of columns",
        "a cat\thttp://x/0.jpg\na dog\thttp://x/1.jpg\n": "that is a row and no header",
        "0.jpg#0\ta cat\n0.jpg#1\ta dog\n": "that is a row and no header",
        "URL,TEXT\nhttps://x/0,a\n": "; 'URL' has urls: get the images with img2dataset",
    }.items():
        (tmp_path / "t.csv").write_text(content)
        assert says in refused(tmp_path / "t.csv")
    (tmp_path / "t.csv").unlink()
    for fields, says in {
        ("image", "/9j/4AAQ" + "SkZJ" * 2000): "--image-key image: ",
        ("pic", "data:image/png;base64,iVBO"): "'pic' has images in base64: write them as files",
        ("pic", "pics/0.png"): "; 'pic' has names of images: --image-key 'pic'",
        ("image", "pics/0"): "write .png after the names",
        ("image", "a" * 300): "name the folder that paths start at",
    }.items():
        (tmp_path / "t.jsonlines").write_text(json.dumps(dict([fields])))
        line = refused(tmp_path / "t.jsonlines")
        assert says in line and len(line) < 1000
    for name, says in {"x.arrow": "load_from_disk(FOLDER).to_parquet(FILE)", "x.token": "names of columns"}.items():
        (tmp_path / name).write_bytes(b"x")
        assert says in refused(tmp_path / name)
    (tmp_path / "saved" / "train").mkdir(parents=True)
    (tmp_path / "x.arrow").rename(tmp_path / "saved" / "train" / "x.arrow")
    assert "load_from_disk(FOLDER).to_parquet(FILE)" in refused(tmp_path / "saved")
    for name in ("t.jsonl", "t.json", "t.csv", "t.csv.gz"):
        content = '{"image": "pics/0.png",\n"caption": "caf\xe9"}'.encode("cp1252")
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        assert f"{name} is not UTF-8 text" in refused(tmp_path / name)


def test_tars_that_need_a_hand_are_told_how(pack, refused, program, pictures, tmp_path):
    """Images first and captions after; tars in folders below; folders of images beside tars."""
    samples = {f"{row}": colour_sample(row) for row in range(2)}
    parts = [{key: {name: x[name]} for key, x in samples.items()} for name in ("png", "txt")]
    torn = tmp_path / "torn" / "00000.tar"
    torn.parent.mkdir()
    with torn.open("wb") as file, tar_writer(file) as tar:
        for part in parts:
            for key, members in part.items():
                tar.write({"__key__": key, **members})
    assert "the files of '0' do not follow each other" in refused(torn)
    for command, flags in {"caption": (), "embed": ("--mining-model", "RN50", "--mining-pretrained", "openai")}.items():
        done = program(command, "--train-data", torn, "--out", tmp_path / "x", *flags, folder="scripts", expect=2)
        assert f"--train-data: in {torn} the files of '0' do not follow each other" in done.err
    write_tar(torn, samples)
    pictures.rename(torn.parent / "pics")
    done = pack(torn.parent, "--out", tmp_path / "out")
    assert "not used: 1 folder with images (pics)\n" in done.out and "2 images" in done.out
    (tmp_path / "above").mkdir()
    torn.parent.rename(tmp_path / "above" / "torn")
    shutil.rmtree(tmp_path / "above" / "torn" / "pics")
    assert f"name one of these, such as {tmp_path}/above/torn" in refused(tmp_path / "above")


def test_columns_that_are_not_there(refused, tokens):
    line = refused(tokens, "--image-key", "imag")
    assert "--image-key imag: " in line and "(did you mean image?); it has image, caption" in line
    assert "--caption-key blip: " in refused(tokens, "--caption-key", "caption;blip")
    assert "--class-key x: " in refused(tokens, "--class-key", "x")
    assert "read with --csv-separator ';'" in refused(tokens, "--csv-separator", ";", "--image-key", "image")
    csv(tokens.parent / "other.csv", [("a", "b"), ("c", "d")])
    assert "--image-key: say which column of" in refused(tokens.parent / "other.csv")


def test_tables_that_cannot_be_meant(refused, tokens, tmp_path):
    assert "holds no row" in refused(csv(tmp_path / "none.csv", [("image", "caption")]))
    (tmp_path / "void.jsonl").write_text("\n")
    assert "holds no row" in refused(tmp_path / "void.jsonl")
    (tmp_path / "no.parquet").write_bytes(b"PAR1 not")
    assert "no.parquet cannot be read as parquet" in refused(tmp_path / "no.parquet")
    line = refused(tokens, "--image-root", tmp_path / "elsewhere")
    assert "--image-root: none of the first 16 images" in line and "elsewhere/pics/0.png" in line
    line = refused(csv(tmp_path / "urls.csv", [("image", "caption"), ("https://x/y.jpg", "a")]))
    assert "holds urls there, such as 'https://x/y.jpg'" in line and "img2dataset" in line
    line = refused(csv(tmp_path / "urls.csv", [("image", "caption"), (f"file://{tmp_path}/y.jpg", "a")]))
    assert line.endswith("/y.jpg'; write paths, without file://\n")
    pq.write_table(pa.table({"image": [{"bytes": b"x", "path": "a.jpg"}]}), tmp_path / "held.parquet")
    assert "held.parquet is an image (cannot identify" in refused(tmp_path / "held.parquet")
    assert "are empty there" in refused(csv(tmp_path / "e.csv", [("image", "caption"), ("", "a")]))


def test_flags_that_cannot_work(refused, tokens, pictures, tars, tmp_path):
    assert "--group: goes with a table" in refused(pictures, "--group")
    line = refused(tars, "--shuffle", "0")
    assert f"--shuffle: goes with a table or folder, and {tars} is shards; leave it out" in line
    assert "--captions: goes with" in refused(tokens, "--captions", tmp_path)
    assert "--class-from-folder: goes with a folder" in refused(tokens, "--class-from-folder")
    for flag, value in (("--resize", "0"), ("--quality", "101"), ("--images-per-shard", "0"), ("--workers", "-1")):
        assert f"{flag} {value}: " in refused(tokens, flag, value)
    assert "--keep-columns captions: " in refused(tokens, "--keep-columns", "captions")


def test_a_folder_of_other_input_or_settings_is_refused(pack, tokens, tars, tmp_path):
    out = tmp_path / "out"
    pack(tokens, "--out", out, "--images-per-shard", 9)
    before = contents(out)
    done = pack(tokens, "--out", out, "--images-per-shard", 9, "--resize", 9, expect=2)
    assert "was made with --resize None and not 9; name another folder" in done.err
    with tokens.open("a") as table:
        table.write('"pics/0.png","one more"\n')
    assert "bytes of SOURCE" in pack(tokens, "--out", out, "--images-per-shard", 9, expect=2).err
    assert contents(out) == before
    done = pack(tars, "--out", tmp_path / "in", expect=2)
    assert "the shards that are read are there" in done.err
    assert pack(tars, "--out", tmp_path / "x", "--captions", tmp_path / "nowhere", expect=2).err.count("\n") == 1


def test_what_was_in_the_folder_before_is_neither_read_nor_deleted(pack, tars, tokens, tmp_path):
    """Another's list was taken for the source's, and deleted where the source was refused."""
    table = csv(tmp_path / "new.csv", [("key", "url", "text"), ("000", "http://y/0", "a")])
    for name, source in (("rows.arrow", [tokens]), ("captions.arrow", [tars, "--captions", table])):
        out = tmp_path / name.partition(".")[0]
        out.mkdir()
        (out / name).write_text("mine")
        error = pack(*source, "--out", out, expect=2).err
        assert error == f"pack.py: error: --out {out}: holds {name}, not of an earlier pack; name another folder\n"
        assert contents(out) == {name: b"mine"}


def test_what_is_printed_for_training_is_read_by_a_shell_and_by_training(pack, tokens, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for out in ("q'uote", "with space", "br{a}ce"):
        line = pack(tokens, "--out", out, "--images-per-shard", 12).out.splitlines()[-1]
        shards = shlex.split(line)[1]
        assert expand_shards(shards) == [f"{out}/0000{number}.tar" for number in range(2)]
    for out in ("a::b", "br{0..1}", "a,{b,c}", "${NONE}/packed", "a\\b", "a{b"):
        assert f"--out {out}: " in pack(tokens, "--out", out, expect=2).err
        assert not Path(out).exists()


def test_captions_that_join_nothing_show_a_key_of_each_side(pack, refused, tars, tmp_path):
    table = csv(tmp_path / "new.csv", [("key", "url", "text"), ("000", "http://y/0", "a"), ("001", "http://y/1", "b")])
    line = refused(tars, "--captions", table)
    assert "new.csv" in line and ("'000'" in line or "'001'" in line) and "'0000'" in line
    line = refused(tars, "--captions", table, "--join", "url")
    assert "'http://y/" in line and "'http://x/0'" in line
    assert "none.csv holds no row" in refused(tars, "--captions", csv(tmp_path / "none.csv", [("key", "text")]))
    pack(tars, "--out", tmp_path / "refused", "--resize", 9)  # what was refused left no settings behind
    (tmp_path / "side").mkdir()
    pq.write_table(pa.table({"key": ["000"], "captions": [["a"]]}), tmp_path / "side" / "00.parquet")
    done = pack(tars, "--out", tmp_path / "y", "--captions", tmp_path / "side", expect=2)
    assert "where the first is '000' and not '0000'" in done.err
    done = pack(tars, "--out", tmp_path / "y", "--captions", tmp_path / "side", "--caption-key", "blip", expect=2)
    assert "--caption-key blip: " in done.err and "it has key, captions" in done.err


def test_one_table_by_key_is_refused_where_keys_repeat(refused, shards, tmp_path):
    table = csv(tmp_path / "new.csv", [("key", "text"), ("0000", "a")])
    line = refused(shards / "{00..03}.tar", "--captions", table)
    assert "'0000' is a key of" in line and "a parquet per shard, or --join url" in line
