"""Captions from tars to tokens: identity, serialized rows, sources, policies, masks, the preview."""

import dataclasses
import hashlib
import json

import numpy as np
import open_clip_train.data as oc_data
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import default_collate

from open_clip_fff import CaptionBatch, caption_id, sample_id
from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.data import preview as preview_module
from open_clip_fff.data.caption_rows import CaptionRow, deserialize, serialize
from open_clip_fff.data.counters import DAMAGE, LoaderCounters
from open_clip_fff.data.ids import NO_ID, key_id
from open_clip_fff.data.preview import preview_csv, preview_shard
from open_clip_fff.data.preview_text import preview_lines
from open_clip_fff.data.shards import id_of
from open_clip_fff.data.sidecar import BATCH, Sidecar
from open_clip_fff.data.sources import CaptionReader, caption_texts, fields_of
from open_clip_fff.data.tokens import CaptionTokenizer, OneCaptionTokenizer
from open_clip_fff.errors import UsageError
from open_clip_fff.host.loader.data import _csv_dataset
from open_clip_fff.host.report.coverage import caption_line, check_coverage
from tests.conftest import colour_image, write_tar

ALL = CaptionSettings(3, "all", ("txt", "caption"), ("captions", "blip2"))


def tokenizer(texts: list[str]) -> torch.Tensor:
    """Length and first character, in three tokens."""
    return torch.tensor([[len(text), ord(text[0]) if text else 0, 0] for text in texts])


def test_ids_are_63_bits_of_blake2b_of_the_image_that_is_decoded():
    digest = hashlib.blake2b(b"an image").digest()
    expected = int(bin(int.from_bytes(digest, "big"))[2:].zfill(512)[:63], 2)
    assert sample_id(b"an image") == expected and torch.tensor(expected).dtype == torch.int64
    # OpenCLIP decodes the jpg where there are several; names and captions say nothing
    assert id_of({"__url__": "a/0.tar", "__key__": "1", "png": b"other", "jpg": b"an image"}) == expected
    assert id_of({"__url__": "b/7.tar", "__key__": "2", "png": b"an image", "txt": b"a cat"}) == expected
    assert id_of({"__url__": "b/7.tar", "__key__": "2", "txt": b"a cat"}) == sample_id(None) == NO_ID
    assert sample_id("a/b.jpg") != sample_id("b.jpg")
    assert caption_id(expected, "a cat")[0] == expected and caption_id(1, "a cat") != caption_id(1, "a dog")


def test_an_envelope_opens_to_what_was_sealed_and_plain_text_has_no_id():
    row = CaptionRow(123, ["a “quoted” caption", '{"json": 1}', "ünïcode"], 2)
    assert deserialize(serialize(row)) == row
    plain = '{"a": "plain caption that looks like json"}'
    assert deserialize(plain) == CaptionRow(-1, [plain], 1)


def sample(**members: bytes) -> dict:
    return {"__url__": "x/00.tar", "__key__": "7", "jpg": b"...", **members}


def test_every_non_empty_value_joins_text_keys_first_up_to_k():
    tar = sample(txt=b" raw \n", json=b'{"captions": ["one", "", "  two "], "blip2": "three"}')
    assert CaptionReader(ALL).read(tar).found == {
        "txt": ["raw"],
        "caption": [],
        "json:captions": ["one", "two"],
        "json:blip2": ["three"],
    }
    assert CaptionReader(ALL).row(tar) == CaptionRow(sample_id(b"..."), ["raw", "one", "two"], 1)


@pytest.mark.parametrize(
    "value", [b'{"captions": null}', b'{"captions": 3}', b'{"captions": {"a": "b"}}', b'{"x": ["y"]}', b"{}"]
)
def test_what_is_no_caption_joins_nothing(value):
    assert CaptionReader(ALL).row(sample(json=value)).captions == []


def test_a_string_is_one_caption_and_not_its_characters():
    assert CaptionReader(ALL).row(sample(json=b'{"captions": "a cat"}')).captions == ["a cat"]


