"""The loss, and where its two learnable scalars start."""

from dataclasses import dataclass, field
from typing import ClassVar

from open_clip_fff.config.fields import Settings, setting
from open_clip_fff.config.numbers import number
from open_clip_fff.config.open_clip import Upstream
from open_clip_fff.config.topics import CLIP, COCA, FFF, GRIT, MAFA, SIGLIP, Topic, code, codes, since

REDUCTIONS = ("images", "pairs")
IMPLS = ("auto", "dense", "tiled", "triton")
DIST_IMPLS = ("gather", "ring")
PRODUCTS = ("float32", "bf16")
TWO_WAYS = ("softmax", "s-itc")  # losses with separate targets for the two directions
OURS = ("fff", *TWO_WAYS)
OUR_LOSSES = f"{', '.join(OURS[:-1])} or {OURS[-1]}"
STOCK_LOSSES = ("clip", "siglip")
POSITIVE_WEIGHTS = ("per-pair", "per-anchor", "mined-per-anchor")


@dataclass(frozen=True)
class PositiveWeights:
    """What the positives of an image weigh in a loss, where a negative weighs 1.

    Raises:
        ValueError: for anything else.
    """

    # `per-pair`: an own caption weighs 1, a mined one `mined`. `per-anchor`: the same, divided by their sum over the
    # image's positives. `mined-per-anchor`: an own caption weighs 1, all mined ones of an image together `mined`.
    per: str = "per-pair"
    mined: float = 1.0  # 0 or greater

    def __post_init__(self) -> None:
        if self.per not in POSITIVE_WEIGHTS:
            raise ValueError(f"positive_weight is {self.per!r}: choose from {', '.join(POSITIVE_WEIGHTS)}")
        if not 0.0 <= self.mined < float("inf"):
            raise ValueError(f"mined_weight is {self.mined:g}: it is 0 or greater (--mined-weight)")

    @property
    def equal(self) -> bool:
        """Whether every pair weighs 1."""
        return self == PositiveWeights()


def check_made(impl: str, dist_impl: str, weights: PositiveWeights, products: str = "float32") -> None:
    """Raises ValueError for unknown implementations of a loss, and for two that contradict each other."""
    chosen = ("impl is", impl, IMPLS), ("dist_impl is", dist_impl, DIST_IMPLS), ("products are", products, PRODUCTS)
    for what, value, choices in chosen:
        if value not in choices:
            raise ValueError(f"{what} {value!r}: choose from {', '.join(choices)}")
    if dist_impl == "ring" and impl == "dense":
        raise ValueError("dist_impl ring goes by tiles: impl dense needs all texts at once")
    if products == "bf16" and impl == "dense":
        raise ValueError(
            "products of bf16 are computed by tiles: impl dense has those of float32 (--loss-products, --loss-impl)"
        )
    if impl == "triton" and not weights.equal:
        raise ValueError(
            "impl is 'triton', whose kernel gives every pair the same weight: use 'tiled' (--loss-impl), or leave out "
            "--positive-weight and --mined-weight"
        )


@dataclass(frozen=True)
class Smoothing(Settings):
    """The target of smoothed ITC (MAFA, arXiv 2312.06112), and GRIT-VLP's (arXiv 2208.04060) two additions.

    Fields are documented by their flags' help. `over` = `group` means the row's mini-batch. Before epoch `start` alpha
    is 0: in epoch 0 batches are random. With `stop_gradient` the image-to-text softmax trains images alone, and the
    other direction texts alone.
    """

    group: ClassVar[str] = "smoothing"
    needs: ClassVar[str] = "--loss s-itc"
    alpha: float = setting(
        "smoothing",
        0.5,
        "share of the target that is spread evenly",
        metavar="ALPHA",
        check=(lambda alpha: 0.0 <= alpha <= 1.0, "smoothing is {:g}: it is from 0 to 1"),
    )
    over: str = setting(
        "smoothing_over",
        "all",
        "over all columns, or the rank's own mini-batch",
        choices=("all", "group"),
        when=lambda s: s.alpha > 0,
        needs="--smoothing above 0",
    )
    start: int = setting(
        "smoothing_start",
        1,
        "from which epoch on, from 0",
        metavar="EPOCH",
        check=(lambda epoch: epoch >= 0, "smoothing starts at epoch {}: it is 0 or later"),
        when=lambda s: s.alpha > 0,
        needs="--smoothing above 0",
    )
    stop_gradient: bool = setting(
        "itc_stop_gradient", False, "GRIT-VLP's: each direction of the softmax leaves its keys alone"
    )
    consistency: float = setting(
        "itc_consistency",
        0.0,
        "GRIT-VLP's: weight of a term by which the directions are each other's targets; 0.2 there",
        metavar="W",
        check=(lambda weight: weight >= 0, "the weight of consistency is {:g}: it is 0 or more"),
    )

    def describe(self, trained: int | None = None) -> tuple[str, ...]:
        """What smoothing adds to the softmax, as clauses; `trained` as in `topics.since`."""
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

    def check_made(self, impl: str, dist_impl: str, products: str = "float32") -> None:
        """Raises ValueError if such an implementation does not support these settings."""
        by_tiles = impl == "tiled" or dist_impl == "ring" or products == "bf16"
        if (self.stop_gradient or self.consistency) and by_tiles:
            raise ValueError(
                "stop_gradient and consistency (--itc-stop-gradient, --itc-consistency) need all logits at once: impl "
                "dense, dist_impl gather, products float32 (--loss-impl, --loss-dist-impl, --loss-products)"
            )


