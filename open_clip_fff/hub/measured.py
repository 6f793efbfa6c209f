"""The results of open-clip-fff compare, for the card of a model that was compared."""

import json
from dataclasses import dataclass
from pathlib import Path

from open_clip_fff.errors import UsageError, reason

TABLE_NAME, MODELS_NAME = "table.md", "comparison.json"


@dataclass(frozen=True)
class MeasuredRow:
    """A comparison that includes the model.

    Attributes:
        label: the model's row.
        models: of the row: seeds of one training if there are several.
        table: markdown, with notes.
    """

    label: str
    models: int
    table: str


def read_comparison(folder: Path, weights: str) -> MeasuredRow:
    """The row of a comparison that has the model with these weights.

    Args:
        folder: of open-clip-fff compare.
        weights: `fingerprint` of the model's state dict.

    Raises:
        UsageError: if there is no comparison, or the model is not in it.
    """
    try:
        models = json.loads((folder / MODELS_NAME).read_text(encoding="utf-8"))["models"]
        table = (folder / TABLE_NAME).read_text(encoding="utf-8").strip()
        rows = [(each["label"], len(each["weights"])) for each in models if weights in each["weights"]]
        known = ", ".join(each["label"] for each in models)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--comparison {folder}: no comparison of open-clip-fff compare ({reason(error)})") from error
    if not rows:
        raise UsageError(
            f"--comparison {folder}: these weights ({weights[:8]}) were not measured there, only those of {known}; "
            f"score them with open-clip-fff score and compare again"
        )
    return MeasuredRow(*rows[0], table)