def test_a_list_of_captions_in_a_cell_is_read_as_it_was_printed():
    """pandas writes lists into a CSV as Python prints them, and arrays as numpy does."""
    many = ["a cat", 'it\'s "one"', "two\nlines é", "\\"]
    for cell in (str(many), json.dumps(many), str(np.array(many, object)), repr(many).replace("', ", "'\n ")):
        assert caption_texts(cell) == many, cell
    assert caption_texts(str(["a", None, float("nan")])) == ["a"]
    for text in ("[OC] a 'cat'", "['a', b]", "['a", "[]]", "__import__('os')", "[__import__('os').system('x')]"):
        assert caption_texts(text) == [text]
    assert caption_texts("['a'" + " " * 100_000) == ["['a'"]  # at once
    assert caption_texts('{"en": "a cat"}') == ['{"en": "a cat"}']  # told by pack


def test_a_list_of_captions_in_a_fields_text_is_a_list():
    """img2dataset writes the columns of a CSV into its json as they are there, as strings."""
    many = ["a cat", "it's b"]
    for text in (str(many), json.dumps(many)):
        assert CaptionReader(ALL).row(sample(json=json.dumps({"captions": text}).encode())).captions == many
        assert CaptionReader(ALL).row(sample(txt=text.encode())).captions == many == caption_texts([text])
    for text, captions in (("[]", []), ("[[0.5]]", ["[[0.5]]"]), ("[UNK] 'x'", ["[UNK] 'x'"])):
        assert CaptionReader(ALL).row(sample(json=json.dumps({"captions": text}).encode())).captions == captions


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1, 2]", b'"a cat"', b"[" * 10**5])
def test_json_that_is_none_names_the_sample_and_costs_its_own_captions_only(content):
    settings = CaptionSettings(9, "all", json_keys=("captions", "syn.json:syn_text"))
    members = {"txt": b"raw", "json": content, "syn.json": b'{"syn_text": ["one"]}'}
    found, damage = CaptionReader(settings).read(sample(**members))
    assert found == {"txt": ["raw"], "json:captions": [], "syn.json:syn_text": ["one"]}
    assert len(damage) == 1 and damage[0].startswith("x/00.tar: 7.json cannot be read (")


def read(json: bytes, **settings) -> list[str]:
    settings = {"text_keys": (), "json_keys": ("captions",), **settings}
    return CaptionReader(CaptionSettings(9, "all", **settings)).row(sample(json=json)).captions


def test_fields_by_path_and_by_pattern():
    nested = (
        b'{"meta": {"captions": ["a", "b"], "n": 3}, "c": [{"text": "x", "score": 1}, {"text": "y"}], "a.b": "dot"}'
    )
    assert read(nested, json_keys=("meta.captions",)) == ["a", "b"]
    assert read(nested, json_keys=("c.text", "a.b")) == ["x", "y", "dot"]
    assert read(nested, json_keys=("meta.other", "meta.n.deeper", "c.text.more")) == []
    flair = b'{"raw_caption": "r", "shortIB_captions": "s1", "shortSV_captions": "s2", "longIB_captions": "l"}'
    assert read(flair, json_keys=("re:short.*_captions",)) == ["s1", "s2"]
    assert read(flair, json_keys=("re:.*",)) == ["r", "s1", "s2", "l"]
    for key in ("re:(", "syn.json:re:("):
        with pytest.raises(ValueError, match="no regular expression"):
            CaptionSettings(json_keys=(key,))


def test_a_field_may_be_of_another_json_member():
    keys = ("syn.json:syn_text", "json:title", "dc:title", "re:(?:a|b)", "syn.json:re:s.*", "paug.json:param_aug")
    settings = CaptionSettings(9, "all", text_keys=(), json_keys=keys)
    tar = sample(
        json=b'{"title": "t", "dc:title": "d", "b": "b", "syn_text": "not this"}',
        **{"syn.json": b'{"syn_text": ["one", "two"], "title": "not this"}', "paug.json": b'{"param_aug": "[[0.5]]"}'},
    )
    assert CaptionReader(settings).read(tar).found == {
        "syn.json:syn_text": ["one", "two"],
        "json:title": ["t"],
        "json:dc:title": ["d"],  # a colon of the field's own
        "json:re:(?:a|b)": ["b"],
        "syn.json:re:s.*": ["one", "two"],
        "paug.json:param_aug": ["[[0.5]]"],
    }
    assert settings.sources == tuple(CaptionReader(settings).read(tar).found)


def test_long_captions_are_cut_into_sentences_and_raw_ones_are_not():
    long = "A dog runs. It is 3.5 m long!  Is it brown? Yes"
    content = b'{"captions": ["' + long.encode() + b'"]}'
    cut = ["A dog runs.", "It is 3.5 m long!", "Is it brown?", "Yes"]
    assert read(content) == [long] and read(content, split_sentences=True) == cut
    settings = CaptionSettings(9, "all", json_keys=("captions",), split_sentences=True)
    assert CaptionReader(settings).row(sample(txt=b"One. Two.", json=content)).captions == ["One. Two.", *cut]


def test_captions_of_too_few_or_too_many_words_are_left_out():
    content = b'{"captions": ["one", "one two", "one two three", "1 2 3 4 5"]}'
    assert read(content, words=(2, 3)) == ["one two", "one two three"]
    assert read(content, words=(3, None)) == ["one two three", "1 2 3 4 5"]
    # after sentences are cut, and before K are taken
    assert read(b'{"captions": "Hi. A longer one."}', split_sentences=True, words=(2, None)) == ["A longer one."]
    with pytest.raises(ValueError, match="nothing fits"):
        CaptionSettings(words=(5, 4))


def write_sidecar(folder, stem: str, rows: dict) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(rows), folder / f"{stem}.parquet")


