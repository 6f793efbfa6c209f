"""scripts/pack.py on the layouts of well-known data sets: COCO, Karpathy, LLaVA, Hugging Face's ImageFolder."""
# ruff: noqa: F811

import io
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_clip_fff.tools.pack.tables.records import JsonRecord, json_records
from tests.packing_sets import compress, csv, left_out, pack, pictures, refused, samples  # noqa: F401


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def packed(out):
    return samples(*sorted(out.glob("*.tar")))


COCO = {
    "info": {"year": 2014},
    "licenses": [{"id": 1}, {"id": 2}],
    "images": [{"id": 100 + n, "file_name": f"{n}.png", "height": 40, "license": n} for n in range(4)],
    "annotations": [{"id": k, "image_id": 100 + k % 3, "caption": f"caption {k // 3} of {k % 3}"} for k in range(15)]
    + [{"id": 99, "image_id": 999, "caption": "of nothing"}],
}


@pytest.mark.parametrize("indent", [None, 1])
def test_coco(pack, pictures, tmp_path, indent):
    (tmp_path / "captions_val2014.json").write_text(json.dumps(COCO, indent=indent))
    flags = ["--image-root", pictures, "--keep-columns", "id"]
    done = pack(tmp_path / "captions_val2014.json", "--out", tmp_path / "out", *flags)
    assert "captions_val2014.json: COCO's captions, images by `file_name`, captions by `captions`\n" in done.out
    found = packed(tmp_path / "out")
    for number, sample in enumerate(found):
        assert sample["png"] == (pictures / f"{number}.png").read_bytes() and sample["json"]["id"] == 100 + number
    assert [x["txt"].decode() for x in found[:3]] == [f"caption 0 of {number}" for number in range(3)]
    assert found[1]["json"]["captions"] == [f"caption {turn} of 1" for turn in range(1, 5)]
    assert "txt" not in found[3] and "captions" not in found[3]["json"]
    assert "4 images, 3 raw captions, 12 captions in json, 1 without a caption" in done.out
    assert "--train-num-samples 3 " in done.out  # what training will deliver
    for line in ("2 of 5 columns (height, license)", "1 annotation of images that are not listed",
                 "fields of the json: info, licenses (2)"):  # fmt: skip
        assert f"not used: {line}\n" in done.out


def test_karpathy(pack, pictures, tmp_path):
    images = [
        {"filename": f"{n}.png", "filepath": "pics", "split": "train" if n else "test", "imgid": n,
         "sentences": [{"raw": f"s{k} of {n}", "tokens": ["s"]} for k in range(n)]}
        for n in range(4)
    ]  # fmt: skip
    write(tmp_path / "dataset_coco.json", {"images": images, "dataset": "coco"})
    done = pack(tmp_path / "dataset_coco.json", "--out", tmp_path / "out", "--keep-columns", "split")
    found = packed(tmp_path / "out")
    assert [x["json"].get("captions") for x in found] == [None, None, ["s1 of 2"], ["s1 of 3", "s2 of 3"]]
    assert [x.get("txt") for x in found] == [None, b"s0 of 1", b"s0 of 2", b"s0 of 3"]
    assert [x["json"]["split"] for x in found] == ["test", "train", "train", "train"]
    assert "Karpathy's splits (train 3, test 1; --only 'split=A;B' takes some), images by `image`" in done.out
    assert "not used: fields of the json: dataset\n" in done.out
    done = pack(tmp_path / "dataset_coco.json", "--out", tmp_path / "train", "--only", "split=val; train")
    assert [x["txt"] for x in packed(tmp_path / "train")] == [b"s0 of 1", b"s0 of 2", b"s0 of 3"]
    assert "(imgid)" in done.out


