"""scripts/pack.py: what tables, folders and shards become, and what is left out."""
# ruff: noqa: F811

import hashlib
import io
import json
import os
import re
import tarfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from open_clip_fff.data.shards import read_samples
from open_clip_fff.data.sources import caption_texts
from open_clip_fff.tools.pack.items import SkipSample, prepare_image
from open_clip_fff.tools.pack.row_list import arrange_rows
from open_clip_fff.tools.pack.rows import CAPTION_PREFIX, RowFile, SourceRow, write_rows
from open_clip_fff.tools.pack.settings import ImageSettings
from tests.conftest import colour_image, colour_sample, write_tar
from tests.packing_sets import TOKENS, compress, csv, left_out, pack, picture, pictures, samples, tars, tokens  # noqa: F401

# --- tables ----------------------------------------------------------------------------------------------------------

CELLS = [
    {"file": "pics/0.png", "title": "raw 0", "blip": ["a", "b", "a"], "size": 4, "url": "u0", "label": "red"},
    {"file": "pics/1.png", "title": None, "blip": ["c"], "size": None, "url": "u1", "label": "blue"},
    {"file": "pics/2.png", "title": " ", "blip": [], "size": 5, "url": None, "label": None},
    {"file": "pics/nowhere.png", "title": "raw 3", "blip": None, "size": 6, "url": "u3", "label": "red"},
    {"file": None, "title": "raw 4", "blip": None, "size": 7, "url": "u4", "label": "red"},
]


FORMS = ["csv", "tsv", "csv.gz", "tsv.bz2", "csv.zst", "jsonl", "jsonl.gz", "jsonl.zst", "parquet", "parquets", "csvs"]
FORMS += ["json", "json of lines", "json.gz", "an indented json"]


@pytest.mark.parametrize("form", FORMS)
def test_a_table_of_each_form_gives_the_same_samples(pack, pictures, tmp_path, form):
    """Lists in parquet and jsonl, the same lists as json in a cell of a CSV; empty cells are no captions."""
    kind, _, codec = form.partition(".")
    path = source = tmp_path / ("t.json" if "json " in form or " json" in form else f"t.{form}")
    lines = "\n".join(map(json.dumps, CELLS)) + "\n\n"
    if kind in ("csv", "tsv", "csvs"):
        names = list(CELLS[0])
        rows = [[json.dumps(x) if isinstance(x, list) else "" if x is None else str(x) for x in row.values()]
                for row in CELLS]  # fmt: skip
        mark = "\t" if kind == "tsv" else ","
        head, *quoted = [
            mark.join('"' + cell.replace('"', '""') + '"' for cell in row) + "\n" for row in [names, *rows]
        ]
        if kind == "csvs":
            (tmp_path / "t0.csv").write_text(head + "".join(quoted[:2]))
            (tmp_path / "t1.csv").write_text(head + "".join(quoted[2:]))
            source = tmp_path / "t{0..1}.csv"
        else:
            compress(path, head + "".join(quoted), codec)
    elif form in ("parquet", "parquets"):
        schema = pa.Table.from_pylist(CELLS).schema
        if form == "parquets":
            path.mkdir()
        for part, some in enumerate((CELLS[:2], CELLS[2:]) if form == "parquets" else (CELLS,)):
            where = path / f"{part}.parquet" if form == "parquets" else path
            pq.write_table(pa.Table.from_pylist(some, schema), where)
    else:
        whole = {"json": json.dumps(CELLS), "an indented json": json.dumps(CELLS, indent=1)}
        compress(path, whole.get(kind, lines), codec)
    columns = ["--caption-key", "title;blip", "--keep-columns", "size", "--url-key", "url", "--class-key", "label"]
    flags = ["--image-key", "file", "--image-root", tmp_path, "--images-per-shard", 3]
    done = pack(source, "--out", tmp_path / "out", *columns, *flags)
    first, second, third = samples(*sorted((tmp_path / "out").glob("*.tar")))
    size = 4 if "parquet" in form or "json" in form else "4"
    assert first["json"] == {"size": size, "url": "u0", "captions": ["a", "b"]}
    assert (first["txt"], first["cls"], first["__key__"]) == (b"raw 0", b"red", "000000000")
    assert first["png"] == (pictures / "0.png").read_bytes()
    assert "txt" not in second and second["json"] == {"url": "u1", "captions": ["c"]}  # blip's is not the raw one
    assert set(third) - {"__key__", "__url__", "__local_path__"} == {"png", "json"} and "captions" not in third["json"]
    assert left_out(tmp_path / "out", "00001") == {
        "000000003": "image file is not there",
        "000000004": "no path of an image",
    }
    assert "3 images, 1 raw caption, 3 captions in json, 1 repeated caption left away, 1 without a caption" in done.out
    where = f"--train-data {tmp_path}/out/00000.tar --train-num-samples 2 --json-text-key captions"
    assert where in done.out


