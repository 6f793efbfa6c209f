"""What is minimised, and where its two learnable scalars start."""

from dataclasses import dataclass

REDUCTIONS = ("images", "pairs")
IMPLS = ("auto", "dense", "tiled", "triton")
DIST_IMPLS = ("gather", "ring")
STOCK_LOSSES = ("clip", "siglip")


def check_made(impl: str, dist_impl: str) -> None:
    """How a loss is computed.

    Raises:
        ValueError: for what there is not, and for what does not go together.
    """
    if impl not in IMPLS:
        raise ValueError(f"impl is {impl!r}: choose from {', '.join(IMPLS)}")
    if dist_impl not in DIST_IMPLS:
        raise ValueError(f"dist_impl is {dist_impl!r}: choose from {', '.join(DIST_IMPLS)}")
    if dist_impl == "ring" and impl == "dense":
        raise ValueError("dist_impl ring goes by tiles: impl dense needs all texts at once")


@dataclass(frozen=True)
class LossSettings:
    """The loss by its registered name.

    Attributes:
        name: `clip` and `siglip` are OpenCLIP's own; every other name is in `open_clip_fff.losses.registry`.
            None leaves the choice to OpenCLIP's flags.
        reduction: the sigmoid's norm: `images` sums over texts and divides by images (as SigLIP), `pairs` divides
            by all counted pairs.
        impl: how `fff` and `softmax` are computed: `tiled`, `dense`, `auto`, which chooses, or, for `fff` alone,
            `triton`.
        dist_impl: how they see all ranks' texts: `gather`, or `ring`.
    """

    name: str | None = None
    reduction: str = "images"
    impl: str = "auto"
    dist_impl: str = "gather"

    def __post_init__(self) -> None:
        check_made(self.impl, self.dist_impl)
        if self.reduction not in REDUCTIONS:
            raise ValueError(f"reduction is {self.reduction!r}: choose from {', '.join(REDUCTIONS)}")

    @property
    def stock(self) -> bool:
        """True where OpenCLIP computes the loss, from one caption per image."""
        return self.name is None or self.name in STOCK_LOSSES


@dataclass(frozen=True)
class LogitSettings:
    """logits = scale * cosine + bias, both scalars learnable.

    Attributes:
        scale_init: starting scale (a number > 0, not its logarithm); None keeps the model's own.
        bias_init: starting bias b = -β; `auto` measures it from the first batches; None keeps the model's own.
        lr_mult: learning rate of the two scalars as a multiple of the towers'.
    """

    scale_init: float | None = None
    bias_init: float | str | None = None
    lr_mult: float = 1.0

    def __post_init__(self) -> None:
        if self.scale_init is not None and not 1.0 <= self.scale_init <= 100.0:
            raise ValueError(f"logit scale is {self.scale_init}: OpenCLIP keeps it from 1 to 100")
        if self.lr_mult <= 0:
            raise ValueError(f"logit learning-rate multiple is {self.lr_mult}: it is greater than 0")
