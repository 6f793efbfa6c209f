"""What is minimised, and where its two learnable scalars start."""

from dataclasses import dataclass, field

REDUCTIONS = ("images", "pairs")
IMPLS = ("auto", "dense", "tiled", "triton")
DIST_IMPLS = ("gather", "ring")
SPREADS = ("all", "group")
OURS = ("fff", "softmax", "s-itc")
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
class Smoothing:
    """The target of smoothed ITC (MAFA, arXiv 2312.06112), and GRIT-VLP's (arXiv 2208.04060) two additions.

    Attributes:
        alpha: share of the target that is spread evenly, 0 to 1.
        over: what it is spread over: `all` columns, or those of the row's own `group`, the mini-batch that the loader
            gave it.
        start: the epoch from which on it is; earlier ones have alpha 0. In epoch 0 batches are random.
        stop_gradient: whether each direction leaves its keys alone: images learn from their softmax over texts, texts
            from theirs over images.
        consistency: weight of a term by which each direction's softmax is the other's target; GRIT-VLP's is 0.2.
    """

    alpha: float = 0.5
    over: str = "all"
    start: int = 1
    stop_gradient: bool = False
    consistency: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.alpha <= 1.0:
            raise ValueError(f"smoothing is {self.alpha:g}: it is from 0 to 1")
        if self.over not in SPREADS:
            raise ValueError(f"smoothing is over {self.over!r}: choose from {', '.join(SPREADS)}")
        if self.start < 0:
            raise ValueError(f"smoothing starts at epoch {self.start}: it is 0 or later")
        if self.consistency < 0:
            raise ValueError(f"the weight of consistency is {self.consistency:g}: it is 0 or more")

    def check_made(self, impl: str, dist_impl: str) -> None:
        """Raises ValueError where a loss that is computed like this has not all of it."""
        if (self.stop_gradient or self.consistency) and (impl == "tiled" or dist_impl == "ring"):
            raise ValueError("stop_gradient and consistency need all logits at once: impl dense, dist_impl gather")


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
        smoothing: of `s-itc`.
    """

    name: str | None = None
    reduction: str = "images"
    impl: str = "auto"
    dist_impl: str = "gather"
    smoothing: Smoothing = field(default_factory=Smoothing)

    def __post_init__(self) -> None:
        check_made(self.impl, self.dist_impl)
        self.smoothing.check_made(self.impl, self.dist_impl)
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
