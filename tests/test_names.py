"""Names that people type, of columns, json fields and members, with spaces around them as they stand in real files."""
# ruff: noqa: F811

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.config.name_lists import find_name, split_names
from open_clip_fff.data.preview import preview_shard
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.data.table_columns import table_columns
from open_clip_fff.errors import UsageError
from open_clip_fff.plural import plural
from tests import recorder
from tests.conftest import colour_sample, write_tar
from tests.packing_sets import csv, pack, pictures, refused, samples  # noqa: F401
from tests.recorder import RECORDED


def test_a_list_is_split_and_spaces_stay():
    assert split_names("title; comment;;a ; ") == ("title", " comment", "a ") and split_names(" ; ") == ()


@pytest.mark.parametrize(
    ("typed", "there", "found"),
    [
        (" comment", ["image", " comment"], " comment"),
        ("comment", ["image", " comment"], " comment"),
        (" blip", ["title", "blip"], "blip"),  # of 'title; blip'
        ("comment", [" comment", "comment"], "comment"),
        ("comment", [" comment", "comment "], None),
        ("Comment", ["comment"], None),
    ],
)
def test_the_exact_name_wins_and_spaces_may_differ_where_one_is_meant(typed, there, found):
    assert find_name(typed, there) == found


@pytest.fixture
def flickr(pictures):
    """Flickr30k's results.csv in small."""
    rows = [f"{pictures}/{number}.png| {turn}| img {turn} .\n" for number in range(8) for turn in range(2)]
    path = pictures.parent / "results.csv"
    path.write_text("image_name| comment_number| comment\n" + "".join(rows))
    return path


@pytest.mark.parametrize(
    ("column", "note"),
    [(" comment", ""), ("comment", "  --csv-caption-key comment: read from the column ' comment'\n")],
    ids=["exact", "bare"],
)
def test_training_reads_a_csv_column_whose_name_begins_with_a_space(trainer, flickr, capsys, column, note):
    data = ["--train-data", str(flickr), "--csv-separator", "|", "--csv-img-key", "image_name"]
    data += ["--csv-caption-key", column, "--val-data", str(flickr)]
    loss = [
        "--loss",
        "fff",
        "--mining-features",
        "online",
        "--mining-warmup",
        "2",
        "--batch-size",
        "4",
        "--class-key",
        "comment_number",
    ]
    assert trainer("--name", "x", *loss, *RECORDED, data=data) == 0
    assert sum(recorder.rows().values()) == 16
    assert recorder.rows() == recorder.rows_of(*[[f"img {k} ."] for k in (0, 1)] * 8)
    assert note in (said := capsys.readouterr().out)
    assert ("read from the column ' comment'" in said) == bool(note)
    assert "--class-key comment_number: read from the column ' comment_number'" in said


