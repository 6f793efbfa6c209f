"""scripts/pack.py on tables that hold images themselves."""
# ruff: noqa: F811

import io
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from open_clip_fff.tools.pack.tables.parquet import cells_at
from tests.conftest import COLOURS, colour_image, write_tar
from tests.packing_sets import left_out, pack, pictures, refused, samples  # noqa: F401

IMAGES = [colour_image(list(COLOURS)[number % 4], number) for number in range(12)]
HELD = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(path, images, group=5, kind=HELD, **columns):
    """A parquet of images, in row groups of some size."""
    path.parent.mkdir(exist_ok=True)
    names = list(columns)
    table = pa.table([pa.array(images, kind), *columns.values()], names=["image" if kind is HELD else "jpg", *names])
    pq.write_table(table, path, row_group_size=group)
    return path


@pytest.fixture
def hugging_face(tmp_path):
    """Two parquets, in row groups of five, whose parts and shards do not go together."""
    cells = [{"bytes": image, "path": f"{number}.png"} for number, image in enumerate(IMAGES)]
    for name, part in (("train-00000-of-00002", slice(0, 7)), ("train-00001-of-00002", slice(7, 12))):
        captions = [f"caption {number}" for number in range(12)][part]
        labels = list(range(12))[part]
        write(tmp_path / "hf" / f"{name}.parquet", cells[part], text=captions, label=labels, source=["x"] * len(labels))
    return tmp_path / "hf"


def shards(out):
    return samples(*sorted(out.glob("*.tar")))


def test_hugging_face_parquets(pack, hugging_face, tmp_path):
    done = pack(hugging_face, "--out", tmp_path / "out", "--images-per-shard", 4, "--class-key", "label")
    assert "images in `image` (guessed" in done.out and "captions by `text` (guessed" in done.out
    assert "3 of 3 shards: 12 images, 12 raw captions" in done.out
    assert "not used: 1 of 4 columns (source)" in done.out
    found = shards(tmp_path / "out")
    assert [x["png"] for x in found] == IMAGES and [x["cls"] for x in found] == [b"%d" % n for n in range(12)]
    assert [x["txt"].decode() for x in found] == [f"caption {number}" for number in range(12)]
    assert len((tmp_path / "out" / "rows.arrow").read_bytes()) < sum(map(len, IMAGES)) / 4  # references and no images
    one = pack(hugging_face / "train-00001-of-00002.parquet", "--out", tmp_path / "one")
    assert "5 images" in one.out and [x["png"] for x in shards(tmp_path / "one")] == IMAGES[7:]


@pytest.mark.parametrize("flags", [["--shuffle", 3], ["--shuffle", 3, "--group"]], ids=["each", "grouped"])
def test_a_random_order_finds_each_image_again(pack, hugging_face, tmp_path, flags):
    pack(hugging_face, "--out", tmp_path / "out", "--images-per-shard", 5, *flags)
    found = shards(tmp_path / "out")
    numbers = [int(x["txt"].split()[1]) for x in found]
    assert sorted(numbers) == list(range(12)) != numbers
    assert [x["png"] for x in found] == [IMAGES[number] for number in numbers]
    for share in ("1/2", "0/2"):
        pack(hugging_face, "--out", tmp_path / "two", "--images-per-shard", 5, *flags, "--share", share)
    for path in (tmp_path / "out").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "out")).read_bytes(), path


def test_img2dataset_parquets_and_images_that_were_not_fetched(pack, tmp_path):
    images = [None if number == 3 else b"" if number == 4 else image for number, image in enumerate(IMAGES[:6])]
    keys, urls = [f"{number:09d}" for number in range(6)], [f"http://x/{number}" for number in range(6)]
    captions = pa.array([f"raw {number}" for number in range(6)], pa.string())
    write(tmp_path / "i2d" / "00000.parquet", images, kind=pa.binary(), key=keys, url=urls, caption=captions)
    (tmp_path / "i2d" / "00000_stats.json").write_text("{}")
    done = pack(tmp_path / "i2d", "--out", tmp_path / "out", "--url-key", "url")
    found = shards(tmp_path / "out")
    assert [x["png"] for x in found] == [image for image in images if image]
    assert [x["txt"] for x in found] == [b"raw 0", b"raw 1", b"raw 2", b"raw 5"]
    assert found[3]["json"] == {"url": "http://x/5"}
    assert left_out(tmp_path / "out") == {"000000003": "no image", "000000004": "no image"}
    assert "not used: 1 of 4 columns (key)" in done.out and "not used: 1 .json (00000_stats.json)" in done.out


