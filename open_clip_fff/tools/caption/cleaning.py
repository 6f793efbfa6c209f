"""Which of the texts that a captioner made are kept.

A text is *wordless* if no letter is in it, and *looping* if a run of words stands there three times in a row ("a dog a
dog a dog", "red red red"), or if it ends in a run of three or more words that stands there twice in a row ("next to a
bench next to a bench"): captioners that lose the thread say the same until they are stopped, wherever that is. "Side by
side by side" and "very very big" stay. Texts are *equal* if their words are, whatever their case and punctuation.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from open_clip_fff.data.sources import texts_of

WORD = re.compile(r"\w+(?:['’]\w+)*")
WORDLESS, LOOPING, EQUAL = "dropped as wordless", "dropped as looping", "dropped as equal to another"
THRICE, TWICE = 3, 2
LONG = 3  # words of a run that twice in a row is one time too many


def add_clean(kept: Sequence[str], texts: Iterable[str], most: int) -> tuple[list[str], Counter[str]]:
    """An image's captions with more of its texts, in their order, and how many of these were dropped, by reason.

    Args:
        kept: captions so far, which this made.
        texts: as a captioner says them.
        most: captions; texts beyond are passed over and not counted.
    """
    captions, dropped = list(kept), Counter[str]()
    known = {tuple(words_of(caption)) for caption in captions}
    for text in map(tidied, texts):
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


def tidied(text: str) -> str:
    """Without white space at its ends, with one space where there was more, and with what training would take away."""
    return " ".join("".join(texts_of(text)).split())


def words_of(text: str) -> list[str]:
    """Its words in lower case, without punctuation."""
    return WORD.findall(text.casefold())


def flaw(text: str) -> str | None:
    """Why a text is no caption; None where it is one."""
    if not any(letter.isalpha() for letter in text):
        return WORDLESS
    return LOOPING if loops(words_of(text)) else None


def loops(words: Sequence[str]) -> bool:
    """Whether they say the same over and over, by the rule above."""
    if any(_repeats(words, length) >= TWICE for length in range(LONG, len(words) // TWICE + 1)):
        return True
    ends = range(THRICE, len(words) + 1)
    return any(_repeats(words[:end], length) >= THRICE for end in ends for length in range(1, end // THRICE + 1))


def _repeats(words: Sequence[str], length: int) -> int:
    """How often the last `length` words stand at the end in a row."""
    run, times = words[-length:], 0
    while len(words) >= (times + 1) * length and (
        words[len(words) - (times + 1) * length : len(words) - times * length] == run
    ):
        times += 1
    return times