def test_a_sidecar_joins_by_shard_and_key(tmp_path):
    write_sidecar(tmp_path, "00", {"key": ["7", "8"], "captions": [["p", "", "q"], ["r"]], "one": ["s", None]})
    write_sidecar(tmp_path, "01", {"key": ["7"], "captions": [["other"]], "one": ["t"]})
    settings = CaptionSettings(9, "all", sidecar=str(tmp_path), sidecar_keys=("captions", "one"))
    reader = CaptionReader(settings)
    assert settings.sources == ("txt", "sidecar:captions", "sidecar:one")

    def captions(url: str, key: str) -> list[str]:
        return reader.row({**sample(txt=b"raw"), "__url__": url, "__key__": key}).captions

    assert captions("s3://b/00.tar", "7") == ["raw", "p", "q", "s"]
    assert captions("s3://b/00.tar", "8") == ["raw", "r"]
    assert captions("s3://b/01.tar", "7") == ["raw", "other", "t"]  # the same key in another shard
    assert captions("s3://b/00.tar", "nine") == captions("s3://b/02.tar", "7") == ["raw"]


def test_ragged_rows_are_padded_with_the_empty_string_and_masked():
    make = CaptionTokenizer(tokenizer, ALL, {})
    (row,) = make(serialize(CaptionRow(5, ["abc", "de"])))
    assert row.tokens[:, 0].tolist() == [3, 2, 0]
    assert row.valid.tolist() == [True, True, False] and row.ids.item() == 5
    assert make(serialize(CaptionRow(5, ["abc", "de"], raw=1)))[0].raw.tolist() == [True, False, False]
    (csv_row,) = make([serialize(CaptionRow(5, ["abc", "de"]))])  # OpenCLIP's CSV data set hands over a list
    assert torch.equal(csv_row.tokens, row.tokens)


def test_policies():
    text = serialize(CaptionRow(5, ["abc", "de", "fghi"]))
    first = CaptionTokenizer(tokenizer, CaptionSettings(3, "first"), {})(text)[0]
    assert first.tokens.shape == (1, 3) and first.tokens[0, 0] == 3
    torch.manual_seed(0)
    drawn = [
        CaptionTokenizer(tokenizer, CaptionSettings(3, "sample"), {})(text)[0].tokens[0, 0].item() for _ in range(99)
    ]
    one = CaptionTokenizer(tokenizer, CaptionSettings(3, "sample"), {})
    rows = [one(serialize(CaptionRow(5, ["abc", "de"], raw=1)))[0] for _ in range(20)]
    assert {(row.tokens[0, 0].item(), row.raw.item()) for row in rows} == {(3, True), (2, False)}
    assert set(drawn) == {2, 3, 4} and min(map(drawn.count, (2, 3, 4))) > 20
    weighed = serialize(CaptionRow(5, ["abc", "de", "fghi"], raw=1))
    rare = CaptionTokenizer(tokenizer, CaptionSettings(3, "sample", raw_weight=0.25), {})
    drawn = [rare(weighed)[0].tokens[0, 0].item() for _ in range(999)]
    assert drawn.count(3) / 999 == pytest.approx(0.25 / 2.25, abs=0.03) and drawn.count(2) > 390
    never = OneCaptionTokenizer(tokenizer, CaptionSettings(3, "sample", raw_weight=0.0))
    assert {never(weighed)[0, 0].item() for _ in range(99)} == {2, 4}
    assert never(serialize(CaptionRow(5, ["abc"], raw=1)))[0, 0] == 3  # nothing else is there
    plain = OneCaptionTokenizer(tokenizer, CaptionSettings(3, "sample"))(text)
    assert plain.shape == (1, 3)
    assert OneCaptionTokenizer(tokenizer, CaptionSettings())(text)[0, 0] == 3


