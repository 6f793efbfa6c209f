"""The line beside OpenCLIP's at every log step, and the same numbers for TensorBoard and wandb."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from open_clip_fff.config.numbers import cut
from open_clip_fff.mining.counts import ConnectionRates, Rates


@dataclass(frozen=True)
class StepReport:
    """What one log step shows.

    Attributes:
        epoch: as OpenCLIP counts, from 0.
        step: optimizer steps since the start of the run, from 0, as OpenCLIP's TensorBoard axis.
        rates: since the last log step, over all ranks; None where nothing counts.
        thresholds: those that a rate holds, by name; empty where none is held.
        trust: in self-mining, 0 to 1; None where it is not guarded.
        connections: what a discriminator said since the last log step; None where there is none.
        scale: exp(logit_scale), after the step.
        bias: logit_bias, after the step; None where the model has none.
        eta: seconds left in the run, from the mean of all steps so far.
    """

    epoch: int
    step: int
    rates: Rates
    thresholds: Mapping[str, float]
    trust: float | None
    scale: float
    bias: float | None
    eta: float
    connections: ConnectionRates | None = None

    def line(self) -> str:
        """One line for the log."""
        r = self.rates
        more = "" if r.right is None else f" Right: {r.right:.1%}"
        more += f" In doubt: {r.doubtful:.3f}" if r.doubtful else ""
        more += f" Held back: {r.held:.3f}" if r.held else ""
        more += "".join(f" {name} {cut(x)}" for name, x in self.thresholds.items()).replace("_prime", "'")
        more += "" if self.trust is None else f" trust {self.trust:.3f}"
        more += "" if self.connections is None else self._said(self.connections)
        bias = "" if self.bias is None else f" Bias: {self.bias:.3f}"
        return (
            f"FFF Epoch: {self.epoch} Step: {self.step} "
            f"Mined/image: {r.mined:.3f} (image-text {r.image_text:.3f}, image-image {r.image_image:.3f}, "
            f"text-text {r.text_text:.3f}){more} Positives: {r.positive_share:.3%} "
            f"Scale: {self.scale:.3f}{bias} ETA: {duration(self.eta)}"
        )

    def _said(self, c: ConnectionRates) -> str:
        if c.rate is None:
            if c.unasked:
                return " False negatives: not known (all of the hardest are below --match-gate)"
            return "" if c.true is None else f" Hardest of one class: {c.true:.1%}"
        shares = {
            "of images": c.by_image,
            "of captions": c.by_text,
            "truly": c.true,
            "right": c.right,
            "missed": c.missed,
            "ambiguous": c.doubtful,
            "not asked about": c.unasked or None,
        }
        told = ", ".join(f"{name} {share:.1%}" for name, share in shares.items() if share is not None)
        return f" False negatives: {c.rate:.1%} ({told})"

    def scalars(self) -> dict[str, float]:
        """By the tag under which trackers show it."""
        r = self.rates
        values = {
            "mined_per_image": r.mined,
            "mined_image_text": r.image_text,
            "mined_image_image": r.image_image,
            "mined_text_text": r.text_text,
            "doubtful_per_image": r.doubtful,
            "held_back_per_image": r.held,
            "positive_share": r.positive_share,
            "logit_scale": self.scale,
        }
        if self.bias is not None:
            values["logit_bias"] = self.bias
        if r.right is not None:
            values["mined_right"] = r.right
        if self.connections is not None:
            said = {**vars(self.connections), "rate": self.connections.rate}
            values.update({f"false_negatives_{name}": x for name, x in said.items() if x is not None})
        values.update({f"mining_{name}": x for name, x in self.thresholds.items()})
        if self.trust is not None:
            values["mining_trust"] = self.trust
        return {f"train/{name}": value for name, value in values.items()}


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


class Pace:
    """Time left, from the mean of the steps so far."""

    def __init__(self, steps: int) -> None:
        self.left, self.done, self.started = steps, 0, time.monotonic()

    def step(self) -> None:
        """One step is done."""
        self.left, self.done = self.left - 1, self.done + 1

    @property
    def eta(self) -> float:
        """Seconds left."""
        return (time.monotonic() - self.started) / max(self.done, 1) * self.left
