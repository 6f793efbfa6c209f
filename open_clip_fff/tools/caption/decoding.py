"""Decoding settings of captioners."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from open_clip_fff.errors import UsageError

DTYPES = ("float32", "float16", "bfloat16")
DECODINGS = {"nucleus": ("top_p", "temperature", "tries"), "beam": ("beams",), "greedy": ()}  # with their settings


@dataclass(frozen=True)
class Decoding:
    """How captions are generated. Raises UsageError for an invalid value, by its flag."""

    how: str = "nucleus"  # `nucleus` (top-p sampling), `beam` (the best beams) or `greedy` (one caption)
    captions: int = 5  # K, of an image
    top_p: float = 0.9  # probability mass of the tokens sampled from, above 0 and up to 1
    temperature: float = 1.0  # above 0
    tries: int = 1  # how often an image with fewer than K different captions is captioned again
    beams: int = 5  # number, at least K
    max_new_tokens: int = 30  # maximum length without the prompt
    min_new_tokens: int = 1  # minimum length

    def __post_init__(self) -> None:
        if self.captions < 1:
            raise UsageError(f"--captions {self.captions}: must be 1 or more")
        if self.how == "greedy" and self.captions > 1:
            raise UsageError(f"--captions {self.captions}: greedy decoding has one caption; use nucleus or beam")
        if self.how == "beam" and not 1 < self.beams >= self.captions:
            raise UsageError(f"--beams {self.beams}: must be 2 or more, and no fewer than --captions {self.captions}")
        if not 0.0 < self.top_p <= 1.0:
            raise UsageError(f"--top-p {self.top_p:g}: a share above 0 and up to 1")
        if not 0 < self.temperature < math.inf:
            raise UsageError(f"--temperature {self.temperature:g}: must be above 0, and finite")
        if self.tries < 0:
            raise UsageError(f"--tries {self.tries}: must be 0 or more")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens or not self.max_new_tokens:
            raise UsageError(
                f"--min-new-tokens {self.min_new_tokens}, --max-new-tokens {self.max_new_tokens}: at least 0, and as "
                f"many or more"
            )

    @property
    def rounds(self) -> int:
        """How often an image is captioned at most: deterministic decoding gives the same in a second round."""
        return 1 + self.tries if self.how == "nucleus" else 1

    def used_settings(self) -> dict[str, object]:
        """The settings that the method uses, for a record."""
        others = {name for how, names in DECODINGS.items() for name in names if how != self.how}
        return {name: value for name, value in asdict(self).items() if name not in others}

    def arguments(self) -> dict[str, Any]:
        """Of transformers' `generate`."""
        bounds = {"max_new_tokens": self.max_new_tokens, "min_new_tokens": self.min_new_tokens}
        shared = {**bounds, "num_return_sequences": self.captions}
        if self.how == "nucleus":
            draw = {"do_sample": True, "top_p": self.top_p, "temperature": self.temperature, "top_k": 0}
            return {**shared, **draw, "num_beams": 1}
        return {**shared, "do_sample": False, "num_beams": self.beams if self.how == "beam" else 1}
