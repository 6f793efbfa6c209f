"""How captions are drawn from a captioner."""

from dataclasses import asdict, dataclass
from typing import Any

from open_clip_fff.errors import UsageError

DTYPES = ("float32", "float16", "bfloat16")  # of a captioner, by torch's names
HOW = {"nucleus": ("top_p", "temperature", "tries"), "beam": ("beams",), "greedy": ()}  # and which settings are its own


@dataclass(frozen=True)
class Decoding:
    """The captions of an image.

    Attributes:
        how: `nucleus` (sampling among the likeliest tokens), `beam` (the best beams) or `greedy` (one caption).
        captions: K, of an image.
        top_p: the share of probability that these tokens have together, above 0 and up to 1.
        temperature: above 0; less than 1 is bolder about what is likely.
        tries: how often an image with fewer than K different captions is captioned again.
        beams: how many are followed, K at least.
        max_new_tokens: the longest caption, without the prompt.
        min_new_tokens: the shortest.

    Raises:
        UsageError: for what cannot work, by its flag.
    """

    how: str = "nucleus"
    captions: int = 5
    top_p: float = 0.9
    temperature: float = 1.0
    tries: int = 1
    beams: int = 5
    max_new_tokens: int = 30
    min_new_tokens: int = 1

    def __post_init__(self) -> None:
        if self.captions < 1:
            raise UsageError(f"--captions {self.captions}: must be 1 or more")
        if self.how == "greedy" and self.captions > 1:
            raise UsageError(f"--captions {self.captions}: greedy decoding has one caption; use nucleus or beam")
        if self.how == "beam" and not 1 < self.beams >= self.captions:
            raise UsageError(f"--beams {self.beams}: must be 2 or more, and no fewer than --captions {self.captions}")
        if not 0.0 < self.top_p <= 1.0:
            raise UsageError(f"--top-p {self.top_p:g}: a share above 0 and up to 1")
        if not self.temperature > 0:
            raise UsageError(f"--temperature {self.temperature:g}: must be above 0")
        if self.tries < 0:
            raise UsageError(f"--tries {self.tries}: must be 0 or more")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens or not self.max_new_tokens:
            raise UsageError(
                f"--min-new-tokens {self.min_new_tokens}, --max-new-tokens {self.max_new_tokens}: at least 0, and as "
                f"many or more"
            )

    @property
    def rounds(self) -> int:
        """How often an image is captioned at most: another round of what is not random would say the same."""
        return 1 + self.tries if self.how == "nucleus" else 1

    def told(self) -> dict[str, object]:
        """The settings that matter, for a record."""
        others = {name for how, names in HOW.items() for name in names if how != self.how}
        return {name: value for name, value in asdict(self).items() if name not in others}

    def arguments(self) -> dict[str, Any]:
        """Those of transformers' `generate`."""
        bounds = {"max_new_tokens": self.max_new_tokens, "min_new_tokens": self.min_new_tokens}
        shared = {**bounds, "num_return_sequences": self.captions}
        if self.how == "nucleus":
            draw = {"do_sample": True, "top_p": self.top_p, "temperature": self.temperature, "top_k": 0}
            return {**shared, **draw, "num_beams": 1}
        return {**shared, "do_sample": False, "num_beams": self.beams if self.how == "beam" else 1}
