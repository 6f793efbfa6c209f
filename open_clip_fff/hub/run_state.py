"""What a run found while it trained, from the state that it kept beside one checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from open_clip_fff.config.plan import Plan
from open_clip_fff.plural import plural


@dataclass(frozen=True)
class RunState:
    """Where a run stood when it wrote a checkpoint.

    Attributes:
        file: where the state is; None where there is none.
        held: the thresholds that a rate held, by name; None where none are known.
        steps: optimizer steps that mining counted; None where that was not kept.
        seen: what the last log line before it showed, by the names of TensorBoard's scalars.
    """

    file: str | None = None
    held: Mapping[str, float | None] | None = None
    steps: int | None = None
    seen: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, file: str, state: Mapping[str, Any], held: Mapping[str, float | None] | None) -> "RunState":
        """From the content of the file, and the thresholds that are in it."""
        return cls(file if state else None, held, state.get("miner", {}).get("step"), state.get("seen", {}))

    def sentences(self, plan: Plan) -> list[str]:
        """What of it a reader should know."""
        mining = plan.mining
        if mining is not None and self.steps is not None and self.steps <= mining.warmup:
            steps = f"training made {plural(self.steps, 'steps')}, and the warm-up is {plural(mining.warmup, 'steps')}"
            return [f"Nothing was mined yet: {steps}.", *self._of_hardest()]
        told = []
        if mining is not None and "train/mined_per_image" in self.seen:
            right = self.seen.get("train/mined_right")
            mined = f"{self.seen['train/mined_per_image']:.3f} captions per image were mined"
            told.append(
                f"{_WHEN}, {mined}" + ("." if right is None else f", {right:.1%} of them of the image's class.")
            )
        return told + self._of_hardest()

    def _of_hardest(self) -> list[str]:
        """What a discriminator said of the hardest negatives, or what their classes did."""
        prefix = "train/false_negatives_"
        shares = {name.removeprefix(prefix): f"{x:.1%}" for name, x in self.seen.items() if name.startswith(prefix)}
        if "rate" not in shares:
            true = shares.get("true")
            return [] if true is None else [f"{_WHEN}, {true} of the hardest negatives were of the image's class."]
        ways = ", ".join(f"{shares[name]} of {of}" for name, of in _WAYS.items() if name in shares)
        rate = f"MAFA's false-negative rate was {shares['rate']}: so many of the scored pairs were matches ({ways})"
        more = "".join(f", {shares[name]} {what}" for name, what in _MORE.items() if name in shares)
        return [f"{_WHEN}, {rate}{more}."]


_WHEN = "In the steps of the last log line"
_WAYS = {"by_image": "the images' hardest captions", "by_text": "the captions' hardest images"}
_MORE = {
    "doubtful": "were ambiguous",
    "true": "were of one class",
    "right": "of the matches were",
    "missed": "of the pairs of one class were called no match",
    "unasked": "of all hardest negatives were below the gate and not scored",
}