def test_columns_are_guessed_and_told(pack, tokens, tmp_path):
    done = pack(tokens, "--out", tmp_path / "out")
    assert "images by `image` (guessed" in done.out and "captions by `caption` (guessed" in done.out
    assert "24 rows are about 8 images; --group makes one sample of each" in done.out
    found = samples(tmp_path / "out" / "00000.tar")
    assert [x["txt"].decode() for x in found] == [caption for _, caption in TOKENS]
    assert [x["__key__"] for x in found] == [f"{number:09d}" for number in range(24)]


def test_rows_of_one_image_become_one_sample_wherever_they_stand(pack, tokens, tmp_path):
    pack(tokens, "--out", tmp_path / "out", "--group", "--images-per-shard", 5)
    found = samples(tmp_path / "out" / "00000.tar", tmp_path / "out" / "00001.tar")
    assert len(found) == 8 and len(samples(tmp_path / "out" / "00000.tar")) == 5
    for image, sample in enumerate(found):
        assert sample["txt"].decode() == f"caption 0 of {image}" and sample["__key__"] == f"{image:09d}"
        assert sample["json"] == {"captions": [f"caption 1 of {image}", f"caption 2 of {image}"]}
        assert sample["png"] == (tmp_path / "pics" / f"{image}.png").read_bytes()


