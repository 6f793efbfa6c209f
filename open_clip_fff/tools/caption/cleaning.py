"""Filters generated texts.

A text is *wordless* if it has no letter, and *looping* if a run of words occurs three times in a row ("a dog a dog a
dog", "red red red"), or if it ends in a run of three or more words that occurs twice in a row ("next to a bench next to
a bench"): degenerate captioners repeat themselves until they are stopped. "Side by side by side" and "very very big"
are kept. Texts are *equal* if their words are, ignoring case and punctuation.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import regex

from open_clip_fff.data.sources import texts_of

WORD = regex.compile(r"\w+(?:['’]\w+)*")  # the module re does not count vowel signs as letters
WORDLESS, LOOPING, EQUAL = "dropped as wordless", "dropped as looping", "dropped as equal to another"
_LOOP = regex.compile(r"(?<!\S)((?:\S+ )+?)\1\1|(?<!\S)((?:\S+ ){3,})\2$")  # of words with a space behind each


def add_clean(kept: Sequence[str], texts: Iterable[str], most: int) -> tuple[list[str], Counter[str]]:
    """Adds the clean ones of further texts to an image's captions; also returns how many were dropped, by reason.

    Once there are `most` captions, further texts are ignored and not counted.
    """
    captions, dropped = list(kept), Counter[str]()
    known = {tuple(words_of(caption)) for caption in captions}
    for text in map(normalise_spaces, texts):
        words = words_of(text)
        if len(captions) == most:
            break
        if why := flaw(text):
            dropped[why] += 1
        elif tuple(words) in known:
            dropped[EQUAL] += 1
        else:
            known.add(tuple(words))
            captions.append(text)
    return captions, dropped


def normalise_spaces(text: str) -> str:
    """The text single-spaced, without characters that training would remove."""
    return " ".join("".join(texts_of(text)).split())


def words_of(text: str) -> list[str]:
    """Words in lower case, without punctuation."""
    return WORD.findall(text.casefold())


def flaw(text: str) -> str | None:
    """Why a text is dropped; None if it is a caption."""
    if not any(letter.isalpha() for letter in text):
        return WORDLESS
    return LOOPING if _LOOP.search("".join(f"{word} " for word in words_of(text))) else None