@dataclass(frozen=True)
class LossSettings(Settings):
    """The loss by its registered name; fields are documented by their flags' help.

    Attributes:
        dist_impl: how losses of `OURS` see all ranks' texts: `gather`, or `ring`.
        smoothing: of `s-itc`.
    """

    group: ClassVar[str] = "method"
    name: str | None = setting(
        "loss",
        None,
        "clip or siglip (OpenCLIP's own), fff (multi-positive sigmoid, FFF Eq. 2), softmax (multi-positive "
        "softmax over the same assignment), s-itc (that with smoothed targets), or one of your --plugin",
        unset="what OpenCLIP's flags say",
        metavar="NAME",
        shown=lambda s: s.name or "OpenCLIP's",
    )
    reduction: str = setting(
        "loss_reduction",
        "images",
        "norm of the sigmoid loss: per image, as Eq. 2 and SigLIP, or per counted pair",
        choices=REDUCTIONS,
        when=lambda s: not s.stock and s.name not in TWO_WAYS,
        needs="--loss fff",
    )
    impl: str = setting(
        "loss_impl",
        "auto",
        f"how --loss {OUR_LOSSES} is computed: tiled, whose memory is linear in the batch, or dense; triton: "
        "tiled with a fused kernel, for fff on a GPU",
        unset="auto, which is tiled, and dense with --itc-stop-gradient or --itc-consistency",
        choices=IMPLS,
        when=lambda s: s.name in OURS,
    )
    products: str = setting(
        "loss_products",
        "float32",
        "in what the loss multiplies features: bf16 rounds them and sums in float32, which gained nothing on an H200",
        choices=PRODUCTS,
        when=lambda s: s.name in OURS,
        needs=f"--loss {OUR_LOSSES}",
    )
    positive_weight: str = setting(
        "positive_weight",
        "per-pair",
        "in the sigmoid loss each positive weighs 1, or an image's positives together (per-anchor), or its mined ones "
        "together and its own captions 1 each (mined-per-anchor)",
        choices=POSITIVE_WEIGHTS,
        when=lambda s: s.name == "fff",
        needs="--loss fff",
    )
    mined_weight: float = setting(
        "mined_weight",
        1.0,
        "what a mined positive weighs where an own caption weighs 1",
        metavar="W",
        check=(lambda weight: 0.0 <= weight < float("inf"), "mined weight is {:g}: it is 0 or greater"),
        when=lambda s: s.name in OURS,
        needs=f"--loss {OUR_LOSSES}",
    )
    dist_impl: str = "gather"  # OpenCLIP's flag
    smoothing: Smoothing = field(default_factory=Smoothing)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_made(self.impl, self.dist_impl, self.weights, self.products)
        self.smoothing.check_made(self.impl, self.dist_impl, self.products)

    def describe(
        self, upstream: Upstream, single: bool, plugins: tuple[str, ...] = (), trained: int | None = None
    ) -> Topic:
        """The loss and its origin.

        `upstream` chooses among OpenCLIP's own losses. `single`: whether a row's one caption is its only own.
        `plugins`: modules that may define the loss. `trained` is as in `topics.since`.
        """
        if self.stock:
            return Topic("loss", (_stock_words(upstream, self.name == "siglip"),))
        if self.name == "fff":
            pairs = "the counted pairs" if self.weights.equal else "the weights of the counted pairs"
            over = {"images": "the images", "pairs": pairs}[self.reduction]
            about = "a sigmoid over all images and all captions of the batch, any number of positives per image"
            parts = (f"FFF's Eq. 2 ({FFF}), {about}", *self._weights(), f"the sum divided by {over}")
            return Topic("loss", (*parts, *self._products()))
        if self.name == "softmax" and single:
            rows = "but rows of the same image are positives of each other"
            about = f"a softmax with one caption per image, CLIP's ({CLIP}), {rows}"
            return Topic("loss", (about, *self._products()))
        if self.name == "softmax":
            about = f"a softmax over FFF's assignment ({FFF}), each target spread evenly over its positives"
            parts = (about, *self._weights(), "any number of positives per image")
            return Topic("loss", (*parts, "open_clip_fff's own, not the paper's", *self._products()))
        if self.name == "s-itc":
            about = f"MAFA's S-ITC ({MAFA}), a softmax with any number of positives per image"
            return Topic("loss", (about, *self._weights(), *self.smoothing.describe(trained), *self._products()))
        return Topic(
            "loss", (f"{code(self.name or '')}, a loss of a plug-in" + f" ({codes(plugins)})" * bool(plugins),)
        )

    def _weights(self) -> tuple[str, ...]:
        """What positives weigh, where that is not 1 each."""
        own = f"a mined positive weighs {number(self.mined_weight)} where an own caption weighs 1"
        if self.name == "fff" and self.positive_weight == "per-anchor":
            return "the positives of an image weigh 1 together", *[own] * (self.mined_weight != 1.0)
        if self.name == "fff" and self.positive_weight == "mined-per-anchor":
            return (f"an own caption weighs 1, the mined positives of an image together {number(self.mined_weight)}",)
        return () if self.mined_weight == 1.0 else (own,)

    def _products(self) -> tuple[str, ...]:
        return ("features multiplied in bfloat16, summed in float32",) * (self.products == "bf16")

    @property
    def weights(self) -> PositiveWeights:
        """What positives weigh; the softmax losses take --mined-weight alone."""
        if self.name not in OURS:
            return PositiveWeights()
        return PositiveWeights(self.positive_weight if self.name == "fff" else "per-pair", self.mined_weight)

    @property
    def stock(self) -> bool:
        """True where OpenCLIP computes the loss, from one caption per image."""
        return self.name is None or self.name in STOCK_LOSSES