def test_img2dataset_shards_are_what_lies_beside_their_tables(pack, tmp_path):
    """Its default layout: tars, a parquet and a json for each."""
    (tmp_path / "i2d").mkdir()
    write_tar(tmp_path / "i2d" / "00000.tar", {"000000000": {"png": IMAGES[0], "txt": b"raw", "json": b"{}"}})
    write(tmp_path / "i2d" / "00000.parquet", [None], kind=pa.binary(), key=["000000000"], caption=["raw"])
    (tmp_path / "i2d" / "00000_stats.json").write_text("{}")
    done = pack(tmp_path / "i2d", "--out", tmp_path / "out")
    assert [x["png"] for x in shards(tmp_path / "out")] == IMAGES[:1] and "1 image, 1 raw caption\n" in done.out
    assert "not used: 1 .json (00000_stats.json), 1 .parquet (00000.parquet)\n" in done.out


def test_paths_in_the_place_of_bytes(pack, pictures, tmp_path):
    cells = [{"bytes": IMAGES[8] if number == 2 else None, "path": f"{number}.png"} for number in range(6)]
    cells[4] = None
    write(tmp_path / "x.parquet", cells, text=[str(number) for number in range(6)])
    pack(tmp_path / "x.parquet", "--out", tmp_path / "out", "--image-root", pictures)
    found = shards(tmp_path / "out")
    assert [x["txt"] for x in found] == [b"0", b"1", b"2", b"3", b"5"]
    assert [x["png"] for x in found] == [IMAGES[n] for n in (0, 1, 8, 3, 5)]
    only = pa.table({"image": [{"path": "1.png"}, {"path": "nowhere.png"}], "text": ["a", "b"]})
    pq.write_table(only, tmp_path / "only.parquet")
    pack(tmp_path / "only.parquet", "--out", tmp_path / "only", "--image-root", pictures)
    assert [x["png"] for x in shards(tmp_path / "only")] == [IMAGES[1]]
    assert left_out(tmp_path / "only") == {"000000001": "image file is not there"}


def test_a_set_without_an_image_that_can_be_read_ends_with_a_code(pack, tmp_path):
    """Each is named in a record, and what comes behind in a script does not go on."""
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics" / "a.jpg").write_bytes(b"<html>")
    for _ in range(2):  # and when there is nothing to do
        done = pack(tmp_path / "pics", "--out", tmp_path / "out", expect=1)
        assert "holds 1 of 1 shard: nothing\nleft out: 1 × image cannot be read" in done.out
    (tmp_path / "pics" / "b.png").write_bytes(IMAGES[0])
    pack(tmp_path / "pics", "--out", tmp_path / "other")


def test_rows_of_one_image_are_known_by_its_bytes(pack, tmp_path):
    """Hugging Face's copies of COCO have a row per caption; their paths may say nothing."""
    cells = [{"bytes": IMAGES[number % 4], "path": None} for number in range(12)]
    write(tmp_path / "x.parquet", cells, text=[f"caption {number}" for number in range(12)])
    done = pack(tmp_path / "x.parquet", "--out", tmp_path / "out", "--group", "--images-per-shard", 3)
    assert "12 rows are about 4 images, each one sample" in done.out
    found = shards(tmp_path / "out")
    assert [x["png"] for x in found] == IMAGES[:4]
    assert [x["json"]["captions"] for x in found] == [[f"caption {n + 4}", f"caption {n + 8}"] for n in range(4)]


