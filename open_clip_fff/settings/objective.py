"""What is minimised, and where its two learnable scalars start."""

from dataclasses import dataclass, field

from open_clip_fff.settings.fields import setting
from open_clip_fff.settings.numbers import number
from open_clip_fff.settings.upstream import Upstream
from open_clip_fff.settings.words import CLIP, COCA, FFF, GRIT, MAFA, SIGLIP, Topic, code, codes, since

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

    alpha: float = setting("smoothing", 0.5)
    over: str = setting("smoothing_over", "all", when=lambda s: s.alpha > 0)
    start: int = setting("smoothing_start", 1, when=lambda s: s.alpha > 0)
    stop_gradient: bool = setting("itc_stop_gradient", False)
    consistency: float = setting("itc_consistency", 0.0)

    def __post_init__(self) -> None:
        if not 0.0 <= self.alpha <= 1.0:
            raise ValueError(f"smoothing is {self.alpha:g}: it is from 0 to 1")
        if self.over not in SPREADS:
            raise ValueError(f"smoothing is over {self.over!r}: choose from {', '.join(SPREADS)}")
        if self.start < 0:
            raise ValueError(f"smoothing starts at epoch {self.start}: it is 0 or later")
        if self.consistency < 0:
            raise ValueError(f"the weight of consistency is {self.consistency:g}: it is 0 or more")

    def describe(self, trained: int | None = None) -> tuple[str, ...]:
        """What it adds to the softmax, as clauses; `trained` is that of `words.since`."""
        over = {"all": "all columns", "group": "the rank's mini-batch"}[self.over]
        parts = [f"{number(self.alpha)} of each target even over {over} {since(self.start, trained)}"]
        if not self.alpha:
            parts = ["no smoothing"]
        parts += [f"each direction leaves its keys without gradient (GRIT-VLP, {GRIT})"] * self.stop_gradient
        if self.consistency:
            parts.append(
                f"{number(self.consistency)} times a consistency term between the directions (GRIT-VLP, {GRIT})"
            )
        return tuple(parts)

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

    name: str | None = setting("loss", None, shown=lambda s: s.name or "OpenCLIP's")
    reduction: str = setting("loss_reduction", "images", when=lambda s: s.name == "fff")
    impl: str = setting("loss_impl", "auto", when=lambda s: s.name in OURS)
    dist_impl: str = "gather"  # OpenCLIP's flag
    smoothing: Smoothing = field(default_factory=Smoothing)

    def __post_init__(self) -> None:
        check_made(self.impl, self.dist_impl)
        self.smoothing.check_made(self.impl, self.dist_impl)
        if self.reduction not in REDUCTIONS:
            raise ValueError(f"reduction is {self.reduction!r}: choose from {', '.join(REDUCTIONS)}")

    def describe(
        self, upstream: Upstream, single: bool, plugins: tuple[str, ...] = (), trained: int | None = None
    ) -> Topic:
        """What is minimised, and whose it is.

        Args:
            upstream: OpenCLIP's flags, which choose among its own losses.
            single: whether an image has one positive, its one caption.
            plugins: modules that may have brought the loss.
            trained: that of `words.since`.
        """
        if self.stock:
            return Topic("loss", (_stock_words(upstream, self.name == "siglip"),))
        if self.name == "fff":
            over = {"images": "the images", "pairs": "the counted pairs"}[self.reduction]
            about = "a sigmoid over all images and all captions of the batch, any number of positives per image"
            return Topic("loss", (f"FFF's Eq. 2 ({FFF}), {about}", f"the sum divided by {over}"))
        if self.name == "softmax" and single:
            return Topic("loss", (f"a softmax with one positive per image, which is CLIP's ({CLIP})",))
        if self.name == "softmax":
            about = f"a softmax over FFF's assignment ({FFF}), each target spread evenly over its positives"
            return Topic("loss", (about, "any number of positives per image", "open_clip_fff's own, not the paper's"))
        if self.name == "s-itc":
            about = f"MAFA's S-ITC ({MAFA}), a softmax with any number of positives per image"
            return Topic("loss", (about, *self.smoothing.describe(trained)))
        return Topic(
            "loss", (f"{code(self.name or '')}, a loss of a plug-in" + f" ({codes(plugins)})" * bool(plugins),)
        )

    @property
    def stock(self) -> bool:
        """True where OpenCLIP computes the loss, from one caption per image."""
        return self.name is None or self.name in STOCK_LOSSES


def _stock_words(upstream: Upstream, siglip: bool) -> str:
    """OpenCLIP's own losses."""
    name = upstream.stock_loss(siglip)
    if name == "distill":
        teacher = codes((upstream.distill_model or "", upstream.distill_pretrained or ""))
        return f"OpenCLIP's DistillClipLoss, CLIP's softmax ({CLIP}) and that of a teacher, {teacher}"
    return {
        "clip": f"OpenCLIP's ClipLoss, CLIP's softmax ({CLIP}), one positive per image",
        "siglip": f"OpenCLIP's SigLipLoss, SigLIP's sigmoid ({SIGLIP}), one positive per image",
        "coca": f"OpenCLIP's CoCaLoss, contrastive and captioning ({COCA}), one positive per image",
    }[name]


@dataclass(frozen=True)
class LogitSettings:
    """logits = scale * cosine + bias, both scalars learnable.

    Attributes:
        scale_init: starting scale (a number > 0, not its logarithm); None keeps the model's own.
        bias_init: starting bias b = -β; `auto` measures it from the first batches; None keeps the model's own.
        lr_mult: learning rate of the two scalars as a multiple of the towers'.
    """

    scale_init: float | None = setting("logit_scale_init", None)
    bias_init: float | str | None = setting("logit_bias_init", None)
    lr_mult: float = setting("logit_lr_mult", 1.0)

    def __post_init__(self) -> None:
        if self.scale_init is not None and not 1.0 <= self.scale_init <= 100.0:
            raise ValueError(f"logit scale is {self.scale_init}: OpenCLIP keeps it from 1 to 100")
        if self.lr_mult <= 0:
            raise ValueError(f"logit learning-rate multiple is {self.lr_mult}: it is greater than 0")

    def describe(self, upstream: Upstream, loss: LossSettings, typed: frozenset[str]) -> Topic:
        """Where the two scalars start, and how fast they learn.

        Args:
            upstream: says whether there are weights to start from, whose scalars stay unless a start was typed.
            loss: says whether there is a bias.
            typed: the flags that were typed.
        """
        siglip = loss.stock and upstream.stock_loss(loss.name == "siglip") == "siglip"
        loaded = "that of the weights that training starts from"
        scale = "OpenCLIP's 10" if siglip else "the model's own"
        if upstream.has_weights and "logit_scale_init" not in typed:
            scale = loaded
        elif self.scale_init is not None:
            scale = number(self.scale_init)
        bias = "OpenCLIP's -10" if siglip else "what is measured before the first step"
        if isinstance(self.bias_init, float):
            bias = number(self.bias_init)
        if upstream.has_weights and "logit_bias_init" not in typed:
            bias = f"{loaded} if they have one, else {bias}"
        parts = [f"scale starts at {scale}"]
        if loss.name == "fff" or siglip:
            parts.append(f"bias at {bias}")
        elif not loss.stock and loss.name not in OURS:
            parts.append(f"bias, if the loss has one, at {bias}")
        rate = "the towers' rate" if self.lr_mult == 1.0 else f"{number(self.lr_mult)} times the towers' rate"
        return Topic("logits", (*parts, f"learning at {rate}"))