def test_extra_tokenizers_ride_along():
    row = CaptionTokenizer(tokenizer, ALL, {"mining_tokens": lambda texts: tokenizer(texts) + 1})(
        serialize(CaptionRow(5, ["abc"]))
    )[0]
    assert torch.equal(row.extras["mining_tokens"], row.tokens + 1)


def test_rows_collate_to_a_batch_that_moves():
    rows = [CaptionTokenizer(tokenizer, ALL, {"more": tokenizer})(serialize(CaptionRow(i, ["a"])))[0] for i in range(4)]
    images, batch = default_collate([(torch.zeros(3, 2, 2), row) for row in rows])
    assert images.shape == (4, 3, 2, 2) and isinstance(batch, CaptionBatch)
    assert batch.tokens.shape == (4, 3, 3) and batch.valid.shape == (4, 3) and batch.ids.tolist() == [0, 1, 2, 3]
    moved = batch.to(device="meta", non_blocking=True)
    assert moved.tokens.is_meta and moved.valid.is_meta and moved.raw.is_meta and moved.extras["more"].is_meta


def test_the_preview_counts_and_shows(shards):
    settings = CaptionSettings(3, "all", ("txt",), ("captions", "title"))
    preview = preview_shard(str(shards / "00.tar"), settings)
    assert (preview.rows, preview.longest, preview.images, preview.empty) == (16, 6, 16, 0)
    assert preview.captions == {"txt": 16, "json:captions": 40, "json:title": 16}
    assert preview.used == 16 * 3
    lines = preview_lines([preview], settings)
    assert lines[0] == "Captions in 00.tar, 16 rows:"
    assert "    2 'a red square'" in lines and "    and 2 more, beyond K" in lines
    assert preview_shard(str(shards / "00.tar"), settings, limit=4).rows == 4


def test_the_preview_ends_where_all_is_found(tmp_path, shards, monkeypatch):
    monkeypatch.setattr(preview_module, "ENOUGH", 4)
    url, found = str(shards / "00.tar"), CaptionSettings(3, "all", ("txt",), ("captions",))
    assert preview_shard(url, found).rows == 4
    for lacks in ({"per_image": 99}, {"json_keys": ("captions", "nothing")}, {"class_key": "nothing"}):
        assert preview_shard(url, dataclasses.replace(found, **lacks)).rows == 16
    (tmp_path / "image.png").write_bytes(colour_image("red", 1))
    (tmp_path / "a.csv").write_text("image,text\n" + f"{tmp_path}/image.png,a square\n" * 9)
    preview = preview_csv(str(tmp_path / "a.csv"), ",", "image", settings := CaptionSettings(1, "all", ("text",)))
    assert (preview.rows, preview.images, preview.empty) == (4, 4, 0)
    again = (
        "  8 rows with the image of an earlier one: open-clip-fff pack --group makes one sample of all rows of an image"
    )
    assert again in preview_lines([preview], settings)


