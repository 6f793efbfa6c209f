"""The fast tokenizer gives OpenCLIP's tokens, of any text."""

import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from open_clip_fff.data import clip_tokens
from open_clip_fff.data.clip_tokens import FastTokenizer, fast_tokenizer
from tests.properties.drawn import times

PIECES = [
    "'s",
    "'LL ",
    "<start_of_text>",
    "<END_OF_TEXT>",
    "<",
    "&amp;",
    "&lt",
    "_",
    "!?",
    "\t",
    "\u2019s",
    "caf\u00e9 ",
]
PLAIN = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)
ANY = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), PLAIN, ANY), max_size=6).map("".join)


@pytest.fixture(scope="module")
def stock():
    return open_clip.get_tokenizer("ViT-B-32", context_length=16)


@times(300)
@given(texts=st.lists(TEXTS, max_size=5))
def test_the_tokens_are_open_clips(stock, texts):
    tokens = fast_tokenizer(stock)(texts)
    assert tokens.dtype == torch.int64 and torch.equal(tokens, stock(texts))


ALPHABETS = st.sampled_from(["a", "ab", "the", "aeinorst", "abcdefghijklmnopqrstuvwxyz", "!?.", "éaß¼"])
WORDS = ALPHABETS.flatmap(lambda letters: st.text(letters, min_size=2, max_size=60))


@times(300)
@given(word=WORDS, copies=st.integers(1, 5))
def test_long_words_have_the_same_pieces(stock, word, copies):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip_tokens, "LONG", 1)
        assert clip_tokens.bpe(stock, word * copies) == stock.bpe(word * copies)


def test_long_words_are_not_remembered(stock):
    fast, text = fast_tokenizer(stock), "abc" * clip_tokens.LONG
    assert torch.equal(fast([text]), stock([text])) and not fast._words


def test_words_are_remembered_within_bounds_and_long_captions_cut(stock, monkeypatch):
    monkeypatch.setattr(clip_tokens, "MOST_WORDS", 3)
    texts, fast = [f"{word} a dog runs " * 5 for word in ("one", "two", "three")], fast_tokenizer(stock)
    for _ in range(2):
        assert torch.equal(fast(texts), stock(texts))
        assert 0 < len(fast._words) <= 3
    assert fast([]).shape == (0, 16)


def test_other_tokenizers_stay_themselves(stock):
    assert isinstance(fast_tokenizer(stock), FastTokenizer)
    for options in ({"clean": "canonicalize"}, {"reduction_mask": "random"}):
        other = SimpleTokenizer(**options)
        assert fast_tokenizer(other) is other
    assert fast_tokenizer(str.split) is str.split
