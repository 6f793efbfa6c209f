"""The flags of OpenCLIP that describe a run."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Upstream:
    """Fields are named as OpenCLIP's flags are, and have its defaults."""

    model: str = ""  # the architecture
    pretrained: str | None = None  # weights that training starts from
    siglip: bool = False  # whether its sigmoid loss was asked for
    resume: str | None = None  # checkpoint of the run
    distill_model: str | None = None  # a teacher
    distill_pretrained: str | None = None  # its weights
    dataset_type: str = "auto"  # `webdataset`, `csv`, `synthetic`, or `auto`, by the name of the data
    train_data: str | None = None  # shards or a table
    csv_caption_key: str = "title"  # a CSV's column of captions; with our flags, several with semicolons between them

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Upstream":
        """From values by name, such as OpenCLIP's namespace; missing ones have their default."""
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})

    @property
    def data(self) -> str:
        """`webdataset`, `csv` or `synthetic`, as OpenCLIP decides."""
        if self.dataset_type != "auto":
            return self.dataset_type
        return "csv" if (self.train_data or "").endswith((".csv", ".tsv")) else "webdataset"

    @property
    def has_weights(self) -> bool:
        """Whether training starts from weights: named ones, or those of a model with a schema."""
        return bool(self.pretrained) or ":" in self.model

    def stock_loss(self, siglip: bool) -> str:
        """Which of its losses OpenCLIP takes: `distill`, `coca`, `siglip` or `clip`, in its order of precedence.

        `siglip` is whether --loss or a method stands for OpenCLIP's --siglip.
        """
        if self.distill_model and self.distill_pretrained:
            return "distill"
        if "coca" in self.model.lower():
            return "coca"
        return "siglip" if self.siglip or siglip else "clip"
