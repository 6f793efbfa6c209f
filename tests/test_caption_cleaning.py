"""Which texts of a captioner are kept."""

import pytest

from open_clip_fff.tools.caption.cleaning import EQUAL, LOOPING, WORDLESS, add_clean, flaw, normalise_spaces


@pytest.mark.parametrize(
    "text",
    [
        "a dog",
        "very very big dog",
        "two dogs side by side by side",
        "a man in a red shirt and a man in a blue shirt",
        "over and over and over the fence",
        "a dog and a cat and a bird",
        "bye bye",
        "ein Hund läuft, läuft und läuft",
        "犬が走る",
        "3 dogs",
    ],
)
def test_a_caption_is_kept(text):
    assert flaw(text) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", WORDLESS),
        (" . , !", WORDLESS),
        ("2019 - 44", WORDLESS),
        ("red red red", LOOPING),
        ("Red, red. RED dog", LOOPING),
        ("a dog a dog a dog", LOOPING),
        ("a dog and a dog and a dog", LOOPING),
        ("a man on a bench next to a bench next to a bench", LOOPING),
        ("a bench next to a bench next to a bench next", LOOPING),
        ("the the the cat sat", LOOPING),
    ],
)
def test_what_is_no_caption(text, why):
    assert flaw(text) == why


def test_captions_are_tidied_and_told_apart():
    said = ["  a  dog\n", "A dog.", "", "a dog's bed", "a dog s bed", "no no no", "\x00 a cat\ud83d", "a bird", "an ox"]
    kept, dropped = add_clean([], said, 4)
    assert kept == ["a dog", "a dog's bed", "a dog s bed", "a cat"]
    assert dropped == {EQUAL: 1, WORDLESS: 1, LOOPING: 1}  # nothing is counted beyond the fourth
    more, dropped = add_clean(kept[:2], ["A DOG", "a fox", "the end"], 3)
    assert more == ["a dog", "a dog's bed", "a fox"] and dropped == {EQUAL: 1}
    assert normalise_spaces("\tx \u00a0 y ") == "x y"