def test_some_rows_only(pack, refused, pictures, tmp_path):
    rows = [(f"{n}.png" if n % 3 else "nowhere", f"c{n}", f"s{n % 3}") for n in range(8)]
    table = csv(tmp_path / "t.csv", [("image", "caption", " set"), *rows])
    flags = ["--image-root", pictures]
    done = pack(table, "--out", tmp_path / "out", *flags, "--only", "set=s1;s2", "--images-per-shard", 3)
    assert [x["txt"] for x in packed(tmp_path / "out")] == [b"c1", b"c2", b"c4", b"c5", b"c7"]
    assert "--only set: read from the column ' set'" in done.out and "not used" not in done.out
    assert "--only set: no row of" in (line := refused(table, *flags, "--only", "set=x;y")) and "is of x or y" in line
    assert "--only x: " in refused(table, *flags, "--only", "x=1")
    assert "--only set: write COLUMN=VALUE" in refused(table, *flags, "--only", "set")
    assert "--only: goes with a table" in refused(pictures, "--only", "set=1")
    assert (
        "was made with --only 'set=s1;s2' and not None" in pack(table, "--out", tmp_path / "out", *flags, expect=2).err
    )


@pytest.mark.parametrize("form", ["json", "jsonl", "json.gz"])
def test_llava(pack, pictures, tmp_path, form):
    """Answers are captions; a record without an image, or about two of them, has none that it could be packed with."""

    def record(image, *answers):
        said = [[{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": x}] for x in answers]
        return {
            "id": str(image),
            **({"image": image} if image else {}),
            "conversations": [turn for x in said for turn in x],
        }

    records = [
        record("0.png", "A red square.\n<image>", "It is red."),
        record("1.png", " A green one. "),
        record(None, "Only words."),
        record(["2.png"], "In a list."),
        record(["2.png", "3.png"], "Of two."),
    ]
    text = json.dumps(records) if form.startswith("json.") or form == "json" else "\n".join(map(json.dumps, records))
    path = compress(tmp_path / f"llava.{form}", text, form.partition(".")[2])
    done = pack(path, "--out", tmp_path / "out", "--image-root", pictures)
    assert "LLaVA's conversations, images by `image`, captions by `captions`" in done.out
    found = packed(tmp_path / "out")
    assert [x["txt"].decode() for x in found] == ["A red square.", "A green one.", "In a list."]
    assert found[0]["json"] == {"captions": ["It is red."]}
    assert left_out(tmp_path / "out") == {name: "no path of an image" for name in ("000000002", "000000004")}


def test_messages_and_lists_of_images(pack, pictures, tmp_path):
    """Chats with roles, in a jsonl and in a parquet with the images; a list of one image is that image."""
    said = [
        [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A red square."}],
        [{"from": "human", "value": "What?"}, {"from": "model", "value": "<image> A green one."}],
        [{"role": "assistant", "content": [{"type": "text", "text": "Parts."}, {"type": "image"}]}],
        [{"role": "assistant", "content": "Of two."}],
    ]
    named = [["0.png"], ["1.png"], ["2.png"], ["2.png", "3.png"]]
    expected = [b"A red square.", b"A green one.", b"Parts."]
    for name, column in (("messages", "images"), ("conversations", "image")):
        lines = [{column: some, name: turns} for some, turns in zip(named, said, strict=True)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
        pack(tmp_path / f"{name}.jsonl", "--out", tmp_path / name, "--image-root", pictures)
        assert [x["txt"] for x in packed(tmp_path / name)] == expected
    rows = [
        {"images": [{"bytes": (pictures / path).read_bytes(), "path": path} for path in some], "messages": turns}
        for some, turns in zip(named[::3], said[::3], strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    done = pack(tmp_path / "t.parquet", "--out", tmp_path / "parquet")
    assert "conversations in `messages`, whose answers are captions, images in `images`" in done.out
    assert [x["txt"] for x in packed(tmp_path / "parquet")] == expected[:1]
    assert packed(tmp_path / "parquet")[0]["png"] == (pictures / "0.png").read_bytes()
    assert left_out(tmp_path / "parquet") == {"000000001": "no image"} and "not used" not in done.out
    done = pack(tmp_path / "t.parquet", "--out", tmp_path / "kept", "--keep-columns", "messages")
    assert packed(tmp_path / "kept")[0]["json"]["messages"][1]["content"] == "A red square."
    table = pq.read_table(tmp_path / "t.parquet").append_column("caption", pa.array(["own", "another"]))
    pq.write_table(table, tmp_path / "both.parquet")  # captions of their own come first
    done = pack(tmp_path / "both.parquet", "--out", tmp_path / "both")
    assert packed(tmp_path / "both")[0]["txt"] == b"own" and "captions by `caption`" in done.out


PLAIN = [
    {f"pics/{n}.png": f"a {n}" for n in range(3)},
    {f"pics/{n}.png": [f"a {n}"] for n in range(3)},
    {f"pics/{n}.png": {"caption": f"a {n}"} for n in range(3)},
    {f"7{n}": {"filename": f"pics/{n}.png", "caption": f"a {n}", "negative": "no"} for n in range(3)},
    {"image": [f"pics/{n}.png" for n in range(3)], "captions": [[f"a {n}"] for n in range(3)]},
    {"Image Path": {str(n): f"pics/{n}.png" for n in range(3)}, "caption": {str(n): f"a {n}" for n in range(3)}},
    {"image": [f"pics/{n}.png" for n in range(3)], "caption_1": [f"a {n}" for n in range(3)], "caption_2": ["b"] * 3},
    {"version": 1, "data": [{"img": f"pics/{n}.png", "caption": f"a {n}"} for n in range(3)]},
]


def test_plain_jsons(pack, pictures, tmp_path):
    """Captions, or fields, by names of images or by ids; columns; rows in a field."""
    for number, content in enumerate(PLAIN):
        pack(write(tmp_path / "x.json", content), "--out", tmp_path / f"{number}")
        made = packed(tmp_path / f"{number}")
        assert [x["txt"].decode() for x in made] == ["a 0", "a 1", "a 2"], content
        assert [x["png"] for x in made] == [(pictures / f"{n}.png").read_bytes() for n in range(3)]


def test_ids_of_coco_are_equal_as_numbers_and_as_texts(pack, pictures, tmp_path):
    images = [{"id": str(n), "file_name": f"{n}.png"} for n in range(2)]
    document = {"images": images, "annotations": [{"image_id": n, "caption": f"of {n}"} for n in range(2)]}
    (tmp_path / "t.json").write_text(json.dumps(document))
    done = pack(tmp_path / "t.json", "--out", tmp_path / "out", "--image-root", pictures)
    assert "not listed" not in done.out and [x["txt"] for x in packed(tmp_path / "out")] == [b"of 0", b"of 1"]


def test_fields_that_come_late_are_named(pack, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("open_clip_fff.tools.pack.tables.records.LOOK", 2)
    rows = [{"image": f"{n}.png", "caption": "a", **({"blip": "b"} if n > 2 else {})} for n in range(6)]
    write(tmp_path / "x.json", [*rows, "no object"])
    done = pack(tmp_path / "x.json", "--out", tmp_path / "out", "--image-root", pictures)
    assert "not used: fields that the first 2 rows do not have: blip in 3\n" in done.out
    assert "1 row cannot be read, the first: " in done.out and "Skipping entry 7: it is no object" in done.out


def test_a_list_is_read_piece_by_piece(monkeypatch):
    monkeypatch.setattr("open_clip_fff.tools.pack.tables.records.CHUNK", 3)
    entries = [{"a": "]}, {"}, 12, "x", {"b": [1, {"c": 'é"'}]}, {}]
    for indent in (None, 2):
        text = io.StringIO(json.dumps(entries, indent=indent))
        expected = [JsonRecord(n, x if isinstance(x, dict) else None) for n, x in enumerate(entries, 1)]
        assert list(json_records(text)) == expected
    for damaged in ("[{}", "[{}, {", "[{}, oops]", "{}"):
        with pytest.raises(ValueError, match="list"):
            list(json_records(io.StringIO(damaged)))


def test_jsons_that_cannot_be_meant(refused, pictures, tmp_path):
    other = {"images": COCO["images"], "annotations": [{"image_id": 100, "bbox": [0, 0, 1, 1]}]}
    line = refused(write(tmp_path / "instances.json", other))
    assert "instances.json cannot be read as json (it is COCO's, but no annotation has a caption; take" in line
    line = refused(write(tmp_path / "x.json", {"data": [], "version": 1}))
    assert "x.json is neither COCO's captions" in line and "it has data, version" in line
    assert "it has key, captions" in refused(write(tmp_path / "x.json", {str(n): ["no image"] for n in range(3)}))
    assert "it has train, test" in refused(write(tmp_path / "x.json", {"train": [{"a": 1}], "test": [{"a": 2}]}))
    (tmp_path / "cut.json").write_text(json.dumps(COCO)[:200])
    assert "cut.json cannot be read as json" in refused(tmp_path / "cut.json")
    (tmp_path / "list.json").write_text(json.dumps([{"image": "0.png"}] * 5)[:-20])
    assert "list.json cannot be read as json (the list ends within entry 5" in refused(tmp_path / "list.json")
    assert "'s images" not in refused(write(tmp_path / "empty.json", []))
    (tmp_path / "7.json").write_text("7")
    assert "it is neither a list nor an object" in refused(tmp_path / "7.json")
    path = compress(tmp_path / "t.csv.gz", "image,caption\n" + "0.png,a\n" * 99, "gz")
    path.write_bytes(path.read_bytes()[:40])
    assert "t.csv.gz cannot be read" in refused(path)
    compress(tmp_path / "t.jsonl.zst", "", "").write_bytes(b"nothing")
    assert "t.jsonl.zst cannot be read as jsonl" in refused(tmp_path / "t.jsonl.zst")
    line = refused(write(tmp_path / "captions.json", COCO), "--image-root", tmp_path)
    assert "--image-root: none of the first 4 images of" in line


# --- ImageFolder -----------------------------------------------------------------------------------------------------


@pytest.fixture
def image_folder(pictures):
    """`train/` and `test/` with four pictures each, two of them in a folder of their own; one lies there unnamed."""
    folder = pictures.parent / "folder"
    for number, path in enumerate(sorted(pictures.glob("*.png"))):
        place = folder / ("train" if number < 5 else "test") / ("sub" if number % 4 == 1 else ".")
        place.mkdir(parents=True, exist_ok=True)
        (place / path.name).write_bytes(path.read_bytes())
    (folder / "train" / "0.txt").write_text("beside it, and not in the table")
    (folder / "README.md").write_text("x")
    return folder


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_an_image_folder_in_subfolders(pack, image_folder, pictures, tmp_path, form):
    for split, numbers in (("test", (5, 6, 7)), ("train", (0, 1, 2, 3))):
        names = ["sub/" * (n % 4 == 1) + f"{n}.png" for n in numbers]
        rows = [{"file_name": name, "text": f"text {n}", "id": str(n)} for n, name in zip(numbers, names, strict=True)]
        place = image_folder / split / f"metadata.{form}"
        if form == "jsonl":
            place.write_text("\n".join(map(json.dumps, rows)))
        elif form == "csv":
            csv(place, [tuple(rows[0]), *(tuple(row.values()) for row in rows)])
        else:
            pq.write_table(pa.Table.from_pylist(rows), place)
    done = pack(image_folder, "--out", tmp_path / "out", "--shuffle", 0)
    assert f"folder (test/metadata.{form}, train/metadata.{form}): an ImageFolder, images by `file_name`" in done.out
    found = {x["txt"].decode(): x["png"] for x in packed(tmp_path / "out")}
    assert found == {f"text {n}": (pictures / f"{n}.png").read_bytes() for n in (0, 1, 2, 3, 5, 6, 7)}
    assert "not used: 1 of 3 columns (id)\n" in done.out
    assert "not used: 1 .md (README.md), 1 .png (train/4.png), 1 .txt (0.txt)\n" in done.out
    pack(image_folder / "train", "--out", tmp_path / "train")
    assert [x["txt"] for x in packed(tmp_path / "train")] == [b"text 0", b"text 1", b"text 2", b"text 3"]


def test_an_image_folder_with_one_table_of_all(pack, image_folder, pictures, tmp_path):
    rows = [("path", "file_name", "text"), ("x", "train/0.png", "a"), ("y", "./test/sub/5.png", "b")]
    csv(image_folder / "metadata.csv", rows)
    csv(image_folder / "train" / "metadata.csv", [("name", "text"), ("0.png", "not one: it has no file_name")])
    done = pack(image_folder, "--out", tmp_path / "out")
    assert [x["png"] for x in packed(tmp_path / "out")] == [(pictures / f"{n}.png").read_bytes() for n in (0, 5)]
    assert "6 .png (" in done.out and "1 .csv (metadata.csv)" in done.out


def test_other_tables_beside_pictures_are_no_image_folder(pack, image_folder, tmp_path):
    csv(image_folder / "metadata.csv", [("path", "text"), ("train/0.png", "a")])
    done = pack(image_folder, "--out", tmp_path / "out")
    assert "8 images, 1 raw caption, 7 without a caption" in done.out
    assert "not used: 1 .csv (metadata.csv), 1 .md (README.md)\n" in done.out


def test_files_of_two_splits_are_told(pack, pictures, tmp_path):
    (tmp_path / "hf").mkdir()
    for name, n in (("train-00000-of-00002", 0), ("train-00001-of-00002", 1), ("test-00000-of-00001", 2)):
        rows = [{"image": {"bytes": (pictures / f"{n}.png").read_bytes(), "path": None}, "text": name}]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "hf" / f"{name}.parquet")
    done = pack(tmp_path / "hf", "--out", tmp_path / "all")
    assert "files of all names are packed: test (1), train (2); name some with braces" in done.out
    (tmp_path / "clone").mkdir()
    (tmp_path / "hf").rename(tmp_path / "clone" / "data")
    assert "3 images" in pack(tmp_path / "clone", "--out", tmp_path / "cloned").out
    done = pack(tmp_path / "clone" / "data" / "train-{00000..00001}-of-00002.parquet", "--out", tmp_path / "train")
    assert "files of all names" not in done.out and "2 images" in done.out


def test_folders_of_two_splits_are_told(pack, pictures, tmp_path):
    """As the hub converts data sets to parquet, as Hugging Face's ImageFolder, as COCO's folders, and one of them."""
    rows = [{"image": {"bytes": (pictures / "0.png").read_bytes(), "path": None}, "text": "a"}]
    for split in ("train", "test"):
        parquet, images = tmp_path / "hub" / "default" / split, tmp_path / "images" / f"{split}2017"
        parquet.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), parquet / "0000.parquet")
        images.mkdir(parents=True)
        shutil.copy(pictures / "0.png", images / f"{split}.png")
    line = "warning: test and train are packed together; name one, as in"
    done = pack(tmp_path / "hub" / "default", "--out", tmp_path / "a")
    assert f"{line} '{tmp_path}/hub/default/train'" in done.out and f"{tmp_path}/hub/default (2 files)" in done.out
    assert line not in pack(tmp_path / "hub" / "default" / "train", "--out", tmp_path / "b").out
    done = pack(tmp_path / "hub", "--out", tmp_path / "c", expect=2)
    assert f"its parquets are in folders below; name one of these, such as {tmp_path}/hub/default/test" in done.err
    done = pack(tmp_path / "images", "--out", tmp_path / "d")
    assert f"{line} '{tmp_path}/images/train2017'" in done.out
    for split in ("train", "test"):
        folder = tmp_path / "images" / f"{split}2017"
        (folder / "metadata.jsonl").write_text(json.dumps({"file_name": f"{split}.png", "text": "a"}))
    done = pack(tmp_path / "images", "--out", tmp_path / "e")
    assert f"{line} '{tmp_path}/images/train2017'" in done.out and "2 images, 2 raw captions" in done.out
