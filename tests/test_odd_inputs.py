"""Odd images, keys, labels and layouts of data, each of which ended a tool once, or went wrong in silence."""

import io
import json
import struct
import tarfile
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from open_clip_fff.data.data_sets import braces
from open_clip_fff.data.images import open_image, read_image, to_rgb
from open_clip_fff.data.preview import preview_sets
from open_clip_fff.data.shards import SkippedSample, read_samples
from open_clip_fff.data.sidecar import Sidecar
from open_clip_fff.data.sources import caption_texts, listed_texts
from open_clip_fff.errors import UsageError
from open_clip_fff.tools.caption.cleaning import add_clean, flaw, words_of
from open_clip_fff.tools.caption.shard import with_captions
from open_clip_fff.tools.class_set import _images_of
from open_clip_fff.tools.pack.folder_files import UnusedFiles
from open_clip_fff.tools.pack.items import SkipSample, prepare_image
from open_clip_fff.tools.pack.settings import ImageSettings
from open_clip_fff.tools.sampling.draw import SampleDraw
from open_clip_fff.tools.shards.folder import ShardRecord
from open_clip_fff.tools.shards.per_sample import usable_batches
from tests.conftest import colour_image, colour_sample, write_tar
from tests.packing_sets import pack, pictures, samples  # noqa: F401
from tests.test_unusable_data import RAW

# ruff: noqa: F811


class Keyed(NamedTuple):
    """A sample with nothing but a key."""

    key: str


def exif(tag: int, kind: int, value: bytes) -> bytes:
    """Orientation 6, and a tag of a type that it should not have."""
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0), struct.pack("<HHI4s", tag, kind, len(value), value)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + b"".join(sorted(entries)) + struct.pack("<I", 0)


@pytest.mark.parametrize("tag", [0x011A, 0x0128, 0x0213], ids=["XResolution", "ResolutionUnit", "YCbCrPositioning"])
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_a_damaged_tag_does_not_keep_an_image_from_being_rotated(tag, kind):
    file = io.BytesIO()
    Image.effect_noise((64, 48), 50).convert("RGB").save(file, kind, exif=exif(tag, 2, b"abc\0"))
    small = Image.open(io.BytesIO(prepare_image(file.getvalue(), ImageSettings(resize=24)).content))
    assert small.size == (24, 32)


def test_an_image_that_training_refuses_is_left_out_unless_it_becomes_smaller():
    file = io.BytesIO()
    Image.new("1", (9500, 9500)).save(file, "png")
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(SkipSample, match="89,478,485 pixels: --resize"):
        prepare_image(file.getvalue(), ImageSettings())
    with pytest.warns(Image.DecompressionBombWarning):
        assert prepare_image(file.getvalue(), ImageSettings(resize=16)).reencoded


def test_half_an_emoji_in_a_json_that_gets_captions():
    made = with_captions({"json": b'{"caption": "a cat \\ud83d"}'}, ["a cat"], "blip")
    assert json.loads(made["json"]) == {"caption": "a cat ?", "blip": ["a cat"]}


