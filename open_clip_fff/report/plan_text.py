"""The plan in words, before training starts."""

from open_clip_fff.settings.connection import ConnectionSettings
from open_clip_fff.settings.flags import as_flag
from open_clip_fff.settings.grouping import GroupingSettings
from open_clip_fff.settings.mining import MiningConfig
from open_clip_fff.settings.objective import Smoothing
from open_clip_fff.settings.plan import Plan

_NAMES = {"cosmo": "cosmo (MAFA under the name of its first version)"}
_POLICY = {"all": "all in the same batch", "sample": "one of them drawn at each visit", "first": "the first one used"}
_MINED_AS = {"positive": "mined pairs become positives", "ignore": "mined pairs leave the loss"}


def plan_lines(plan: Plan, full_length: str | None = None) -> list[str]:
    """What the run will do, one topic a line.

    Args:
        plan: of the run.
        full_length: why the text tower needs captions at full length; None where they may be trimmed.
    """
    name = plan.method or "none"
    typed = " ".join(as_flag(flag) for flag in sorted(plan.typed))
    return [
        f"  method    {_NAMES.get(name, name)} (typed: {typed})",
        f"  loss      {_loss(plan)}",
        f"  captions  {_captions(plan)}",
        *([f"  text      {_text(plan, full_length)}"] if not plan.text.whole else []),
        f"  mining    {_mining(plan)}",
        *([f"  judge     {_judge(plan.connection)}"] if plan.connection is not None else []),
        f"  logits    {_logits(plan)}",
        *([f"  weights   moving average, decay {plan.ema_decay:g}"] if plan.ema_decay is not None else []),
        *([f"  grouping  {_grouping(plan.grouping)}"] if plan.grouping is not None else []),
        *([f"  zero-shot {', '.join(plan.zero_shot.sets)} in {plan.zero_shot.root}"] if plan.zero_shot else []),
        *([f"  hooks     {', '.join(plan.batch_hooks)}"] if plan.batch_hooks else []),
    ]


def _loss(plan: Plan) -> str:
    if plan.loss.name is None:
        return "OpenCLIP's, by its own flags"
    if plan.loss.stock:
        return f"{plan.loss.name} (OpenCLIP's own)"
    more = {"fff": f" (norm by {plan.loss.reduction})", "s-itc": f" ({_smoothing(plan.loss.smoothing)})"}
    return plan.loss.name + more.get(plan.loss.name, "")


def _smoothing(smoothing: Smoothing) -> str:
    over = {"all": "all columns", "group": "the rank's mini-batch"}[smoothing.over]
    parts = [f"{smoothing.alpha:g} of the target even over {over} from epoch {smoothing.start} on"]
    parts += ["keys without gradient"] * smoothing.stop_gradient
    parts += [f"consistency {smoothing.consistency:g}"] * (smoothing.consistency > 0)
    return ", ".join(parts)


def _judge(connection: ConnectionSettings) -> str:
    parts = [
        f"{connection.discriminator} looks at each image's and each caption's hardest negative",
        f"a positive above {connection.positive:g}, ignored down to {connection.negative:g}",
    ]
    if connection.gate is not None:
        parts.append(f"asked above cosine {connection.gate:g}")
    parts += [f"from epoch {connection.start} on"] * (connection.start > 0)
    parts += [f"verdicts kept in {connection.cache}"] * (connection.cache is not None)
    return "; ".join(parts)


def _grouping(grouping: GroupingSettings) -> str:
    features = {"bank": "by the last epoch's features, the first at random", "stored": "by stored features"}
    parts = [
        f"mini-batches of alike samples, per {grouping.scope}, {features[grouping.source]}",
        f"search spaces of {grouping.search_space:,}, queue {grouping.queue:,}",
    ]
    parts += [f"{grouping.share:.0%} of the mini-batches"] * (grouping.share < 1)
    parts += [f"at quantile {grouping.quantile:g}"] * (grouping.quantile < 1)
    return "; ".join(parts)


def _captions(plan: Plan) -> str:
    captions = plan.captions
    return f"up to {captions.per_image} per image, {_POLICY[captions.policy]}"


def _text(plan: Plan, full_length: str | None) -> str:
    text = plan.text
    if not text.trim:
        length = "at full length"
    elif full_length is not None:
        length = f"at full length: {full_length}"
    else:
        together = f" in up to {text.groups} groups" if text.groups > 1 else ""
        length = f"trimmed to the longest caption{together} (a multiple of {text.multiple} tokens)"
    unless = "" if "distinct_captions" in plan.typed else ", unless the tower has dropout"
    return length + (f"; equal captions encoded once{unless}" if text.distinct else "")


def _mining(plan: Plan) -> str:
    config = plan.mining
    if config is None:
        return "off: only an image's own captions are its positives"
    parts = [_miner(plan), _clauses(config), "no cap" if config.cap is None else f"at most {config.cap} per image"]
    parts.append(_MINED_AS[config.mined_as] + (f"; a band of {config.band:g} below is ignored" if config.band else ""))
    if not config.raw:
        parts.append("raw captions take no part")
    if config.warmup:
        parts.append(f"from step {config.warmup:,}")
    if config.guarded:
        parts.append("guarded: at most twice what the warm-up's end mines, and only while own captions are found")
    return "; ".join(parts)


def _miner(plan: Plan) -> str:
    if plan.features == "ema":
        return "the moving average of the trained model"
    if plan.features == "online":
        return "the trained model itself"
    kind = {"frozen": "frozen", "text": "sentence model", "precomputed": "precomputed features"}[plan.features]
    miner = plan.miner
    if miner is None:
        return kind
    return f"{kind} {miner.model}" + (f" ({miner.pretrained})" if miner.pretrained else "")


def _clauses(config: MiningConfig) -> str:
    def bar(value: float | None) -> str:
        return "off" if value is None else f"{value:g}"

    if config.per_image is not None:
        named = (("image-text", config.p1), ("image-image", config.p2), (f"text-text ({config.text_text})", config.p3))
        on = ", ".join(name for name, threshold in named if threshold is not None)
        return f"{config.per_image:g} captions per image by {on}, whose thresholds are found and held"
    return (
        f"image-text > p1 {bar(config.p1)}, image-image > p2 {bar(config.p2)}, "
        f"text-text > p3 {bar(config.p3)} ({config.text_text}) with image-text > p1' {bar(config.p1_prime)}"
    )


def _logits(plan: Plan) -> str:
    logits = plan.logits
    scale = "the model's own" if logits.scale_init is None else f"{logits.scale_init:g}"
    if isinstance(logits.bias_init, float):
        bias = f"{logits.bias_init:g}"
    else:
        bias = "the model's own" if plan.loss.stock else "measured before the first step, if the loss has one"
    return f"scale starts at {scale}, bias {bias}; their learning rate x{logits.lr_mult:g}"