def test_a_seed_fixes_the_order(pack, tokens, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        pack(tokens, "--out", tmp_path / name, "--group", "--shuffle", seed)
    orders = {name: [x["__key__"] for x in samples(tmp_path / name / "00000.tar")] for name in "abc"}
    assert orders["a"] == orders["b"] != orders["c"]
    assert sorted(orders["a"]) == sorted(orders["c"]) != orders["a"]
    assert (tmp_path / "a" / "00000.tar").read_bytes() == (tmp_path / "b" / "00000.tar").read_bytes()


def test_where_there_is_no_raw_caption_training_is_not_told_to_read_one(pack, pictures, tmp_path):
    table = csv(tmp_path / "t.csv", [("image", "title", "blip"), ("pics/0.png", "", "a"), ("pics/1.png", " ", "b")])
    done = pack(table, "--out", tmp_path / "out", "--caption-key", "title;blip")
    assert done.out.rstrip().endswith("--train-num-samples 2 --text-key '' --json-text-key captions")


def test_lines_that_are_no_rows_are_told(pack, pictures, tmp_path):
    (tmp_path / "t.csv").write_text("image,caption\npics/0.png,a\npics/1.png,b,c,d\npics/2.png,e\n")
    done = pack(tmp_path / "t.csv", "--out", tmp_path / "csv")
    assert "1 row cannot be read, the first:" in done.out and "line 3" in done.out
    (tmp_path / "open.csv").write_text('image,caption\npics/0.png,"a\npics/1.png,b\npics/2.png,"c\n')
    done = pack(tmp_path / "open.csv", "--out", tmp_path / "open")
    assert "2 rows cannot be read, the first: pics/0.png has it in a caption, where a quote has no end" in done.out
    (tmp_path / "last.tsv").write_text('caption\timage\n"a\tpics/0.png\n8" b\tpics/1.png\nc\tpics/2.png\n')
    done = pack(tmp_path / "last.tsv", "--out", tmp_path / "last")
    assert "1 row cannot be read, the first: pics/1.png has it in a caption, where a quote has no end" in done.out
    lines = ['{"image": "pics/0.png", "caption": "a"}', '{"image": "pics', '{"image": "pics/2.png"}']
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    done = pack(tmp_path / "t.jsonl", "--out", tmp_path / "jsonl")
    assert "Skipping line 2" in done.out and len(samples(tmp_path / "jsonl" / "00000.tar")) == 2


def test_an_object_is_no_caption():
    assert [caption_texts(cell) for cell in ({"en": "a cat"}, True, ["a", {"en": "b"}], 7)] == [[], [], ["a"], ["7"]]


def test_captions_in_objects_are_told_and_named_by_a_path(pack, pictures, tmp_path):
    """As Hugging Face's Karpathy and multilingual sets have them."""
    rows = [
        {"image": f"pics/{n}.png", "caption": {"en": f"en {n}", "de": f"de {n}"}, "all": [{"raw": "a"}, {"raw": "b"}]}
        for n in range(2)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pd.DataFrame({name: [json.dumps(row[name]) for row in rows] for name in ("caption", "all")}).assign(
        image=[row["image"] for row in rows]
    ).to_csv(tmp_path / "t.csv", index=False)
    for form in ("parquet", "jsonl", "csv"):
        told = pack(tmp_path / f"t.{form}", "--out", tmp_path / f"told-{form}").out
        assert "texts in objects (caption.en in 2, caption.de in 2): --caption-key names captions" in told
        out = tmp_path / form
        pack(tmp_path / f"t.{form}", "--out", out, "--image-root", tmp_path, "--caption-key", "caption.de;all.raw")
        assert [x["txt"] for x in samples(out / "00000.tar")] == [b"de 0", b"de 1"]
        assert [x["json"] for x in samples(out / "00000.tar")] == [{"captions": ["a", "b"]}] * 2


@pytest.mark.parametrize("repeats", ["keep", "join"])
def test_a_list_longer_than_a_batch_is_arranged_as_a_loop_would(tmp_path, monkeypatch, repeats):
    """Against plain Python, with batches so small that rows of one image lie in several."""
    monkeypatch.setattr("open_clip_fff.tools.pack.rows.BATCH_ROWS", 7)
    monkeypatch.setattr("open_clip_fff.tools.pack.row_list.BATCH_ROWS", 7)
    draws = np.random.default_rng(0).integers(0, 20, 61)
    rows = [SourceRow(int(who), f"{n}", b"%d" % who, ([f"t{n}"] * (n % 3), [f"u{n}"])) for n, who in enumerate(draws)]
    expected: dict[object, list] = {}
    for number, row in enumerate(rows):
        mine = expected.setdefault(row.identity if repeats == "join" else number, [row.key, [], [], 0])
        mine[1], mine[2], mine[3] = mine[1] + row.captions[0], mine[2] + row.captions[1], mine[3] + 1
    with open(tmp_path / "a", "wb+") as first, open(tmp_path / "b", "wb+") as second:
        write_rows(rows, ("t", "u"), first)
        first.flush()
        arrange_rows(RowFile(first), second, repeats)
        second.flush()
        found = RowFile(second)
    taken = found.take(np.arange(len(found))).to_pylist()
    names = "key", f"{CAPTION_PREFIX}t", f"{CAPTION_PREFIX}u", "rows"
    assert [[row[name] for name in names] for row in taken] == list(expected.values())
    assert found.coverage() == [("t", sum(bool(x[1]) for x in expected.values()), sum(n % 3 for n in range(61))),
                                ("u", len(expected), 61)]  # fmt: skip
    some = np.array([len(found) - 1, 0, 8, 8])
    assert [x["key"] for x in found.take(some).to_pylist()] == [taken[number]["key"] for number in some]


def test_a_row_is_found_by_its_identity(tmp_path, monkeypatch):
    monkeypatch.setattr("open_clip_fff.tools.pack.rows.BATCH_ROWS", 3)
    monkeypatch.setattr("open_clip_fff.tools.pack.row_list.BATCH_ROWS", 3)
    identities = [5, 9, 1, 9, 2**63 - 1, 0, 7, 3]
    with open(tmp_path / "a", "wb+") as first, open(tmp_path / "b", "wb+") as second:
        rows = (SourceRow(who, f"k{who}", captions=[[f"of {n}"]]) for n, who in enumerate(identities))
        write_rows(rows, ("t",), first)
        first.flush()
        arrange_rows(RowFile(first), second, "join", "identity")
        second.flush()
        found = RowFile(second)
    for who in set(identities):
        row = found.find(who, f"k{who}")
        assert row and row[f"{CAPTION_PREFIX}t"] == [f"of {n}" for n, other in enumerate(identities) if other == who]
    assert found.find(4, "k4") is None and found.find(9, "another of the same hash") is None


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_with_odd_names(pack, tmp_path):
    folder = tmp_path / "in"
    odd = [
        "rot/été à la mer.v2.jpg",
        "rot/a.b.c.png",
        "blau/日本 (1).jpg",
        "top.JPG",
        "a_b.png",
        "a/b.png",
        "x.jpg",
        "x.png",
    ]
    for number, name in enumerate(odd):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(40 + number, 30, "png" if name.endswith("png") else "jpeg"))
    (folder / "rot" / "été à la mer.v2.txt").write_text("roh\n\n zwei \ndrei\nroh\n")
    (folder / "rot" / "été à la mer.v2.json").write_text(json.dumps({"blip": ["vier", "zwei"], "width": 3}))
    (folder / "rot" / "a.b.c.json").write_text("{")
    (folder / ".hidden.jpg").write_bytes(b"x")
    os.symlink(folder, folder / "a" / "loop")
    with open(os.fsencode(folder) + b"/\xff\xfe.jpg", "wb") as file:  # a name that is no UTF-8
        file.write(picture(33, 30))
    done = pack(folder, "--out", tmp_path / "out", "--json-text-key", "blip", "--class-from-folder")
    found = {x["__key__"]: x for x in samples(tmp_path / "out" / "00000.tar")}
    assert len(found) == 8 and "8 images" in done.out  # all but the one whose json is damaged
    assert left_out(tmp_path / "out") == {"rot_a_b_c": "text or json beside it cannot be read"}
    sea = found["rot_été_à_la_mer_v2"]
    assert sea["txt"].decode() == "roh" and sea["cls"] == b"rot"
    assert sea["json"] == {"blip": ["vier", "zwei"], "width": 3, "captions": ["zwei", "drei", "vier"]}
    assert "cls" not in found["top"] and found["top"]["jpg"] == (folder / "top.JPG").read_bytes()
    assert "blau_日本_1_" in found and "_" in found
    clashes = sorted(key for key in found if key.startswith(("a_b", "x")))
    assert len(clashes) == 4 and [key.partition("-")[0] for key in clashes] == ["a_b", "a_b", "x", "x"]
    hashed = {f"{key}-{hashlib.blake2b(path.encode()).hexdigest()[:8]}": path
              for key, path in (("a_b", "a/b.png"), ("a_b", "a_b.png"), ("x", "x.jpg"), ("x", "x.png"))}  # fmt: skip
    for key in clashes:
        assert (folder / hashed[key]).read_bytes() in found[key].values()
    assert "--shuffle SEED makes better shards" in done.out


def test_without_captions_it_says_what_is_missing(pack, pictures, tmp_path):
    done = pack(pictures, "--out", tmp_path / "out", "--shuffle", 0)
    assert "8 images, 8 without a caption" in done.out and "no sample has a caption" in done.out
    assert "--train-data" not in done.out and "--shuffle SEED" not in done.out
    (pictures / "3.txt").write_bytes(b"caf\xe9")
    pack(pictures, "--out", tmp_path / "latin")
    assert left_out(tmp_path / "latin") == {"3": "text or json beside it is not UTF-8"}


# --- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "expected"), [((400, 200), (128, 64)), ((90, 300), (64, 213)), ((64, 80), None)])
@pytest.mark.parametrize("form", ["jpg", "webp", "keep"])
def test_resizing_is_only_ever_down(size, expected, form):
    content = picture(*size, "png")
    made = prepare_image(content, ImageSettings(resize=64, format=form))
    if expected is None:
        assert made == (content, "png", False)
        return
    assert made.reencoded and made.extension == (form if form != "keep" else "png")
    image = Image.open(io.BytesIO(made.content))
    assert image.size == expected and image.mode == "RGB"


def test_what_is_made_anew_looks_like_the_image_and_stands_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: 300 x 200 is shown as 200 x 300
    made = prepare_image(picture(300, 200, quality=95, exif=exif), ImageSettings(resize=50))
    small = Image.open(io.BytesIO(made.content))
    whole = Image.open(io.BytesIO(picture(300, 200, quality=95))).rotate(-90, expand=True).resize((50, 75))
    assert small.size == (50, 75)
    assert np.abs(np.asarray(small, float) - np.asarray(whole, float)).mean() < 4


def test_formats_that_training_does_not_read_are_written_anew():
    for kind in ("gif", "bmp", "tiff"):
        made = prepare_image(picture(40, 30, kind), ImageSettings(format="keep"))
        assert made.reencoded and made.extension == "png" and Image.open(io.BytesIO(made.content)).size == (40, 30)
    assert prepare_image(picture(40, 30, "webp"), ImageSettings()).extension == "webp"


def test_images_that_cannot_be_read_or_are_small_are_left_out(pack, pictures, tmp_path):
    (pictures / "1.png").write_bytes((pictures / "1.png").read_bytes()[:900])
    (pictures / "2.png").write_bytes(b"<html>404</html>")
    (pictures / "3.png").write_bytes(picture(200, 39, "png"))
    (pictures / "4.png").write_bytes(b"")
    os.mkfifo(pictures / "pipe.png")
    done = pack(pictures, "--out", tmp_path / "out", "--min-size", 40)
    assert "4 images" in done.out and "left out: 3 × image cannot be read, 1 × smaller than 40 pixels, 1 ×" in done.out
    assert left_out(tmp_path / "out") == {
        "pipe": "image file cannot be read",
        **{name: "image cannot be read" for name in "124"},
        "3": "smaller than 40 pixels",
    }
    done = pack(pictures, "--out", tmp_path / "trusting", "--min-size", 40, "--no-verify")
    assert left_out(tmp_path / "trusting").keys() == {"2", "3", "4", "pipe"}  # only its header is read
    with pytest.raises(SkipSample):
        prepare_image((pictures / "1.png").read_bytes(), ImageSettings(resize=20, verify=False))


# --- shards ----------------------------------------------------------------------------------------------------------


def test_shards_go_through_untouched(pack, tars, tmp_path):
    done = pack(tars, "--out", tmp_path / "out")
    for name in ("00.tar", "01.tar"):
        for before, after in zip(*(read_samples([str(tmp_path / at / name)], 99) for at in ("in", "out")), strict=True):
            assert all(after[member] == before[member] for member in ("__key__", "png", "txt", "json"))
    assert "2 of 2 shards: 12 images, 12 raw captions, 30 captions in json" in done.out
    pack(str(tmp_path / "in"), "--out", tmp_path / "small", "--resize", 16)
    found = samples(tmp_path / "small" / "00.tar")
    assert all(Image.open(io.BytesIO(x["jpg"])).size == (16, 16) and "png" not in x for x in found)


def test_captions_join_by_key_from_a_parquet_per_shard(pack, tars, tmp_path):
    (tmp_path / "side").mkdir()
    for shard in range(2):
        rows = [{"key": f"{shard}{row:03d}", "captions": [f"new {shard}{row}", "a red square"]}
                for row in range(4)]  # fmt: skip
        table = pa.Table.from_pylist([*rows, {"key": "other", "captions": ["x"]}])
        pq.write_table(table, tmp_path / "side" / f"{shard:02d}.parquet")
    done = pack(tars, "--out", tmp_path / "out", "--captions", tmp_path / "side")
    first = samples(tmp_path / "out" / "00.tar")
    assert first[0]["json"]["captions"] == ["a red square", "new 00"]  # and not the one that it had
    assert first[1]["json"]["captions"][-2:] == ["new 01", "a red square"] and first[1]["json"]["title"] == "title 1"
    assert first[5]["json"]["captions"] == json.loads(colour_sample(5)["json"])["captions"]
    assert "captions joined 66.67% of 12 samples" in done.out and "2 of 10 rows of captions found no sample" in done.out


@pytest.mark.parametrize("by", ["key", "url"])
def test_captions_join_from_one_table(pack, tars, tmp_path, by):
    names = {"key": lambda n: f"{n // 6}{n % 6:03d}", "url": lambda n: f"http://x/{n}"}
    rows = [(names[by](n), f"new {turn} of {n}") for turn in range(2) for n in (0, 1, 7, 11)]
    csv(tmp_path / "new.csv", [(by, "blip"), *rows, ("nobody", "x")])
    flags = ["--captions", tmp_path / "new.csv", "--join", by, "--caption-key", "blip"]
    done = pack(tars, "--out", tmp_path / "out", *flags)
    found = samples(tmp_path / "out" / "00.tar", tmp_path / "out" / "01.tar")
    for number, sample in enumerate(found):
        new = [f"new {turn} of {number}" for turn in range(2)] if number in (0, 1, 7, 11) else []
        assert sample["json"]["captions"] == json.loads(colour_sample(number)["json"])["captions"] + new
    assert "captions joined 33.33% of 12 samples" in done.out and "1 of 9 rows of captions found no sample" in done.out
    (tmp_path / "a.json").write_text(json.dumps({names["key"](n): [f"new {n}", "more"] for n in (0, 1, 7, 11)}))
    done = pack(tars, "--out", tmp_path / by, "--captions", tmp_path / "a.json")
    assert "captions joined 33.33% of 12 samples" in done.out


def test_a_shard_cut_in_the_middle_costs_itself_only(pack, tars, tmp_path):
    cut = tmp_path / "in" / "01.tar"
    cut.write_bytes(cut.read_bytes()[:9000])
    done = pack(tars, "--out", tmp_path / "out", expect=1)
    assert "01.tar cannot be read as a tar" in done.err and "cannot be read as a tar" in done.err
    assert [path.name for path in (tmp_path / "out").glob("*.tar")] == ["00.tar"]
    assert "to train on them (1 shard missing):" in done.out and "out/00.tar --train-num-samples 6" in done.out


def test_names_that_leave_the_folder_are_left_out(pack, tmp_path):
    """Of shards; what is packed of folders and tables has keys of its own, whatever files are called."""
    outside = ["../a", "/tmp/b", "c/../../d", "C:\\e", "f"]
    rows = {key: colour_sample(row) for row, key in enumerate([*outside, "in/side", "0"])}
    rows["f"]["txt\\..\\..\\f"] = b"its key is harmless"
    write_tar(tmp_path / "in.tar", rows)
    pack(tmp_path / "in.tar", "--out", tmp_path / "out")
    assert left_out(tmp_path / "out", "in") == dict.fromkeys(outside, "its name leaves the folder")
    assert [x["__key__"] for x in samples(tmp_path / "out" / "in.tar")] == ["in/side", "0"]
    (tmp_path / "pics").mkdir()
    (tmp_path / "0.png").write_bytes(colour_image("red", 0))
    images, texts = [{"id": "../9", "file_name": "../0.png"}], [{"image_id": "../9", "caption": "a"}]
    records = {"images": images, "annotations": texts}
    (tmp_path / "pics" / "captions.json").write_text(json.dumps(records))
    csv(tmp_path / "pics" / "table.csv", [("image", "caption"), ("../0.png", "a"), (str(tmp_path / "0.png"), "b")])
    for table in ("captions.json", "table.csv"):
        pack(tmp_path / "pics" / table, "--out", tmp_path / table, "--image-root", tmp_path / "pics")
        with tarfile.open(next((tmp_path / table).glob("*.tar"))) as tar:
            assert all(re.fullmatch(r"\d{9}\.\w+", name) for name in tar.getnames())


def test_samples_that_cannot_be_packed_are_left_out(pack, tmp_path):
    broken = {str(row): colour_sample(row) for row in range(4)}
    broken["0"].pop("png")
    broken["1"]["json"] = b"{"
    broken["2"]["png"] = broken["2"]["png"][:70]
    write_tar(tmp_path / "a.tar", broken)
    pack(tmp_path / "a.tar", "--out", tmp_path / "out")
    assert left_out(tmp_path / "out", "a") == {
        "0": "no image",
        "1": "captions cannot be read",
        "2": "image cannot be read",
    }
    assert [x["__key__"] for x in samples(tmp_path / "out" / "a.tar")] == ["3"]