def _stock_words(upstream: Upstream, siglip: bool) -> str:
    """OpenCLIP's own losses."""
    name = upstream.stock_loss(siglip)
    if name == "distill":
        teacher, weights = upstream.distill_model or "", upstream.distill_pretrained or ""
        named = (teacher,) if ":" in teacher else (teacher, weights)  # such a name has its own weights
        return f"OpenCLIP's DistillClipLoss, CLIP's softmax ({CLIP}) and that of a teacher, {codes(named)}"
    return {
        "clip": f"OpenCLIP's ClipLoss, CLIP's softmax ({CLIP}), one positive per image",
        "siglip": f"OpenCLIP's SigLipLoss, SigLIP's sigmoid ({SIGLIP}), one positive per image",
        "coca": f"OpenCLIP's CoCaLoss, contrastive and captioning ({COCA}), one positive per image",
    }[name]


def _bias(text: str) -> float | str:
    try:
        return "auto" if text == "auto" else float(text)
    except ValueError:
        raise ValueError(f"invalid 'auto' or a number value: {text!r}") from None


@dataclass(frozen=True)
class LogitSettings(Settings):
    """logits = scale * cosine + bias, both learnable; fields are documented by their flags' help."""

    group: ClassVar[str] = "logits"
    scale_init: float | None = setting(
        "logit_scale_init",
        None,
        "starting scale exp(logit_scale)",
        unset="the model's own",
        metavar="S",
        check=(lambda scale: 1.0 <= scale <= 100.0, "logit scale is {}: OpenCLIP keeps it from 1 to 100"),
    )
    bias_init: float | str | None = setting(
        "logit_bias_init",
        None,
        "starting bias b = -β; auto: ln(P/(1-P)) - s·c from the first batches",
        unset="auto for sigmoid losses",
        metavar="auto|B",
        parse=_bias,
    )
    lr_mult: float = setting(
        "logit_lr_mult",
        1.0,
        "learning rate of scale and bias over the towers'",
        metavar="X",
        check=(lambda factor: factor > 0, "logit learning-rate multiple is {}: it is greater than 0"),
    )

    def describe(self, upstream: Upstream, loss: LossSettings, given: frozenset[str], resumed: bool) -> Topic:
        """Where scale and bias start, and how fast they learn; loaded values stay unless a start was given.

        `resumed` is whether they continue from a checkpoint of the run.
        """
        siglip = loss.stock and upstream.stock_loss(loss.name == "siglip") == "siglip"
        loaded = "that of the weights that training starts from"
        scale = "OpenCLIP's 10" if siglip else "the model's own"
        if upstream.has_weights and "logit_scale_init" not in given:
            scale = loaded
        elif self.scale_init is not None:
            scale = number(self.scale_init)
        bias = "OpenCLIP's -10" if siglip else "what is measured before the first step"
        if isinstance(self.bias_init, float):
            bias = number(self.bias_init)
        if upstream.has_weights and "logit_bias_init" not in given:
            bias = f"{loaded} if they have one, else {bias}"
        parts = [f"scale starts at {scale}"]
        if loss.name == "fff" or siglip:
            parts.append(f"bias at {bias}")
        elif not loss.stock and loss.name not in OURS:
            parts.append(f"bias, if the loss has one, at {bias}")
        if resumed:
            found = "the last checkpoint, if there is one" if upstream.resume == "latest" else "the checkpoint"
            parts = [f"scale and bias go on from {found}"]
        rate = "the towers' rate" if self.lr_mult == 1.0 else f"{number(self.lr_mult)} times the towers' rate"
        return Topic("logits", (*parts, f"learning at {rate}"))
