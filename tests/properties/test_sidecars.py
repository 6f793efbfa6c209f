"""The join by key: a row has the captions of its own key in its own shard, or is counted as missing."""

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.data.caption_rows import deserialize
from open_clip_fff.data.counters import BAD_CAPTIONS, NO_CAPTION, LoaderCounters
from open_clip_fff.data.serialize import CaptionSerializer
from open_clip_fff.data.sources import CaptionReader
from tests.properties.drawn import times

KEYS = st.one_of(st.sampled_from(["0", "00", "1", "a/0", "é", ""]), st.text(max_size=3))
TEXTS = st.sampled_from(["a cat", "a dog", "", None, "é", "two words"])
TABLES = st.lists(st.tuples(st.one_of(KEYS, st.none()), st.lists(TEXTS, max_size=3)), max_size=8)
TYPES = {"strings": pa.string(), "views": pa.string_view(), "large": pa.large_string(), "bytes": pa.binary()}


@times(80)
@given(
    st.lists(TABLES, min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 2), KEYS), min_size=1, max_size=12),
    st.sampled_from(sorted(TYPES)),
    st.integers(1, 8),
)
def test_a_row_has_the_captions_of_its_key_or_is_missing(tables, rows, kind, group):
    """Shards in any order, keys that others have too, several rows for a key, keys of nobody."""
    with tempfile.TemporaryDirectory() as folder:
        for shard, table in enumerate(tables):
            keys = pa.array([key for key, _ in table], pa.string()).cast(TYPES[kind])
            content = pa.table(
                {"captions": pa.array([texts for _, texts in table], pa.list_(pa.string())), "key": keys}
            )
            pq.write_table(content, Path(folder) / f"{shard}.parquet", row_group_size=group)
        captions = CaptionSettings(per_image=99, policy="all", text_keys=(), sidecar=folder)
        counters = LoaderCounters(captions.sources)
        samples = [{"__url__": f"x/{shard}.tar", "__key__": key, "png": b""} for shard, key in rows]
        missing = damaged = 0
        for sample, (shard, key) in zip(
            CaptionSerializer(CaptionReader(captions), counters)(iter(samples)), rows, strict=True
        ):
            there = shard < len(tables)
            expected = [text for k, texts in tables[shard] if k == key for text in texts if text] if there else []
            assert (deserialize(sample["txt"].decode()).captions if "txt" in sample else []) == expected
            missing, damaged = missing + (not expected), damaged + (not there)
    news = counters.take()
    assert (news[NO_CAPTION], news[BAD_CAPTIONS]) == (missing, damaged)