def latin_tar(path, *names):
    """A tar whose names are not UTF-8."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        for name in names:
            content = colour_image("red", 0) if name.endswith("png") else b"a cafe"
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_keys_that_are_not_utf_8(pack, tmp_path):
    tar = latin_tar(tmp_path / "0.tar", "caf\xe9.png", "caf\xe9.txt", "th\xe9.txt", "b.png", "b.txt")
    assert "2 images, 2 raw captions" in pack(tar, "--out", tmp_path / "out").out
    left_out = json.loads((tmp_path / "out" / "records" / "0.json").read_text())["left_out"]
    assert [each["key"] for each in left_out] == ["th\\udce9"]
    record = ShardRecord("0.tar")
    keyed = (Keyed(x["__key__"]) for x in read_samples([str(tar)]))
    found = [x.key for some in usable_batches(keyed, 2, record, lambda _: None) for x in some]
    assert found == ["b"] and [each.why for each in record.left_out] == ["its key is not UTF-8"] * 2


def test_a_key_that_comes_twice_is_the_first_samples_even_if_that_is_skipped():
    record, found = ShardRecord("0.tar"), iter([SkippedSample("a", "no image"), Keyed("a"), Keyed("b")])
    assert list(usable_batches(found, 3, record, lambda _: None)) == [[Keyed("b")]]
    assert [each.why for each in record.left_out] == ["no image", "its key was there before"]


def test_vowel_signs_are_letters():
    boy, girl = "एक लड़का दौड़ता है", "एक लड़की दौड़ती है"
    assert words_of(boy) != words_of(girl) and len(words_of(boy)) == 4
    assert add_clean([], [boy, girl], 5)[0] == [boy, girl] and flaw("काकी की किताब") is None


def test_whole_numbers_beside_missing_ones_are_labels(pack, pictures, tmp_path):
    table = pd.DataFrame({"image": [f"pics/{n}.png" for n in range(3)], "caption": "x", "label": [10, 2, None]})
    table.to_parquet(tmp_path / "table.parquet")
    pack(tmp_path / "table.parquet", "--out", tmp_path / "out", "--class-key", "label")
    assert sorted(x["cls"] for x in samples(tmp_path / "out" / "00000.tar") if "cls" in x) == [b"10", b"2"]
    write_tar(tmp_path / "csv.tar", {str(n): {**colour_sample(n), "cls": f"{n}.0".encode()} for n in (2, 10)})
    assert _images_of(str(tmp_path / "csv.tar"), "cls", UnusedFiles())[1] == ["10", "2"]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ((1.0, 1.0), "floats"),
        ((0.0, 65_535.0), "floats"),
        ((-1.0, 255.0), "floats"),
        ((0.0, float("nan")), "floats"),
        ((0, 256), "32-bit integers"),
        ((-1, 255), "32-bit integers"),
    ],
)
def test_values_whose_scale_nobody_knows_are_no_image(pack, pictures, trainer, tmp_path, values, kind, capsys):
    rows = ["image,caption"]
    for number in range(4):
        path, two = pictures / f"{number}.tif", values if number else (0, 255)
        Image.fromarray(np.resize(two, (8, 8)).astype(np.float32 if kind == "floats" else np.int32)).save(path)
        rows.append(f"{path},a cat")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    done = pack(tmp_path / "table.csv", "--out", tmp_path / "out")
    assert "1 image" in done.out and f"left out: 3 × its values are {kind}, and not from 0 to 255" in done.out
    (kept,) = samples(tmp_path / "out" / "00000.tar")
    assert np.asarray(Image.open(io.BytesIO(kept["jpg"]))).max() > 250
    (tmp_path / "bad.csv").write_text("\n".join([rows[0], *rows[2:]]))
    keys = ["--csv-separator", ",", "--csv-img-key", "image", "--csv-caption-key", "caption"]
    assert trainer("--method", "clip", *keys, data=["--train-data", str(tmp_path / "bad.csv")]) == 2
    assert f"none of the first images can be read (its values are {kind}, and not" in capsys.readouterr().err


def test_a_tiff_of_12_bits_is_scaled_by_them():
    grey = np.arange(0, 4096, 64)
    packed = int("".join(f"{value:012b}" for value in grey), 2).to_bytes(96)
    tags = {256: 8, 257: 8, 258: 12, 259: 1, 262: 1, 273: 8 + 2 + 12 * 9 + 4, 277: 1, 278: 8, 279: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    content = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + packed
    packed_again = read_image(prepare_image(content, ImageSettings()).content)
    for image, error in ((to_rgb(open_image(content, formats=("TIFF",))), 0), (packed_again, 4)):
        assert np.abs(np.asarray(image)[..., 0] - (grey >> 4).reshape(8, 8)).max() <= error


def test_excels_first_line_of_a_csv(pack, pictures, tmp_path):
    (tmp_path / "table.csv").write_text("sep=;\nimage;caption\npics/0.png;a cat\n")
    done = pack(tmp_path / "table.csv", "--out", tmp_path / "out", expect=2)
    assert "table.csv begins with Excel's line on the separator, sep=, and not with names; drop that line" in done.err


def test_captions_in_a_folders_json_that_no_flag_names(pack, pictures, tmp_path):
    for number in range(3):
        blip = {"blip": f"a picture {number}"} if number else {}
        (pictures / f"{number}.json").write_text(json.dumps({"captions": ["own one", "own two"], **blip}))
    done = pack(pictures, "--out", tmp_path / "out", "--json-text-key", "blip")
    assert "2 captions in json" in done.out and "unused_captions in 3" in done.out
    first, second, *_ = samples(*sorted((tmp_path / "out").glob("*.tar")))
    assert first["json"] == {"unused_captions": ["own one", "own two"]}
    assert second["json"] == {
        "blip": "a picture 1",
        "captions": ["a picture 1"],
        "unused_captions": ["own one", "own two"],
    }


@pytest.mark.parametrize(
    "cell", ['["a cat", "a dog"]\0\0', '\ufeff["a cat", "a dog"]', b"\xef\xbb\xbf['a cat', 'a dog']"]
)
def test_a_list_with_padding_is_a_list(cell):
    assert caption_texts(cell) == listed_texts(cell) == ["a cat", "a dog"]


@pytest.mark.parametrize("cell", ['[""]', "['']", "[null]", "[None]", "[ ]", "[]", '["", null]', "[nan nan]"])
def test_a_list_of_nothing_is_no_caption(cell):
    assert listed_texts(cell) == [] and listed_texts("[1, 2]") == ["[1, 2]"] and listed_texts("[sic]") == ["[sic]"]


def test_one_table_does_not_join_shards_that_share_keys(pack, tmp_path):
    for name, first in (("a0", 0), ("a1", 2), ("b0", 0), ("b1", 2)):
        write_tar(tmp_path / f"{name}.tar", {str(n): colour_sample(n) for n in (first, first + 1)})
    pd.DataFrame({"key": list("0123"), "caption": [f"caption {n}" for n in range(4)]}).to_csv(tmp_path / "t.csv")
    flags = ["--captions", tmp_path / "t.csv", "--out", tmp_path / "out"]
    assert "is a key of" in pack(tmp_path / "{a,b}{0,1}.tar", *flags, expect=2).err
    assert "captions joined 100.00%" in pack(tmp_path / "{a0,b1}.tar", *flags).out


@pytest.mark.parametrize(
    "kind", [pa.dictionary(pa.int32(), pa.binary()), pa.list_(pa.binary(), 1)], ids=["dictionary", "fixed-size list"]
)
def test_images_in_columns_of_other_types(pack, tmp_path, kind):
    images = [colour_image("red", n) for n in range(3)]
    cells = pa.array([[image] for image in images], kind) if pa.types.is_fixed_size_list(kind) else pa.array(images)
    cells = cells if cells.type == kind else cells.dictionary_encode()
    pq.write_table(pa.table({"image": cells, "text": ["a", "b", "c"]}), tmp_path / "t.parquet")
    assert "3 images" in pack(tmp_path / "t.parquet", "--out", tmp_path / "out").out


@pytest.mark.parametrize(
    "document",
    [
        {"images": [{"filename": f"{n}.png", "filepath": "pics", "sentences": ["a cat"]} for n in range(3)]},
        [{"image": f"pics/{n}.png", "conversations": [{"from": ["gpt"], "value": "a"}], "caption": "b"} for n in "012"],
    ],
    ids=["sentences without objects", "a speaker that is a list"],
)
def test_other_forms_of_json(pack, pictures, tmp_path, document):
    (tmp_path / "t.json").write_text(json.dumps(document))
    assert "3 samples in" in pack(tmp_path / "t.json", "--out", tmp_path / "out").out


def test_a_json_that_is_nested_too_deep(pack, tmp_path):
    (tmp_path / "t.json").write_text('[{"image": "a.png"}, ' + "[" * 200_000)
    assert "cannot be read as json" in pack(tmp_path / "t.json", "--out", tmp_path / "out", expect=2).err


def test_names_of_shards_as_training_reads_them():
    assert braces(["00000", "00001", "a", "00007"]) == ["{00000..00001}", "a", "00007"]


def test_an_empty_first_shard_is_passed_over(tmp_path):
    write_tar(tmp_path / "0.tar", {})
    write_tar(tmp_path / "1.tar", {"a": colour_sample(0)})
    (preview,) = preview_sets(str(tmp_path / "{0,1}.tar"), RAW)
    assert preview.rows == 1 and preview.name == "1.tar"


@pytest.mark.parametrize("seed", range(8))
def test_a_draw_from_a_shard_that_is_cut_short_says_so(tmp_path, seed):
    whole = write_tar(tmp_path / "whole.tar", {f"{n:02d}": colour_sample(n) for n in range(20)}).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    draw = SampleDraw([str(tmp_path / "cut.tar")], 2, seed)
    assert 1 <= len(list(draw)) <= 2 and "cut.tar is left out from where it cannot be read" in "".join(draw.warnings())


def test_urls_join_without_the_spaces_around_them(pack, tmp_path):
    fields = [json.dumps({"url": f"http://x/{n}.jpg" + " " * (n == 1)}).encode() for n in range(3)]
    write_tar(tmp_path / "0.tar", {str(n): {**colour_sample(n), "json": fields[n]} for n in range(3)})
    urls = [f"http://x/{n}.jpg" + " " * (n == 1) for n in range(3)]
    pd.DataFrame({"url": urls, "caption": ["c 0", "c 1", "c 2"]}).to_parquet(tmp_path / "t.parquet")
    flags = ["--captions", tmp_path / "t.parquet", "--join", "url", "--out", tmp_path / "out"]
    assert "captions joined 100.00% of 3 samples" in pack(tmp_path / "0.tar", *flags).out


def test_columns_of_one_name(tmp_path):
    table = pa.table([["a"], ["x"], ["y"]], names=["key", "captions", "captions"])
    pq.write_table(table, tmp_path / "0.parquet")
    with pytest.raises(UsageError, match="has several columns of that name"):
        Sidecar(str(tmp_path), ("captions",)).check("0.tar")
