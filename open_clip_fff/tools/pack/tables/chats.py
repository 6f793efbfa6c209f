"""Conversations about an image, in LLaVA's form or as chat messages: the answers are captions."""

import re
from collections.abc import Mapping, Sequence

CHAT_COLUMNS = ("conversations", "messages")  # LLaVA's [{"from", "value"}, …], and [{"role", "content"}, …]
ANSWERS = frozenset({"gpt", "chatgpt", "assistant", "model"})  # roles that describe the image
ANSWER_COLUMN = "captions"  # the column that the answers become
_IMAGE_TAG = re.compile(r"\s*<image>\s*")


def chat_column(fields: Mapping[str, object]) -> str | None:
    """The field with a conversation; None if there is none."""
    return next((name for name in CHAT_COLUMNS if _is_chat(fields.get(name))), None)


def answers(turns: object) -> list[str]:
    """The texts that describe the image, without `<image>`."""
    found = []
    for turn in turns if isinstance(turns, list) else []:
        if isinstance(turn, dict) and str(turn.get("from") or turn.get("role")) in ANSWERS:
            found += _texts(turn.get("value") or turn.get("content"))
    return found


def one_of(images: object) -> object:
    """The image of a list of one; None for a list of none or several, and anything else as it is."""
    if isinstance(images, list):
        return images[0] if len(images) == 1 else None
    return images


def _is_chat(turns: object) -> bool:
    keys = ("value", "content")
    return isinstance(turns, list) and bool(turns) and all(isinstance(x, dict) and x.keys() & keys for x in turns)


def _texts(said: object) -> list[str]:
    """The texts of a turn, which is a string, or a list of parts such as `{"type": "text", "text": …}`."""
    parts: Sequence[object] = said if isinstance(said, list) else [said]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return [_IMAGE_TAG.sub(" ", text).strip() for text in texts if isinstance(text, str)]
