"""Evaluation while training goes on."""

from dataclasses import dataclass

from open_clip_fff.settings.fields import setting
from open_clip_fff.settings.words import Topic, code, codes


@dataclass(frozen=True)
class ZeroShotSettings:
    """Which sets are scored every few epochs; how many, OpenCLIP's --zeroshot-frequency says.

    Attributes:
        root: the folder with the sets.
        sets: their names, or `("all",)` for all that are there.
    """

    root: str = setting("zeroshot_data")
    sets: tuple[str, ...] = setting("zeroshot_sets")

    def __post_init__(self) -> None:
        if not self.sets:
            raise ValueError("--zeroshot-sets names no set; drop it to score all that are in --zeroshot-data")

    def describe(self) -> Topic:
        """What is scored, as training goes on."""
        which = "all sets" if self.sets == ("all",) else codes(self.sets)
        return Topic("zero-shot", (f"{which} in {code(self.root)} scored as training goes on",))
