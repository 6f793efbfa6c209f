"""Which captions an image has, and which of them reach the batch."""

from dataclasses import dataclass

POLICIES = ("all", "sample", "first")


@dataclass(frozen=True)
class CaptionSettings:
    """Where captions are read and how many of an image's captions join a batch.

    Attributes:
        per_image: K, the most captions of one image that are used.
        policy: `all` K in the same batch, `sample` one of the K at each visit, or the `first` that is not empty.
        text_keys: tar members (or the CSV columns of --csv-caption-key) that hold one caption each.
        json_keys: fields of the tar member `json` that hold a caption or a list of captions.
    """

    per_image: int = 1
    policy: str = "first"
    text_keys: tuple[str, ...] = ("txt",)
    json_keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.per_image < 1:
            raise ValueError(f"captions per image is {self.per_image}: it is at least 1")
        if self.policy not in POLICIES:
            raise ValueError(f"caption policy is {self.policy!r}: choose from {', '.join(POLICIES)}")
        if not self.text_keys and not self.json_keys:
            raise ValueError("no caption source: name a tar member or a json field")

    @property
    def columns(self) -> int:
        """How many captions of each image stand in one batch: K under `all`, else 1."""
        return self.per_image if self.policy == "all" else 1

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources as people name them, in the order in which they join the row."""
        return (*self.text_keys, *(f"json:{key}" for key in self.json_keys))
