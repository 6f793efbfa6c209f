"""scripts/pack.py on folders as other programs leave them."""
# ruff: noqa: F811

import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import COLOURS, colour_image, colour_sample, write_tar
from tests.packing_sets import csv, left_out, pack, pictures, refused, samples  # noqa: F401
from tests.packing_sets import picture as jpeg


@pytest.fixture
def img2dataset(tmp_path):
    """Its `files` layout: two shards of five pictures, and a table of what was fetched for each."""
    folder = tmp_path / "i2d"
    for shard in range(2):
        (folder / f"{shard:05d}").mkdir(parents=True)
        rows = []
        for row in range(5):
            number, key = shard * 5 + row, f"{shard:05d}{row:04d}"
            rows.append({"key": key, "url": f"http://x/{number}.jpg", "caption": f"raw {number}", "status": "success"})
            (folder / f"{shard:05d}" / f"{key}.jpg").write_bytes(jpeg(30 + number, 30))
            (folder / f"{shard:05d}" / f"{key}.txt").write_text(f"raw {number}")
            (folder / f"{shard:05d}" / f"{key}.json").write_text(json.dumps(rows[-1]))
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{shard:05d}.parquet")
        (folder / f"{shard:05d}_stats.json").write_text("{}")
    return folder


def test_img2dataset_files_are_pictures_and_not_their_tables(pack, img2dataset, tmp_path):
    done = pack(img2dataset, "--out", tmp_path / "out", "--images-per-shard", 6)
    first, second = samples(tmp_path / "out" / "00000.tar"), samples(tmp_path / "out" / "00001.tar")
    for number, sample in enumerate([*first, *second]):
        assert sample["txt"].decode() == f"raw {number}" and sample["json"]["url"] == f"http://x/{number}.jpg"
        key = f"{number // 5:05d}{number % 5:04d}"
        assert sample["__key__"] == f"{number // 5:05d}_{key}"
        assert sample["jpg"] == (img2dataset / f"{number // 5:05d}" / f"{key}.jpg").read_bytes()
    assert "2 of 2 shards: 10 images, 10 raw captions\n" in done.out
    unused = "not used: 2 .json (00000_stats.json, 00001_stats.json), 2 .parquet (00000.parquet, 00001.parquet)\n"
    assert unused in done.out
    assert unused in pack(img2dataset, "--out", tmp_path / "out", "--images-per-shard", 6).out  # a second start, too
    assert unused in pack(img2dataset, "--out", tmp_path / "dry", "--dry-run").out


def images_in(folder, *names):
    folder.mkdir()
    for number, name in enumerate(names):
        (folder / name).write_bytes(jpeg(30 + number, 30))
    return folder


