"""What a training's log says of its fusion model and of false negatives."""

import re

import numpy as np

OF_NEGATIVES = {
    "true": r"(?:truly|Hardest of one class:) ([\d.]+)%",
    "match": r"False negatives: ([\d.]+)%",
    "right": r"right ([\d.]+)%",
    "missed": r"missed ([\d.]+)%",
}
OF_FUSION = {
    "ITM right": r"ITM right: ([\d.]+)%",
    "own": r"\(own ([\d.]+)%",
    "hard": r"hard ([\d.]+)%",
    "converted": r" converted ([\d.]+)%, replaced",
    "replaced": r", replaced ([\d.]+)% MLM",
    "MLM right": r"MLM right: ([\d.]+)%",
    "false negatives": r"False negatives: ([\d.]+)%",
}


def negatives(log: str) -> dict[int, dict[str, float]]:
    """By epoch, shares of the hardest negatives, %: of one photograph, called a match, right ones, missed ones."""
    found: dict[int, dict[str, float]] = {}
    for epoch in sorted({int(number) for number in re.findall(r"FFF Epoch: (\d+)", log)}):
        lines = [line for line in log.splitlines() if f"FFF Epoch: {epoch} " in line]
        text = "\n".join(lines[1:] or lines)  # the first is of one step of this epoch and some of the one before
        text = re.sub(r"ITM right.*", "", text)  # what the fusion model gets right is something else
        shares = {name: [float(x) for x in re.findall(pattern, text)] for name, pattern in OF_NEGATIVES.items()}
        found[epoch] = {name: round(float(np.mean(values)), 3) for name, values in shares.items() if values}
    return found


def at_the_end(log: str) -> dict[str, float]:
    """Of the last line that says it, %: pairs and tokens that are right, hardest pairs converted and replaced."""
    return {name: float(found[-1]) for name, pattern in OF_FUSION.items() if (found := re.findall(pattern, log))}