def test_no_value_of_a_csv_is_a_caption_or_a_key(tmp_path, monkeypatch):
    """Nor is an image's name 007 the number 7."""
    images, texts = ["007", "8", "9", "10", "11"], ["a", "null", "NA", "nan", ""]
    for image in images:
        (tmp_path / image).write_bytes(colour_image("red", 1))
    rows = [",".join((image, text, text)) for image, text in zip(images, texts, strict=True)]
    (tmp_path / "a.csv").write_text("\n".join(["image,text,key", *rows]))
    settings = CaptionSettings(1, "all", ("text",), positive_key="key")
    monkeypatch.chdir(tmp_path)
    preview = preview_csv("a.csv", ",", "image", settings)
    dataset = _csv_dataset(oc_data.CsvDataset, settings, "a.csv", None, sep=",", img_key="image", caption_key="text")
    assert (preview.rows, preview.usable, preview.empty) == (5, 1, 4)
    found = [deserialize(text) for text in dataset.captions]
    assert list(dataset.images) == ["007"] and [(row.captions, row.key) for row in found] == [(["a"], key_id("a"))]


def test_the_preview_shows_repeats_and_empty_rows(tmp_path):
    same = {"png": colour_image("red", 1), "txt": b"a\nb", "json": b'{"captions": ["a\\nb"]}'}
    write_tar(tmp_path / "a.tar", {"1": same, "2": {"png": b"x", "json": b'{"captions": []}'}})
    settings = CaptionSettings(2, "all", ("txt",), ("captions",))
    lines = "\n".join(preview_lines([preview_shard(str(tmp_path / "a.tar"), settings)], settings))
    assert "1.00 captions per image of K = 2, of 2.0 words; the longest row has 2" in lines
    assert "have more words than" not in lines
    cut = preview_lines([preview_shard(str(tmp_path / "a.tar"), settings)], settings, tokens=3)
    assert "  100.0% of these have more words than the text tower has tokens (3): they are cut; --split" in "\n".join(
        cut
    )
    assert "1 row with a caption of several lines: json has lists of captions" in lines
    assert "1 row without a caption: training skips such rows" in lines and "1 caption equal to an earlier one" in lines


def test_the_tally_reports_news_once():
    counters = LoaderCounters(["txt", "json:captions"])
    counters.count_damaged(DAMAGE[0])
    counters.count_row(CaptionRow(1, ["a b", "a b", "c"], raw=1), {"txt": ["a b"], "json:captions": ["a b", "c"]})
    counters.count_row(CaptionRow(2, [], raw=0), {"txt": [], "json:captions": []})
    news = counters.take()
    assert news == {
        **dict.fromkeys(DAMAGE, 0),
        DAMAGE[0]: 1,
        **{"rows": 2, "captions": 3, "raw": 1, "repeated": 1, "words": 5, "keys": 0},
        **{"source txt": 1, "source json:captions": 1},
    }
    settings = CaptionSettings(3, "all", json_keys=("captions",), min_coverage=0.6)
    assert caption_line(news, settings) == (
        "2 rows read, text in txt 50.00%, json:captions 50.00%; 1.50 captions per image, 33.3% of them raw, "
        "33.3% repeated, 1.7 words"
    )
    below = r"^--min-coverage 0\.6: in epoch 3, txt has text in 50\.00% of 2 rows; lower it to go on$"
    with pytest.raises(UsageError, match=below):
        check_coverage(news, settings, "epoch 3")
    assert not any(counters.take().values()) and caption_line(counters.take(), settings) is None


def test_of_several_raw_captions_as_many_are_counted_as_are_drawn():
    row = CaptionReader(CaptionSettings(1, "sample", ("txt", "caption"))).row(sample(txt=b"a", caption=b"b"))
    assert row.captions == ["a"] and row.raw == 1


def test_a_json_is_read_as_it_is_whatever_was_done_with_what_was_read():
    member = b'{"captions": ["a"], "cls": 3}'
    fields_of(member).pop("captions")
    assert fields_of(member) == {"captions": ["a"], "cls": 3}


def test_rows_of_one_key_are_one_samples_however_far_apart(tmp_path):
    """A sidecar is read in batches."""
    rows = 2 * BATCH + 1
    keys = ["first", *(str(row) for row in range(rows - 2)), "first"]
    table = pa.table({"key": keys, "captions": [[f"caption {row}"] for row in range(rows)]})
    pq.write_table(table, tmp_path / "00.parquet")
    sidecar = Sidecar(str(tmp_path), ("captions",))
    assert sidecar.lookup("00.tar", "first") == {"captions": [["caption 0"], [f"caption {rows - 1}"]]}
    assert sidecar.lookup("00.tar", str(BATCH)) == {"captions": [[f"caption {BATCH + 1}"]]}