def test_images_in_a_table_are_looked_at_before_and_resized(pack, hugging_face, tmp_path):
    done = pack(hugging_face, "--out", tmp_path / "out", "--dry-run", "--shuffle", 0, "--images-per-shard", 5)
    assert "of 12 samples that were looked at: 12 images, 12 raw captions" in done.out
    assert "after --shuffle, each of 3 shards goes through all of" in done.out
    pack(hugging_face, "--out", tmp_path / "out", "--resize", 20)
    assert all(Image.open(io.BytesIO(x["jpg"])).size == (20, 20) for x in shards(tmp_path / "out"))


def test_tables_of_images_that_cannot_be_meant(pack, refused, hugging_face, tmp_path):
    page = write(tmp_path / "page.parquet", [{"bytes": b"<html>", "path": None}] * 3)
    assert "page.parquet is an image (cannot identify" in refused(page)
    lists = tmp_path / "lists.parquet"
    pq.write_table(pa.table({"image": [[[{"bytes": IMAGES[0]}]]]}), lists)
    assert (
        "--image-key image: " in (line := refused(lists)) and "holds list there, and neither paths nor images" in line
    )
    assert "--keep-columns image: holds bytes" in refused(hugging_face, "--keep-columns", "image")
    for cells in ([[{"bytes": image, "path": None} for image in IMAGES[:2]]], [[0, 128, 255]]):
        pq.write_table(pa.table({"image": cells}), lists)
        assert "holds lists of several there; a sample has one image" in refused(lists)
    write(tmp_path / "none.parquet", [None, {"bytes": None, "path": None}])
    assert "are empty there" in refused(tmp_path / "none.parquet")


def test_captions_in_columns_that_are_not_guessed_are_named_before_writing(pack, pictures, tmp_path):
    texts = {"caption_en": [None, "a cat"], "Title de": ["", "eine Katze"], "caption_zh": ["猫", "猫"]}
    others = {"alt": ["0.5", "7"], "caption_score": [0.3, 0.2], "salty": ["a", "b"], "text_url": ["x", "y"]}
    table = write(tmp_path / "in" / "x.parquet", IMAGES[:2], kind=pa.binary(), **texts, **others)
    for more in (["--dry-run"], []):
        out = pack(table, "--out", tmp_path / "out", "--url-key", "text_url", *more).out
        keys = "'caption_en;Title de;caption_zh'"
        assert f"no column of captions (--caption-key {keys} would take what may be some)\n" in out
        assert out.index(keys) < out.index("2 without a caption")
    out = pack(table, "--out", tmp_path / "taken", "--caption-key", "caption_en;Title de;caption_zh").out
    assert "2 raw captions" not in out and "captions by `caption_en`, `Title de`, `caption_zh`\n" in out


def test_a_parquet_that_lost_rows_after_it_was_listed(pack, hugging_face, tmp_path):
    pack(hugging_face, "--out", tmp_path / "out", "--images-per-shard", 3)
    part = hugging_face / "train-00001-of-00002.parquet"
    size = part.stat().st_size
    write(part, [{"bytes": IMAGES[0], "path": "x"}], text=["a"], label=[0], source=["x"])
    part.write_bytes(part.read_bytes())
    (tmp_path / "out" / "00003.tar").unlink()
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    settings["bytes of SOURCE"] += part.stat().st_size - size
    (tmp_path / "out" / "settings.json").write_text(json.dumps(settings))
    done = pack(hugging_face, "--out", tmp_path / "out", "--images-per-shard", 3, expect=1)
    assert "train-00001-of-00002.parquet cannot be read as parquet (it has 1 row," in done.err


def test_a_row_group_is_never_in_memory_as_a_whole(tmp_path):
    size, count = 40_000, 500
    cells = [{"bytes": os.urandom(size), "path": None} for _ in range(count)]
    table = pa.table({"image": pa.array(cells, HELD)})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=count, write_batch_size=16)  # pages of 16
    del table
    wanted, before, most = range(0, count, 3), pa.total_allocated_bytes(), 0
    for number, cell in zip(wanted, cells_at(str(tmp_path / "x.parquet"), "image", wanted), strict=True):
        assert cell["bytes"] == cells[number]["bytes"]
        most = max(most, pa.total_allocated_bytes() - before)
    assert 16 * size < most < size * count / 2
