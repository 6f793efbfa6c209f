"""Captions from tars to tokens: identity, envelopes, sources, policies, masks, the preview."""

import hashlib

import pytest
import torch

from open_clip_fff import CaptionBatch, caption_id, sample_id
from open_clip_fff.data.batch import collate
from open_clip_fff.data.preview import preview_lines, preview_shard
from open_clip_fff.data.rows import Row, seal, unseal
from open_clip_fff.data.sources import CorruptSample, captions_by_source, row_of
from open_clip_fff.data.tally import KINDS, Tally
from open_clip_fff.data.tokens import CaptionTokenizer, OneCaptionTokenizer
from open_clip_fff.settings import CaptionSettings

ALL = CaptionSettings(3, "all", ("txt", "caption"), ("captions", "blip2"))


def tokenizer(texts: list[str]) -> torch.Tensor:
    """Length and first character, in three tokens."""
    return torch.tensor([[len(text), ord(text[0]) if text else 0, 0] for text in texts])


def test_ids_are_63_bits_of_blake2b_of_shard_and_key():
    digest = hashlib.blake2b(b"00012.tar/0007").digest()
    expected = int(bin(int.from_bytes(digest, "big"))[2:].zfill(512)[:63], 2)
    assert sample_id("/data/a/00012.tar", "0007") == sample_id("s3://b/00012.tar", "0007") == expected
    assert sample_id("00013.tar", "0007") != expected  # keys repeat across shards
    assert torch.tensor(expected).dtype == torch.int64
    assert sample_id(None, "a/b.jpg") != sample_id(None, "b.jpg")
    assert caption_id(expected, "a cat")[0] == expected and caption_id(1, "a cat") != caption_id(1, "a dog")


def test_an_envelope_opens_to_what_was_sealed_and_plain_text_has_no_id():
    row = Row(123, ["a “quoted” caption", '{"json": 1}', "ünïcode"])
    assert unseal(seal(row)) == row
    assert unseal('{"a": "plain caption that looks like json"}') == Row(
        -1, ['{"a": "plain caption that looks like json"}']
    )


def sample(**members: bytes) -> dict:
    return {"__url__": "x/00.tar", "__key__": "7", "jpg": b"...", **members}


def test_every_non_empty_value_joins_text_keys_first_up_to_k():
    tar = sample(txt=b" raw \n", json=b'{"captions": ["one", "", "  two "], "blip2": "three"}')
    assert captions_by_source(tar, ALL) == {
        "txt": ["raw"],
        "caption": [],
        "json:captions": ["one", "two"],
        "json:blip2": ["three"],
    }
    assert row_of(tar, ALL) == Row(sample_id("x/00.tar", "7"), ["raw", "one", "two"])


@pytest.mark.parametrize(
    "value", [b'{"captions": null}', b'{"captions": 3}', b'{"captions": {"a": "b"}}', b'{"x": ["y"]}', b"{}"]
)
def test_what_is_no_caption_joins_nothing(value):
    assert row_of(sample(json=value), ALL).captions == []


def test_a_string_is_one_caption_and_not_its_characters():
    assert row_of(sample(json=b'{"captions": "a cat"}'), ALL).captions == ["a cat"]


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[1, 2]"])
def test_json_that_is_none_names_the_sample(content):
    with pytest.raises(CorruptSample, match=r"00.tar: 7.json"):
        row_of(sample(json=content), ALL)


def test_ragged_rows_are_padded_with_the_empty_string_and_masked():
    make = CaptionTokenizer(tokenizer, ALL, {})
    (row,) = make(seal(Row(5, ["abc", "de"])))
    assert row.tokens[:, 0].tolist() == [3, 2, 0]
    assert row.valid.tolist() == [True, True, False] and row.ids.item() == 5
    (csv_row,) = make([seal(Row(5, ["abc", "de"]))])  # OpenCLIP's CSV data set hands over a list
    assert torch.equal(csv_row.tokens, row.tokens)


def test_policies():
    text = seal(Row(5, ["abc", "de", "fghi"]))
    first = CaptionTokenizer(tokenizer, CaptionSettings(3, "first"), {})(text)[0]
    assert first.tokens.shape == (1, 3) and first.tokens[0, 0] == 3
    torch.manual_seed(0)
    drawn = [
        CaptionTokenizer(tokenizer, CaptionSettings(3, "sample"), {})(text)[0].tokens[0, 0].item() for _ in range(99)
    ]
    assert set(drawn) == {2, 3, 4} and min(map(drawn.count, (2, 3, 4))) > 20
    plain = OneCaptionTokenizer(tokenizer, "sample")(text)
    assert plain.shape == (1, 3)
    assert OneCaptionTokenizer(tokenizer)(text)[0, 0] == 3


def test_extra_tokenizers_ride_along():
    row = CaptionTokenizer(tokenizer, ALL, {"mining_tokens": lambda texts: tokenizer(texts) + 1})(
        seal(Row(5, ["abc"]))
    )[0]
    assert torch.equal(row.extras["mining_tokens"], row.tokens + 1)


def test_rows_collate_to_a_batch_that_moves():
    rows = [CaptionTokenizer(tokenizer, ALL, {"more": tokenizer})(seal(Row(i, ["a"])))[0] for i in range(4)]
    images, batch = collate([(torch.zeros(3, 2, 2), row) for row in rows])
    assert images.shape == (4, 3, 2, 2) and isinstance(batch, CaptionBatch)
    assert batch.tokens.shape == (4, 3, 3) and batch.valid.shape == (4, 3) and batch.ids.tolist() == [0, 1, 2, 3]
    moved = batch.to(device="meta", non_blocking=True)
    assert moved.tokens.is_meta and moved.valid.is_meta and moved.extras["more"].is_meta


def test_the_preview_counts_and_shows(shards):
    settings = CaptionSettings(3, "all", ("txt",), ("captions", "title"))
    preview = preview_shard(str(shards / "00.tar"), settings)
    assert (preview.rows, preview.longest, preview.images, preview.empty) == (16, 6, 16, 0)
    assert preview.captions == {"txt": 16, "json:captions": 40, "json:title": 16}
    assert preview.used == 16 * 3
    lines = preview_lines(preview, settings)
    assert lines[0] == "Captions in 00.tar, 16 rows:"
    assert "    2 'a red square'" in lines and "    and 2 more, beyond K" in lines
    assert preview_shard(str(shards / "00.tar"), settings, limit=4).rows == 4


def test_the_preview_shows_repeats_and_empty_rows(tmp_path):
    from tests.conftest import write_tar

    same = {"png": b"x", "txt": b"same", "json": b'{"captions": ["same"]}'}
    write_tar(tmp_path / "a.tar", {"1": same, "2": {"png": b"x", "json": b'{"captions": []}'}})
    settings = CaptionSettings(2, "all", ("txt",), ("captions",))
    lines = "\n".join(preview_lines(preview_shard(str(tmp_path / "a.tar"), settings), settings))
    assert "1 rows have no caption and are skipped" in lines and "1 captions repeat an earlier one" in lines


def test_the_tally_reports_news_once():
    tally = Tally()
    tally.add(KINDS[0])
    assert tally.news() == {KINDS[0]: 1} and tally.news() == {}