def test_a_csv_with_two_columns_of_a_name_is_read_by_the_first_with_a_warning(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("image,title,title\n0.png,the first,the second\n")
    found = table_columns(str(path), ",", "image", CaptionSettings(text_keys=("title",)))
    assert found.captions.text_keys == ("title",)
    note = f"warning: --csv-caption-key title: {path} has several columns of this name; the first is read"
    assert found.notes == [note]


def test_openclip_alone_still_trains_with_these_flags(trainer, flickr):
    data = ["--train-data", str(flickr), "--csv-separator", "|", "--csv-img-key", "image_name"]
    assert trainer("--name", "x", "--batch-size", "4", data=[*data, "--csv-caption-key", " comment"]) == 0
    assert "Train Epoch: 0 [16/16" in trainer.log("x")


def test_an_error_line_shows_spaces(trainer, flickr, capsys):
    data = ["--train-data", str(flickr), "--csv-separator", "|", "--csv-img-key", "image_name"]
    assert trainer("--name", "x", "--method", "clip", data=[*data, "--csv-caption-key", "coment"]) == 2
    line = capsys.readouterr().err
    assert "(did you mean ' comment'?); it has image_name, ' comment_number', ' comment' (read with" in line


def test_json_fields_members_and_classes_may_have_spaces(tmp_path):
    fields = {" blip ": ["a", "b"], " meta": {"text ": "c"}, " kind": 3}
    sample = {"__url__": "x.tar", "__key__": "k", "txt": b"raw", "json": json.dumps(fields).encode()}
    captions = CaptionSettings(
        per_image=9,
        policy="all",
        text_keys=split_names("title; txt"),
        json_keys=split_names("blip; meta.text; re:.*bli.*"),
        class_key="kind",
    )
    reader = CaptionReader(captions)
    found, damage = reader.read(sample)
    assert not damage and list(found.values()) == [[], ["raw"], ["a", "b"], ["c"], ["a", "b"]]
    assert reader.row(sample).label == 3


def test_a_sidecar_column_may_have_spaces(tmp_path):
    shard = write_tar(tmp_path / "00.tar", {f"{row}": colour_sample(row) for row in range(3)})
    rows = [{"key": f"{row}", " long ": [f"long {row}"]} for row in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "00.parquet")
    settings = CaptionSettings(per_image=2, policy="all", sidecar=str(tmp_path), sidecar_keys=("long",))
    preview = preview_shard(str(shard), settings)
    assert preview.captions == {"txt": 3, "sidecar:long": 3}
    assert preview.notes == ["--sidecar-text-key long: read from the column ' long '"]
    with pytest.raises(UsageError, match=r"--sidecar-text-key lang: .*did you mean ' long '"):
        preview_shard(str(shard), CaptionSettings(sidecar=str(tmp_path), sidecar_keys=("lang",)))


def test_packing_finds_columns_with_spaces(pack, refused, flickr, tmp_path):
    flags = ["--csv-separator", "|", "--group", "--url-key", "comment_number"]
    done = pack(flickr, "--out", tmp_path / "a", "--image-key", "image_name", "--caption-key", " comment", *flags)
    assert "--caption-key" not in done.out  # nothing to say of a name that is there as typed
    assert "--url-key comment_number: read from the column ' comment_number'" in done.out
    found = samples(tmp_path / "a" / "00000.tar")
    assert len(found) == 8 and {x["txt"] for x in found} == {b"img 0 ."}
    assert found[0]["json"] == {"url": "0", "captions": ["img 1 ."]}
    done = pack(flickr, "--out", tmp_path / "b", *flags)
    assert "images by `image_name` (guessed" in done.out and "captions by ` comment` (guessed" in done.out
    assert (tmp_path / "a" / "00000.tar").read_bytes() == (tmp_path / "b" / "00000.tar").read_bytes()
    line = refused(flickr, "--csv-separator", "|", "--keep-columns", "coment")
    assert "(did you mean ' comment'?); it has image_name, ' comment_number', ' comment'" in line


def test_captions_that_join_may_stand_in_columns_with_spaces(pack, tmp_path):
    write_tar(tmp_path / "0.tar", {"k": colour_sample(0)})
    csv(tmp_path / "new.csv", [("key ", " text"), ("k", "new")])
    flags = ["--captions", tmp_path / "new.csv", "--caption-key", "text"]
    done = pack(tmp_path / "0.tar", "--out", tmp_path / "out", *flags)
    assert "--caption-key text: read from the column ' text'" in done.out
    assert samples(tmp_path / "out" / "0.tar")[0]["json"]["captions"] == ["a red square", "new"]


def test_one_is_singular():
    things = ["images", "raw captions", "captions in json", "classes", "copies", "batches", "dropped as wordless"]
    assert [plural(1, x) for x in things] == [
        *("1 image", "1 raw caption", "1 caption in json", "1 class", "1 copy", "1 batch", "1 dropped as wordless"),
    ]
    assert plural(0, "images") == "0 images" and plural(2_000, "rows joined") == "2,000 rows joined"
    assert [plural(1, x) for x in ("without a caption", "with captions joined")] == [
        *("1 without a caption", "1 with captions joined"),
    ]
