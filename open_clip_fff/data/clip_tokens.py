"""OpenCLIP's tokenizer of CLIP models, with the same tokens in a seventh of the time.

OpenCLIP's repairs, unescapes and splits every caption in Python, and tokenises every word anew. Here captions of plain
ASCII are not repaired, and words are remembered.
"""

import heapq
from itertools import pairwise
from typing import Any

import numpy as np
import open_clip.tokenizer as stock
import torch
from torch import Tensor

MOST_WORDS = 2**17  # that are remembered; a captioner's vocabulary is smaller
LONG = 200  # characters; longer words are not remembered

_bpe = stock.SimpleTokenizer.bpe


class FastTokenizer:
    """Gives the same tokens as the OpenCLIP tokenizer that it wraps; made by `fast_tokenizer`.

    Example:
        >>> tokenizer = open_clip.get_tokenizer("ViT-B-32")
        >>> torch.equal(fast_tokenizer(tokenizer)(["a dog"]), tokenizer(["a dog"]))
        True
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._words: dict[str, list[int]] = {}

    def __call__(self, texts: list[str]) -> Tensor:
        tokenizer, length = self.tokenizer, self.tokenizer.context_length
        made = np.zeros((len(texts), length), dtype=np.int64)
        for row, text in zip(made, texts, strict=True):
            tokens = [tokenizer.sot_token_id, *self._encode(text)][: length - 1]
            tokens.append(tokenizer.eot_token_id)
            row[: len(tokens)] = tokens
        return torch.from_numpy(made)

    def _encode(self, text: str) -> list[int]:
        if not text.isascii() or not text.isprintable() or "&" in text:  # may need repair, or hold an entity
            return self.tokenizer.encode(text)
        tokenizer, words = self.tokenizer, self._words
        found: list[int] = []
        for word in tokenizer.pat.findall(stock.whitespace_clean(text).lower()):
            tokens = words.get(word)
            if tokens is None:
                if len(words) >= MOST_WORDS:
                    words.clear()
                tokens = [tokenizer.encoder[piece] for piece in bpe(tokenizer, word).split(" ")]
                if len(word) <= LONG:
                    words[word] = tokens
            found += tokens
        return found


def fast_tokenizer(tokenizer: Any) -> Any:
    """A faster tokenizer with the same tokens, for a plain one of OpenCLIP's; else the tokenizer itself."""
    plain = (
        type(tokenizer) is stock.SimpleTokenizer
        and tokenizer.clean_fn is stock.get_clean_fn("lower")
        and tokenizer.reduction_fn is None
        and tokenizer.context_length
    )
    return FastTokenizer(tokenizer) if plain else tokenizer


def bpe(tokenizer: Any, word: str) -> str:
    """The pieces of a word, as OpenCLIP's method of this name, in n log n.

    OpenCLIP's goes over the whole word for each merge: half an hour for a caption of 220,000 letters without a space.
    """
    if len(word) <= LONG:
        return _bpe(tokenizer, word)
    ranks, size = tokenizer.bpe_ranks, len(word)
    pieces = [*word[:-1], f"{word[-1]}</w>", ""]  # a piece that is merged into the one before becomes empty, too
    before, after = [*range(-1, size)], [*range(1, size + 1), size]  # places of a piece's neighbours
    waiting = [(ranks[pair], place) for place, pair in enumerate(pairwise(pieces)) if pair in ranks]
    heapq.heapify(waiting)
    while waiting:
        rank, merged = waiting[0][0], []
        while waiting and waiting[0][0] == rank:  # all pairs of the lowest rank, before pairs that merging makes
            place = heapq.heappop(waiting)[1]
            right = after[place]
            if ranks.get((pieces[place], pieces[right])) == rank:
                pieces[place], pieces[right] = pieces[place] + pieces[right], ""
                after[place] = after[right]
                before[after[place]] = place
                merged.append(place)
        for place in merged:
            for left in (before[place], place):
                pair = pieces[left], pieces[after[left]]
                if pair in ranks:
                    heapq.heappush(waiting, (ranks[pair], left))
    return " ".join(filter(None, pieces))
