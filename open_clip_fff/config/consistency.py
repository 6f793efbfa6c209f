"""Settings that contradict each other, and flags that would do nothing."""

from open_clip_fff.config.all_settings import OWNERS
from open_clip_fff.config.fields import as_flag, fields_by_flag, flag_of, has_effect
from open_clip_fff.config.mining import IMAGE_THRESHOLDS, SELF_FEATURES, THRESHOLDS, FrozenSource, MiningConfig
from open_clip_fff.config.objective import OUR_LOSSES, OURS
from open_clip_fff.config.plan import GROUPING_HOOK, Plan
from open_clip_fff.errors import UsageError

MINING, MODEL = (frozenset(fields_by_flag(kind)) for kind in (MiningConfig, FrozenSource))


def check(plan: Plan) -> None:
    """Raises UsageError for flags that contradict each other, and for those that would do nothing."""
    loss = plan.loss.name or "OpenCLIP's loss"
    if plan.loss.stock:
        _check_stock(plan, loss)
    _check_captions(plan, loss)
    _check_mining(plan)
    if "loss_impl" in plan.given and plan.loss.name not in OURS:
        raise UsageError(f"--loss-impl: chooses how --loss {', '.join(OURS)} are computed; {loss} has one way only")
    _check_needs(plan)
    _check_weights(plan)
    _check_connection(plan)
    _check_fusion(plan, loss)
    if plan.batch_hooks.count(GROUPING_HOOK) > 1:
        raise UsageError(f"--batch-hooks {';'.join(plan.batch_hooks)}: name {GROUPING_HOOK} once")
    if plan.grouping is not None and plan.grouping.source == "stored" and plan.stored_by and not plan.stored_by.images:
        raise UsageError(
            f"--group-features stored: {plan.stored_by.model}, whose features are stored, knows no images, and "
            f"grouping goes from images to texts and back; use --group-features bank"
        )
    if plan.loss.impl == "triton" and plan.loss.name != "fff":
        raise UsageError(f"--loss-impl triton: the kernel is that of --loss fff; for {loss} use --loss-impl tiled")


def idle_notes(plan: Plan) -> list[str]:
    """Warnings about flags for the log that log nothing here: no errors, since runs share command lines."""
    if "class_key" in plan.given and not (plan.mining or plan.connection or plan.grouping):
        return ["warning: --class-key tells which mined pairs are right, and in this run nothing is mined"]
    return []


def _check_needs(plan: Plan) -> None:
    """Refuses flags of unused settings, and flags that another setting leaves without effect."""
    for kind in OWNERS:
        part = plan.parts.get(kind)
        for name, field in fields_by_flag(kind).items():
            needs = kind.needs if part is None else flag_of(field).needs
            off = part is None and needs.partition(" ")[0] == as_flag(name)  # e.g. --fusion-layers 0
            off = off or plan.values[name] is None  # e.g. --p1-prime off
            if name in plan.given and needs and not off and (part is None or not has_effect(field, part)):
                raise UsageError(f"{as_flag(name)} does nothing without {needs}")


def _check_weights(plan: Plan) -> None:
    """Refuses weights of mined positives where there are none."""
    mined = plan.connection is not None or (plan.mining is not None and plan.mining.mined_as == "positive")
    mined = mined or plan.captions.gives_positives
    if not mined and "mined_weight" in plan.given:
        raise UsageError(f"--mined-weight {plan.loss.mined_weight:g}: no mined pair becomes a positive here; drop it")
    if not mined and plan.loss.positive_weight == "mined-per-anchor":
        raise UsageError("--positive-weight mined-per-anchor: no mined pair becomes a positive here; use per-anchor")


def _check_connection(plan: Plan) -> None:
    if plan.connection is None:
        if plan.method in ("mafa", "cosmo", "mafa-itc"):
            raise UsageError(
                f"--method {plan.method}: connection mining needs a discriminator: add --discriminator fusion:DIR, "
                f"a model trained with --fusion-layers, or blip:NAME (open-clip-fff train-discriminator makes one)"
            )
    elif plan.connection.gate is not None and (plan.features not in ("frozen", "precomputed") or plan.text_only):
        raise UsageError(
            "--match-gate goes by features of images and captions: add --mining-features frozen, or precomputed with "
            "those of a frozen model"
        )


