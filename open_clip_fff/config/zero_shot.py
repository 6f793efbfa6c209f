"""Zero-shot evaluation during training."""

from dataclasses import dataclass
from typing import ClassVar

from open_clip_fff.config.fields import REQUIRED, Settings, setting
from open_clip_fff.config.topics import Topic, code, codes


@dataclass(frozen=True)
class ZeroShotSettings(Settings):
    """Which sets are scored; OpenCLIP's --zeroshot-frequency sets how often."""

    group: ClassVar[str] = "watching"
    needs: ClassVar[str] = "--zeroshot-data DIR"
    root: str = setting(
        "zeroshot_data",
        REQUIRED,
        "score the sets in DIR (open-clip-fff score's --data-root) every --zeroshot-frequency epochs and at the end",
        metavar="DIR",
    )
    sets: tuple[str, ...] = setting(
        "zeroshot_sets",
        ("all",),
        "which: clip-benchmark's names, or those of folders in DIR",
        unset="all that are there",
        check=(bool, "--zeroshot-sets names no set; drop it to score all that are in --zeroshot-data"),
    )

    def describe(self) -> Topic:
        """What is scored while training runs."""
        which = "all sets" if self.sets == ("all",) else codes(self.sets)
        return Topic("zero-shot", (f"{which} in {code(self.root)} scored as training goes on",))
