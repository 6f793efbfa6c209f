"""What a run does about numbers that are not finite, images that are too large, and ranks that hang."""

import math
from dataclasses import dataclass
from typing import ClassVar

from open_clip_fff.config.fields import Settings, setting
from open_clip_fff.config.topics import Topic
from open_clip_fff.plural import plural

STOP, SKIP = "stop", "skip"
IN_A_ROW = 5  # steps that are skipped before `stop` ends the run
PIXELS = 89_478_485  # where Pillow begins to warn of decompression bombs
MOST_PIXELS = 2 * PIXELS  # where it refuses them
SCALER_IN_A_ROW = 20  # the same for GradScaler, which halves its scale, 2^16 at first, at each step that it skips


@dataclass(frozen=True)
class SafetySettings(Settings):
    """Safety; fields are documented by their flags' help."""

    group: ClassVar[str] = "safety"
    on_nonfinite: str = setting(
        "on_nonfinite",
        STOP,
        "a step whose gradient, or the square that Adam keeps of it, is not finite is left out; stop: the run ends "
        f"after {IN_A_ROW} of them in a row, or {SCALER_IN_A_ROW} that GradScaler leaves out; skip: never",
        choices=(STOP, SKIP),
    )
    max_pixels: int = setting(
        "max_image_pixels",
        PIXELS,
        "images with more are not decoded, and count as unreadable",
        unset=f"{PIXELS}, where Pillow warns",
        check=(
            lambda pixels: 1 <= pixels <= MOST_PIXELS,
            f"--max-image-pixels is {{}}: from 1 to {MOST_PIXELS:,}, Pillow's own limit",
        ),
    )
    timeout: float = setting(
        "timeout",
        30.0,
        "a rank waits so long for another (rank 0's evaluations aside), or for its loader workers, at most",
        metavar="MINUTES",
        check=(lambda minutes: 0.0 < minutes < math.inf, "--timeout is {:g}: minutes, more than 0"),
    )
    save_every: int | None = setting(
        "save_every_n_steps",
        None,
        "also save a checkpoint every N steps of the run, in the middle of an epoch, in place of the one before",
        unset="only where SIGTERM or Ctrl-C ends training",
        check=(lambda steps: steps >= 1, "--save-every-n-steps is {}: steps, 1 or more"),
    )

    def describe(self) -> Topic:
        """What is left out, how long ranks wait, and when checkpoints are saved."""
        end = f"and {IN_A_ROW} in a row end the run" if self.on_nonfinite == STOP else "however many there are"
        steps = f"steps whose gradient is not finite are left out, {end}"
        waits = f"no rank waits for another, evaluations aside, or for its loader, longer than {self.timeout:g} minutes"
        often = "" if self.save_every is None else f"every {plural(self.save_every, 'steps')}, and "
        saves = f"a checkpoint {often}where SIGTERM or Ctrl-C ends training"
        return Topic("safety", (steps, f"images of more than {self.max_pixels:,} pixels are not read", waits, saves))