def test_captions_in_files_that_are_named_otherwise(pack, tmp_path):
    """kohya's `NAME.caption`, and `NAME.jpg.txt`; the raw caption is the first line of the first of them."""
    folder = images_in(tmp_path / "in", "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    (folder / "a.caption").write_text("kohya a\n")
    (folder / "b.jpg.txt").write_text("\ufeffone b\ntwo b\n")
    (folder / "b.jpg.json").write_text('{"captions": ["three b"], "width": 31}')
    for suffix in (".txt", ".caption", ".jpg.txt", ".jpg.caption"):
        (folder / f"c{suffix}").write_text(f"c of {suffix}\nall over")
    (folder / "nobody.txt").write_text("x")
    (folder / "LICENSE").write_text("x")
    (folder / "d.Txt").write_text("of neither case")
    done = pack(folder, "--out", tmp_path / "out")
    a, b, c, d = samples(tmp_path / "out" / "00000.tar")
    assert a["txt"] == b"kohya a" and "json" not in a
    assert b["txt"] == b"one b" and b["json"] == {"captions": ["two b", "three b"], "width": 31}
    assert c["txt"] == b"c of .txt"
    assert c["json"] == {"captions": ["all over", "c of .jpg.txt", "c of .caption", "c of .jpg.caption"]}
    assert not {"txt", "json"} & set(d)
    assert "not used: 2 .txt (d.Txt, nobody.txt), 1 without a suffix (LICENSE)" in done.out


def test_names_in_capitals(pack, tmp_path):
    folder = images_in(tmp_path / "in", "IMG_0.JPG", "IMG_1.JPG", "IMG_2.Jpg", "IMG_3.jpg")
    (folder / "IMG_0.TXT").write_text("zero")
    (folder / "IMG_0.JSON").write_text('{"captions": ["nought"]}')
    (folder / "IMG_1.JPG.TXT").write_text("one")
    (folder / "IMG_2.CAPTION").write_text("two")
    (folder / "IMG_3.txt").write_text("three")
    (folder / "IMG_3.TXT").write_text("drei")
    done = pack(folder, "--out", tmp_path / "out")
    found = samples(tmp_path / "out" / "00000.tar")
    assert [sample["txt"] for sample in found] == [b"zero", b"one", b"two", b"three"]
    assert found[0]["json"] == {"captions": ["nought"]} and found[3]["json"] == {"captions": ["drei"]}
    assert "not used" not in done.out


def test_a_disk_that_finds_names_in_either_case_has_each_file_once(pack, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "0.jpg").write_bytes(jpeg(30, 30))
    (folder / "0.TXT").write_text("once")
    (folder / "0.txt").hardlink_to(folder / "0.TXT")
    pack(folder, "--out", tmp_path / "out")
    assert "json" not in samples(tmp_path / "out" / "00000.tar")[0]


def test_a_jfif_is_a_jpeg(pack, tmp_path):
    """As Chrome on Windows saves one."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "0.jfif").write_bytes(jpeg(30, 30))
    (folder / "0.txt").write_text("a cat")
    done = pack(folder, "--out", tmp_path / "out")
    (found,) = samples(tmp_path / "out" / "00000.tar")
    assert found["jpg"] == jpeg(30, 30) and found["txt"] == b"a cat" and "not used" not in done.out
    (tmp_path / "t.json").write_text('{"in/0.jfif": "a cat", "in/1.jfif": "a dog"}')
    assert "rows by name" in pack(tmp_path / "t.json", "--out", tmp_path / "table", "--dry-run").out


def test_captions_in_a_table_above_the_pictures_are_told_before_writing(pack, refused, pictures, tmp_path):
    folder = pictures.parent / "in"
    folder.mkdir()
    pictures.rename(folder / "images")
    none = "none of the first 8 images has a caption beside it"
    done = pack(folder, "--out", tmp_path / "none", "--dry-run")
    assert f"{none}; open-clip-fff caption can write them for the shards\n" in done.out
    (folder / "images" / "0.json").write_text('{"width": 3}')  # of img2dataset, without a caption
    table = csv(folder / "all.csv", [("image", "caption"), *((f"{n}.png", f"caption {n}") for n in range(8))])
    hint = f"{none}; all.csv may hold them: open-clip-fff pack {table} --image-root FOLDER, where its paths start\n"
    assert f"warning: {hint}" in pack(folder, "--out", tmp_path / "none", "--dry-run").out
    done = pack(folder, "--out", tmp_path / "none")
    assert done.out.index(hint) < done.out.index("8 without a caption")
    assert done.out.endswith("no sample has a caption: training needs some, of open-clip-fff caption or a table\n")
    pack(table, "--out", tmp_path / "out", "--image-root", folder / "images")
    assert all(x["txt"] for x in samples(tmp_path / "out" / "00000.tar"))
    line = refused(folder, "--captions", table)
    assert f"goes with shards, and {folder} is a folder; give the table as SOURCE, with --image-root" in line
    (folder / "images" / "7.txt").write_text("a caption")
    assert none not in pack(folder, "--out", tmp_path / "some").out


def test_a_folder_without_pictures_says_what_it_holds(refused, tmp_path):
    (tmp_path / "in" / "0").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "in" / "0" / f"{number}.tar.gz").write_bytes(b"x")
    assert "it holds 3 .gz (0.tar.gz, 1.tar.gz, …)" in refused(tmp_path / "in")


def test_a_folder_of_tars_with_a_link_to_nothing(pack, refused, tmp_path):
    folder = tmp_path / "in"
    (folder / "no.tar").mkdir(parents=True)
    write_tar(folder / "0.tar", {"0": colour_sample(0)})
    (folder / "1.tar").symlink_to("gone.tar")
    assert "1.tar is a link to a file that is not there" in refused(folder)
    (folder / "1.tar").unlink()
    assert "holds 1 of 1 shard: 1 image" in pack(folder, "--out", tmp_path / "out").out


def test_a_table_that_names_images_wins_over_the_pictures_beside_it(pack, pictures, tmp_path):
    rows = [{"image": f"{number}.png", "caption": f"caption {number}"} for number in range(8)]
    pq.write_table(pa.Table.from_pylist(rows), pictures / "all.parquet")
    pack(pictures, "--out", tmp_path / "out")
    found = samples(tmp_path / "out" / "00000.tar")
    assert [x["txt"].decode() for x in found] == [row["caption"] for row in rows]
    (pictures / "all.parquet").unlink()
    urls = [{"image": f"http://x/{number}.png", "caption": "of what was fetched"} for number in range(8)]
    pq.write_table(pa.Table.from_pylist(urls), pictures / "urls.parquet")
    assert "8 without a caption" in pack(pictures, "--out", tmp_path / "urls").out
    (pictures / "urls.parquet").unlink()
    pq.write_table(
        pa.Table.from_pylist([{"where": row["image"], "caption": "typed"} for row in rows]), pictures / "x.parquet"
    )
    assert "8 without a caption" in pack(pictures, "--out", tmp_path / "guessed").out
    pack(pictures, "--out", tmp_path / "typed", "--image-key", "where")
    assert all(x["txt"] == b"typed" for x in samples(tmp_path / "typed" / "00000.tar"))
    assert [x["png"] for x in found] == [colour_image(list(COLOURS)[n % 4], n) for n in range(8)]


def test_fields_of_the_json_that_no_flag_names_are_told(pack, img2dataset, tmp_path):
    done = pack(img2dataset, "--out", tmp_path / "out", "--json-text-key", "url")
    told = "fields of the json with text (key in 10, caption in 10, status in 10, of 10 samples that were looked at)"
    assert f"not used: {told}: --json-text-key names captions\n" in done.out
    done = pack(img2dataset, "--out", tmp_path / "out", "--json-text-key", "re:.*", "--dry-run")
    assert "fields of the json" not in done.out
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics" / "0.png").write_bytes(colour_image("red", 0))
    (tmp_path / "pics" / "0.json").write_text('{"captions": {"en": "a", "more": [{"de": "b"}, {"de": "c"}]}, "n": 1}')
    samples = {
        f"{row}": {"png": colour_image("red", row), "caption": b"a", "syn.json": b'{"x": "b"}'} for row in range(2)
    }
    done = pack(write_tar(tmp_path / "0.tar", samples), "--out", tmp_path / "members", "--json-text-key", "syn.json:x")
    assert "not used: members with text (caption in 2, of 2 samples that were looked at): training reads" in done.out
    done = pack(tmp_path / "pics", "--out", tmp_path / "objects")
    assert "not used: fields of the json with text (captions.en in 1, captions.more.de in 1, of 1 sample" in done.out


# --- keys with dots --------------------------------------------------------------------------------------------------


@pytest.fixture
def dotted(tmp_path):
    """A tar as `tar cf` makes one of files with dots in their names, and one of which some have none."""
    names = {f"cat.v{number}": colour_sample(number) for number in range(3)}
    return write_tar(tmp_path / "all.tar", names), write_tar(tmp_path / "some.tar", {"dog": colour_sample(7), **names})


def test_keys_with_dots_are_told_when_shards_are_packed(pack, refused, dotted, tmp_path):
    line = refused(dotted[0])
    assert "have no image (jpg, png, jpeg, webp); they hold v0.json, v0.png, v0.txt, v1.json" in line
    assert "(v0.png is no image to training: a key ends at the first dot of a file's name; unpack the tars" in line
    pack(dotted[1], "--out", tmp_path / "out")
    assert left_out(tmp_path / "out", "some") == {"cat": "no image: its key has a dot"}
    with tarfile.open(dotted[0]) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    pack(tmp_path / "unpacked", "--out", tmp_path / "again")  # as the line says
    assert [x["__key__"] for x in samples(tmp_path / "again" / "00000.tar")] == ["cat_v0", "cat_v1", "cat_v2"]


def test_keys_with_dots_are_told_before_training(trainer, dotted, capsys):
    flags = ["--method", "clip", "--batch-size", "1"]
    assert trainer("--name", "x", *flags, data=["--train-data", str(dotted[0]), "--train-num-samples", "1"]) == 2
    line = capsys.readouterr().err
    assert "no row of all.tar has an image (jpg, png, jpeg, webp); its rows hold v0.json, v0.png, v0.txt, v1." in line
    assert "a key ends at the first dot of a file's name" in line and len(line.splitlines()) == 1
    assert trainer("--name", "y", *flags, data=["--train-data", str(dotted[1]), "--train-num-samples", "1"]) == 0
    told = capsys.readouterr().out
    assert "  1 row without an image: training skips such rows (v0.png is no image to training" in told


def test_shards_that_are_made_inside_the_folder_are_no_part_of_it(pack, img2dataset, tmp_path):
    for _ in range(2):
        done = pack(img2dataset, "--out", img2dataset / "00001" / "shards")
        assert "10 images" in done.out and ".arrow" not in done.out and "2 .json (00000_stats.json" in done.out


CODE = "\x1b[2J"  # clears a terminal


def test_terminal_codes_of_data_are_escaped(pack, tmp_path):
    fields = json.dumps({f"field{CODE}": f"text{CODE}"}).encode()
    (tmp_path / "in").mkdir()
    write_tar(tmp_path / "in" / "0.tar", {"0": {**colour_sample(0), "txt": f"a{CODE} cat".encode(), "json": fields}})
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "0.jpg").write_bytes(jpeg(30, 30))
    (tmp_path / "folder" / f"0.a{CODE}").touch()
    table = csv(tmp_path / "in.csv", [("image", f"caption_1{CODE}", f"b{CODE}"), ("folder/0.jpg", "a cat", "x")])
    for source in (tmp_path / "in", tmp_path / "folder", table):
        for more in (["--dry-run"], []):
            keys = ["--caption-key", f"caption_1{CODE}"] if source == table else []
            done = pack(source, "--out", tmp_path / f"{source.name}-out", *keys, *more)
            assert "\\x1b" in done.out and "\x1b" not in done.out
