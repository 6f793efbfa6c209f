"""VQA's answers: normalising them, their accuracy, and the list of answers that are classes.

The accuracy is that of VQA (arXiv 1505.00468) and VQAv2 (arXiv 1612.00837): an answer that three people gave is right,
averaged over all ways to leave one person out.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

AGREE = 3  # people who make an answer right
LEAST_ANSWERS = AGREE + 1  # people who are asked, since one is left out at a time
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {"none": "0", **{word: str(number) for number, word in enumerate(NUMBERS)}}
ARTICLES = ("a", "an", "the")
_IN_NUMBER = re.compile(r"(?<=\d),(?=\d)")
_PERIOD = re.compile(r"\.(?!\d)")
_MARKS = re.compile(r"""[;/"\[\](){}=+\\_<>@`,?!-]""")
_NOT = re.compile(r"\b(ai|are|ca|could|did|does|do|had|has|have|is|might|must|need|should|was|were|wo|would)nt\b")


def normalise(answer: str) -> str:
    """An answer in the form in which answers are compared, as visualqa.org/evaluation.html describes it.

    Lower case; no comma in numbers, periods only in numbers. Marks in the official code's list become spaces, or go
    where one of the kind stands beside a space or the answer has a comma in a number, as they do in that code; others,
    such as apostrophes, colons, $ and %, stay. Number words to ten become digits, articles go, `dont` is `don't`.

    Example:
        >>> normalise("The two-seater."), normalise("dont know"), normalise("1,000")
        ('2 seater', "don't know", '1000')
    """
    given = " ".join(answer.lower().split())
    number = _IN_NUMBER.search(given) is not None
    gone = {mark for mark in _MARKS.findall(given) if number or f" {mark}" in given or f"{mark} " in given}
    text = _PERIOD.sub("", _MARKS.sub(lambda found: "" if found[0] in gone else " ", given))
    words = [DIGITS.get(word, word) for word in text.split() if word not in ARTICLES]
    return _NOT.sub(r"\1n't", " ".join(words))


def soft_score(answer: str, given: Sequence[str]) -> float:
    """min(people who gave the answer / 3, 1), of normalised answers: the target in training."""
    return min(given.count(answer) / AGREE, 1.0)


def vqa_accuracy(answer: str, given: Sequence[str]) -> float:
    """The mean of min(people who gave it / 3, 1) over all ways to leave one person out; answers are normalised.

    Example:
        >>> [round(accuracy("yes", ["yes"] * n + ["no"] * (10 - n)), 2) for n in range(5)]
        [0.0, 0.3, 0.6, 0.9, 1.0]
    """
    same, people = given.count(answer), len(given)
    without = same * min((same - 1) / AGREE, 1.0) + (people - same) * min(same / AGREE, 1.0)
    return without / people


def frequent_answers(given: Iterable[Sequence[str]], most: int, min_count: int) -> list[str]:
    """The `most` most frequent answers with `min_count` at least; equal counts in alphabetical order.

    `given` has normalised answers by question.
    """
    counts = Counter(answer for answers in given for answer in answers if answer)
    often = sorted((-count, answer) for answer, count in counts.items() if count >= min_count)
    return [answer for _, answer in often[:most]]
