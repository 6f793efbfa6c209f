"""The captions of any bytes: what is there comes out, and nothing else; what cannot be read is damage, and no crash."""

import html
import json
import unicodedata

import torch
from hypothesis import given
from hypothesis import strategies as st

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.data.caption_rows import CaptionRow, deserialize, serialize
from open_clip_fff.data.caption_strings import caption_hashes
from open_clip_fff.data.counters import BAD_CAPTIONS, NO_CAPTION, LoaderCounters
from open_clip_fff.data.serialize import CaptionSerializer
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.data.tokens import CLASSES, CaptionTokenizer
from tests.properties.drawn import times

TEXT = st.text(st.characters(exclude_categories=()), max_size=12)  # halves of an emoji, NUL, byte order marks
FORGED = '{"open_clip_fff": 1, "id": 7, "captions": ["forged"], "raw": 1}'
LONG = st.just("long ").map(lambda text: text * 5_000)
BLANK = ["", " \t\u00a0", "\x1b", "\u200b\u2060", "&nbsp;", " &amp;nbsp;\u200b"]
STRINGS = st.one_of(TEXT, st.sampled_from([*BLANK, FORGED, FORGED[:20], "a cat", "\u200b&", "&#65;"]), LONG)
NAMES = st.sampled_from(["a", "b", " a", "a.b", "", "\ud83d"])
NUMBERS = st.one_of(st.integers(-(2**70), 2**70), st.floats(), st.booleans(), st.none())
JSON = st.recursive(
    st.one_of(STRINGS, NUMBERS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=12,
)
DEEP = st.builds(
    lambda start, step, depth, end: start + step * depth + end,
    *(st.sampled_from(x) for x in ((b'{"a": ', b""), (b"[", b'{"a":', b'["x",'), (9, 900, 200_000), (b"", b"1", b"]"))),
)
DIGITS = st.integers(4_000, 5_000).map(lambda count: b'{"a": ' + b"9" * count + b"}")
NUMERALS = st.one_of(DIGITS, st.sampled_from([b'{"a": 1e999}', b'{"a": -Infinity}', b'{"a": NaN}']))
BYTES = st.one_of(
    st.binary(max_size=40),
    TEXT.map(lambda text: text.encode("utf-16", errors="ignore")),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.tuples(JSON, st.integers(0, 30)).map(lambda drawn: json.dumps(drawn[0]).encode()[: drawn[1]]),
    DEEP,
    NUMERALS,
)


def cleaned(value: object) -> list[str]:
    """The strings of a value, lists in lists among them, as training should see them."""
    if isinstance(value, list):
        return [text for item in value for text in cleaned(item)]
    if not isinstance(value, str):
        return []
    text = "".join(c for c in value if not 0xD800 <= ord(c) < 0xE000 and c not in "\0\ufeff").strip()
    resolved = html.unescape(html.unescape(text))  # as CLIP's tokenizer does
    return [text] if any(unicodedata.category(c) not in ("Cc", "Cf", "Zs", "Zl", "Zp") for c in resolved) else []


def sample_of(**members: bytes) -> dict:
    names = {name.replace("__", "."): value for name, value in members.items()}
    return {"__url__": "0.tar", "__key__": "k\udce9\n\x1b", "png": b"an image", **names}


def arrived(serializer: CaptionSerializer, sample: dict) -> CaptionRow | None:
    """What crosses OpenCLIP's pipeline; None where OpenCLIP leaves the row out."""
    (out,) = serializer(iter([sample]))
    assert set(out) <= {"__url__", "__key__", "__id__", "png", "txt"} and out["png"] == b"an image"
    return deserialize(out["txt"].decode()) if "txt" in out else None


@times(100)
@given(st.dictionaries(NAMES, JSON, max_size=4), STRINGS, st.integers(1, 5))
def test_captions_in_are_captions_out(fields, raw, most):
    fields = json.loads(json.dumps(fields))  # halves of an emoji beside each other are one character
    raw = raw.encode(errors="ignore")
    captions = CaptionSettings(per_image=most, policy="all", json_keys=("re:[\\s\\S]*",), text_keys=("txt",))
    counters = LoaderCounters(captions.sources)
    serializer = CaptionSerializer(CaptionReader(captions), counters)
    row = arrived(serializer, sample_of(txt=raw, json=json.dumps(fields).encode()))
    before, after = cleaned(raw.decode()), cleaned(list(fields.values()))
    expected = [*before, *after][:most]
    news = counters.take()
    assert news[BAD_CAPTIONS] == 0 and news[NO_CAPTION] == (not expected) and news["captions"] == len(expected)
    if row is None:
        assert not expected
        return
    assert row.captions == expected and row.raw == min(len(before), most)
    (batch,) = CaptionTokenizer(caption_hashes, captions, {"hashes": caption_hashes})(serialize(row))
    padded = [*expected, *[""] * (most - len(expected))]
    assert torch.equal(batch.tokens, caption_hashes(padded)) and batch.valid.tolist() == [bool(x) for x in padded]


@times(150)
@given(
    st.dictionaries(st.sampled_from(["txt", "json", "syn__json", "cls"]), BYTES),
    st.sampled_from([None, "cls", "a", "a.b", "txt"]),
    st.booleans(),
)
def test_any_bytes_are_captions_or_damage(members, class_key, split):
    keys = ("a", "a.b", "re:.*", "syn.json:a", "b.a.b")
    captions = CaptionSettings(
        per_image=4, policy="all", json_keys=keys, text_keys=("txt", "cls"), class_key=class_key, split_sentences=split
    )
    counters = LoaderCounters(captions.sources)
    row = arrived(CaptionSerializer(CaptionReader(captions), counters), sample_of(**members))
    found, damage = CaptionReader(captions).read(sample_of(**members))
    assert all(texts == cleaned(texts) for texts in found.values()) and all(line.isprintable() for line in damage)
    assert (row is None) == (not any(found.values()))
    news = counters.take()
    assert (news[BAD_CAPTIONS], news[NO_CAPTION]) == (bool(damage), row is None)
    if row is not None:
        (batch,) = CaptionTokenizer(caption_hashes, captions, {})(serialize(row))
        assert class_key is None or -1 <= batch.extras[CLASSES].item() < 2**63


@times(60)
@given(st.lists(STRINGS, min_size=1, max_size=4), st.integers(-1, 2**63 - 1), st.integers(0, 4))
def test_a_serialized_row_is_deserialized_once(texts, number, raw):
    texts = [text.encode(errors="ignore").decode() for text in texts]
    row = CaptionRow(number, texts, min(raw, len(texts)))
    assert deserialize(serialize(row)) == row and deserialize(serialize(CaptionRow(1, [serialize(row)]))) == CaptionRow(
        1, [serialize(row)]
    )
