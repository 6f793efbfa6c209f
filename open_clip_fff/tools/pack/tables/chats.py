"""LLaVA's records: `{"id", "image", "conversations": [{"from", "value"}, …]}`."""

import re

from open_clip_fff.tools.pack.tables.reader import Cells

FIELD = "conversations"
ANSWERS = frozenset({"gpt", "assistant"})  # who says what an image shows
_IMAGE = re.compile(r"\s*<image>\s*")  # where the image stands in what is said


def is_chat(fields: Cells) -> bool:
    """Whether a record is one of these."""
    turns = fields.get(FIELD)
    return isinstance(turns, list) and bool(turns) and all(isinstance(x, dict) and "value" in x for x in turns)


def as_captions(fields: Cells) -> Cells:
    """A record with `captions`, all answers in their order, in the place of what was said.

    A record about several images has no `image`: nobody says which of them an answer is about.
    """
    turns = fields.get(FIELD)
    said = [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
    answers = [turn.get("value") for turn in said if turn.get("from") in ANSWERS]
    captions = [_IMAGE.sub(" ", text).strip() for text in answers if isinstance(text, str)]
    image = fields.get("image")
    if isinstance(image, list):
        image = image[0] if len(image) == 1 else None
    rest = {name: value for name, value in fields.items() if name not in ("image", FIELD)}
    return {"image": image, "captions": captions, **rest}
