"""What a fusion model gets right, counted on the device, and its rates for the log."""

from dataclasses import dataclass

from torch import Tensor

from open_clip_fff.mining.counts import share
from open_clip_fff.mining.itm import CONVERTED, HARD, OWN, REPLACED

# The vector of counts: for each kind of pair, their number and how many were classified right; then the same for the
# masked tokens of own pairs and of converted pairs.
PAIR_KINDS = (OWN, HARD, CONVERTED, REPLACED)
MLM = 2 * len(PAIR_KINDS)  # where the masked tokens' counts begin
COUNTS_LENGTH = MLM + 4


@dataclass(frozen=True)
class FusionRates:
    """The fusion model since the last log step, over ranks; shares from 0 to 1, None where nothing was counted."""

    itm: float | None  # accuracy of matching, over all pairs; the next four are by kind of pair
    own: float | None
    hard: float | None
    converted_right: float | None
    replaced_right: float | None
    converted: float | None  # share of the hardest pairs
    replaced: float | None  # likewise
    mlm: float | None  # accuracy on masked tokens of own pairs; `mlm_converted` of converted ones
    mlm_converted: float | None

    def text(self) -> str:
        """For the log line."""
        shares = {
            "own": self.own,
            "hard": self.hard,
            "converted": self.converted_right,
            "replaced": self.replaced_right,
        }
        kinds = ", ".join(f"{name} {share:.1%}" for name, share in shares.items() if share is not None)
        text = "" if self.itm is None else f" ITM right: {self.itm:.1%} ({kinds})"
        if self.converted or self.replaced:
            text += f" converted {self.converted:.1%}, replaced {self.replaced:.1%}"
        if self.mlm is not None:
            more = "" if self.mlm_converted is None else f" (converted {self.mlm_converted:.1%})"
            text += f" MLM right: {self.mlm:.1%}{more}"
        return text


def fusion_rates(sums: Tensor) -> FusionRates:
    """Reads sums of counts, added over ranks."""
    numbers = sums.tolist()
    pairs, right = numbers[0:MLM:2], numbers[1:MLM:2]
    hardest = sum(pairs) - pairs[OWN]

    return FusionRates(
        share(sum(right), sum(pairs)),
        share(right[OWN], pairs[OWN]),
        share(right[HARD], pairs[HARD]),
        share(right[CONVERTED], pairs[CONVERTED]),
        share(right[REPLACED], pairs[REPLACED]),
        share(pairs[CONVERTED], hardest),
        share(pairs[REPLACED], hardest),
        share(numbers[MLM + 1], numbers[MLM]),
        share(numbers[MLM + 3], numbers[MLM + 2]),
    )