def _check_fusion(plan: Plan, loss: str) -> None:
    if plan.fusion is None:
        return
    if plan.loss.stock:
        raise UsageError(f"--fusion-layers: {loss} is computed by OpenCLIP alone; use --loss {OUR_LOSSES}")
    if plan.fusion.itm_negatives != "hardest" and plan.connection is not None:
        raise UsageError(
            f"--itm-negatives {plan.fusion.itm_negatives}: draws pairs that the --discriminator, which scores "
            f"the hardest alone, does not score; drop one"
        )
    if not plan.fusion.itm_weight and not plan.fusion.mlm_weight:
        raise UsageError(
            "--itm-weight 0 and --mlm-weight 0 leave the fusion model nothing to learn; use --fusion-layers 0"
        )


def _check_stock(plan: Plan, loss: str) -> None:
    if plan.captions.policy == "all" and plan.captions.per_image > 1:
        raise UsageError(
            f"--caption-policy all: {loss} takes one caption per image; use --caption-policy sample or first, "
            f"or --loss {OUR_LOSSES}"
        )
    if plan.mining is not None:
        raise UsageError(f"--mining-features: {loss} takes no mined pairs; use --loss {OUR_LOSSES}")
    if plan.connection is not None:
        raise UsageError(f"--discriminator: {loss} takes no other positives; use --loss {OUR_LOSSES}")
    for name in ("positive_key", "positives"):
        if getattr(plan.captions, name) is not None:
            raise UsageError(f"{as_flag(name)}: {loss} takes no other positives; use --loss {OUR_LOSSES}")
    if plan.batch_hooks:
        raise UsageError(f"--batch-hooks: {loss} is computed by OpenCLIP alone; use --loss {OUR_LOSSES}")
    if plan.logits.bias_init == "auto":
        raise UsageError(
            f"--logit-bias-init auto: is measured for --loss fff, or a plug-in's loss with a bias, and not for {loss}; "
            f"give a number, or drop it"
        )


def _check_captions(plan: Plan, loss: str) -> None:
    captions, given = plan.captions, plan.given
    if captions.policy == "first" and captions.per_image > 1 and "caption_policy" not in given:
        every = "--method fff or fff-softmax" if plan.loss.stock else "--caption-policy all"
        raise UsageError(
            f"--captions-per-image {captions.per_image}: {loss} would see the first caption only; add {every} for all "
            f"of them in the batch, or --caption-policy sample to draw one"
        )
    if "val_caption_sidecar" in given and captions.sidecar is None:
        raise UsageError("--val-caption-sidecar goes with --caption-sidecar DIR, whose columns it has, too")


def _check_mining(plan: Plan) -> None:
    if plan.mining is None:
        for name in sorted({*MINING, *MODEL} & plan.given):
            name = as_flag(name)
            raise UsageError(f"{name} does nothing while mining is off: add --mining-features frozen, or drop {name}")
        return
    _check_features(plan, plan.mining)
    _check_thresholds(plan, plan.mining)


def _check_features(plan: Plan, config: MiningConfig) -> None:
    features, given = plan.features, plan.given
    if features in SELF_FEATURES:
        for name in sorted(MODEL & given):
            raise UsageError(f"{as_flag(name)}: with --mining-features {features} the trained model mines; drop one")
    if not config.raw and not plan.captions.has_generated:
        raise UsageError(
            "--no-mine-raw: all captions are raw, from --text-key or --csv-caption-key, and none could be mined; drop "
            "it, or name generated ones by --json-text-key or --caption-sidecar"
        )
    if config.guarded and not config.warmup:
        raise UsageError("--mining-guard goes by what is mined at the warm-up's end: add --mining-warmup STEPS")
    if plan.text_only:
        who = "a sentence model" if plan.stored_by is None else f"{plan.stored_by.model}, whose features are stored,"
        for name in IMAGE_THRESHOLDS:
            if getattr(config, name) is not None:
                raise UsageError(f"{as_flag(name)}: {who} knows no images, and mines by --p3 alone; drop it")
        if config.margin is not None:
            raise UsageError(
                f"--mining-margin: {who} knows no images, and there is no own pair to compare with; drop it"
            )
    if features == "text" and "mining_pretrained" in given:
        raise UsageError("--mining-pretrained: a sentence model comes with its weights; drop it")
    if features == "precomputed" and "mining_pretrained" in given and "mining_model" not in given:
        raise UsageError("--mining-pretrained does nothing without --mining-model: features are stored; drop it")


def _check_thresholds(plan: Plan, config: MiningConfig) -> None:
    if config.p1 is None and config.p2 is None and config.p3 is None:
        raise UsageError("--p1, --p2 and --p3 are all off: nothing can be mined; use --mining-features off")
    if config.per_image is not None:
        for name in THRESHOLDS:
            if name in plan.given and getattr(config, name) is not None:
                raise UsageError(f"{as_flag(name)}: --mined-per-image finds the thresholds; drop it, or say off")
