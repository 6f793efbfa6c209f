"""What a run does about numbers that are not finite, and about images that are too large."""

import math
from dataclasses import dataclass

from open_clip_fff.plural import plural
from open_clip_fff.settings.fields import setting
from open_clip_fff.settings.words import Topic

STOP, SKIP = "stop", "skip"
IN_A_ROW = 5  # steps that are skipped before `stop` ends the run
TIMEOUT = 30.0  # minutes
PIXELS = 89_478_485  # where Pillow begins to warn of decompression bombs
MOST_PIXELS = 2 * PIXELS  # where it refuses them
SCALER_IN_A_ROW = 20  # the same of GradScaler's: it halves its scale at each, and begins at 2^16


@dataclass(frozen=True)
class SafetySettings:
    """What keeps a run from harm.

    Attributes:
        on_nonfinite: a step whose gradient is not finite is always left out; `stop` ends the run after IN_A_ROW of
            them, `skip` never does.
        max_pixels: images with more are not decoded, and count as unreadable.
        timeout: minutes that a rank waits for another, or for its loader workers, at most.
        save_every: optimizer steps of the run between two checkpoints in the middle of epochs; None for none.
    """

    on_nonfinite: str = setting("on_nonfinite", STOP)
    max_pixels: int = setting("max_image_pixels", PIXELS)
    timeout: float = setting("timeout", TIMEOUT)
    save_every: int | None = setting("save_every_n_steps", None)

    def __post_init__(self) -> None:
        if self.on_nonfinite not in (STOP, SKIP):
            raise ValueError(f"--on-nonfinite is {self.on_nonfinite!r}: choose {STOP} or {SKIP}")
        if not 1 <= self.max_pixels <= MOST_PIXELS:
            raise ValueError(f"--max-image-pixels is {self.max_pixels}: from 1 to {MOST_PIXELS:,}, Pillow's own limit")

        if not 0.0 < self.timeout < math.inf:
            raise ValueError(f"--timeout is {self.timeout:g}: minutes, more than 0")
        if self.save_every is not None and self.save_every < 1:
            raise ValueError(f"--save-every-n-steps is {self.save_every}: steps, 1 or more")

    def describe(self) -> Topic:
        """What is left out."""
        end = f"and {IN_A_ROW} in a row end the run" if self.on_nonfinite == STOP else "however many there are"
        steps = f"steps whose gradient is not finite are left out, {end}"
        waits = f"no rank waits for another, or for its loader, longer than {self.timeout:g} minutes"
        often = "" if self.save_every is None else f"every {plural(self.save_every, 'steps')}, and "
        saves = f"a checkpoint {often}where SIGTERM or Ctrl-C ends training"
        return Topic("safety", (steps, f"images of more than {self.max_pixels:,} pixels are not read", waits, saves))
