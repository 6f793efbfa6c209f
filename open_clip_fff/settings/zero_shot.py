"""Evaluation while training goes on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ZeroShotSettings:
    """Which sets are scored every few epochs; how many, OpenCLIP's --zeroshot-frequency says.

    Attributes:
        root: the folder with the sets.
        sets: their names, or `("all",)` for all that are there.
    """

    root: str
    sets: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.sets:
            raise ValueError("--zeroshot-sets names no set; drop it to score all that are in --zeroshot-data")
