"""What a run does, in topics and with every setting, for the printed plan and the model card."""

from typing import NamedTuple

from open_clip_fff.config.all_settings import DEFAULTS, OWNERS
from open_clip_fff.config.captions import TAR_FLAGS
from open_clip_fff.config.fields import as_flag, field_text, fields_by_flag, has_effect, value_text
from open_clip_fff.config.methods import METHODS, TITLES
from open_clip_fff.config.numbers import number
from open_clip_fff.config.open_clip import Upstream
from open_clip_fff.config.plan import GROUPING_HOOK, Plan
from open_clip_fff.config.safety import SafetySettings
from open_clip_fff.config.topics import Topic, code, codes

GIVEN, DEFAULT, FOLLOWS = "given", "default", "the other settings"
# flags whose settings exist only while they are on: being off is an effect, too
_SWITCHES = {"discriminator", "zeroshot_data", "fusion_layers"}
_UNSET = object()


class Setting(NamedTuple):
    """One setting of a run."""

    flag: str  # its name with underscores
    value: str  # as text
    source: str  # `given`, the method by name, `default`, or `the other settings`
    effect: bool  # whether it has an effect, given the others


def describe(
    plan: Plan, upstream: Upstream, full_length: str | None = None, trained: int | None = None, masks: bool = True
) -> list[Topic]:
    """What a run does; topics that do not apply are left out, except for mining.

    Args:
        full_length: why the text tower needs captions at full length; None where they may be trimmed.
        trained: epochs that the model was trained for; None before training.
        masks: whether the text tower has a mask token, as Hugging Face's may.
    """
    resumed = trained is None and upstream.resume is not None
    single = plan.mining is None and plan.connection is None and plan.captions.columns == 1
    single = single and not plan.captions.gives_positives
    labelled, grouped = plan.connection is not None, plan.grouping is not None
    hooks = tuple(name for name in plan.batch_hooks if name != GROUPING_HOOK)
    return [
        *([_method(plan)] if plan.given else []),
        plan.loss.describe(upstream, single, plan.plugins, trained),
        plan.captions.describe(upstream),
        *([] if plan.text.as_open_clip else [plan.text.describe(full_length, "distinct_captions" in plan.given)]),
        _mining(plan),
        *([] if plan.connection is None else [plan.connection.describe(plan.loss.name or "", trained)]),
        *([] if plan.fusion is None else [plan.fusion.describe(masks, labelled, grouped)]),
        *([plan.logits.describe(upstream, plan.loss, plan.given, resumed)] if plan.given else []),
        *([] if plan.ema_decay is None else [_average(plan.ema_decay)]),
        *([] if plan.grouping is None else [plan.grouping.describe(trained)]),
        *([] if plan.zero_shot is None else [plan.zero_shot.describe()]),
        *([plan.safety.describe()] if plan.given & set(fields_by_flag(SafetySettings)) else []),
        *([Topic("hooks", (f"each batch passes {codes(hooks)}",))] if hooks else []),
    ]


def settings(plan: Plan, upstream: Upstream) -> list[Setting]:
    """Every setting of open_clip_fff, the method first."""
    preset = f"method {plan.method}"
    method = Setting("method", plan.method or "none", GIVEN if plan.method else DEFAULT, plan.method is not None)
    idle = TAR_FLAGS if upstream.data != "webdataset" else frozenset()
    found = [method]
    for kind in OWNERS:
        for flag, field in fields_by_flag(kind).items():
            value, part = plan.values[flag], plan.parts.get(kind)
            if flag in plan.given:
                source = GIVEN
            elif plan.method and METHODS[plan.method].get(flag, _UNSET) == value:
                source = preset
            else:
                source = DEFAULT if DEFAULTS[flag] == value else FOLLOWS
            text = value_text(value) if part is None else field_text(field, part)
            effect = flag in _SWITCHES if part is None else has_effect(field, part) and flag not in idle
            found.append(Setting(flag, text, source, effect))
    return found


def _method(plan: Plan) -> Topic:
    flags = ", ".join(code(as_flag(flag)) for flag in sorted(plan.given - {"method"}))
    name = "none, flags alone" if plan.method is None else f"{code(plan.method)}: {TITLES[plan.method]}"
    return Topic("method", (name, *([f"given: {flags}"] if flags else [])))


def _mining(plan: Plan) -> Topic:
    given = plan.captions.pairs_text
    if plan.mining is not None:
        mined = plan.mining.describe(_miner(plan), plan.text_only)
        return Topic(mined.name, (*mined.parts, *given))
    by = ["the discriminator's"] * (plan.connection is not None) + ["the user's"] * plan.captions.gives_positives
    if by:
        others = f"{' and '.join(by)}{' alone' * (len(by) == 1)}"
        return Topic("mining", (f"nothing by FFF's Eq. 1, so that further positives are {others}", *given))
    return Topic("mining", ("nothing: an image's positives are its own captions alone", *given))


def _miner(plan: Plan) -> str:
    model = "" if plan.miner is None else plan.miner.describe()
    stored_in, text_only = "beside the images in the tars", ", which sees captions alone"
    if plan.feature_sidecar is not None:
        stored_in = f"in the sidecar {code(plan.feature_sidecar)}"
    return {
        "frozen": f"a frozen model, {model}, which sees the same crops and captions",
        "precomputed": f"features stored {stored_in}" + f", of {model}" * bool(model) + text_only * plan.text_only,
        "text": f"a sentence model, {model}{text_only}",
        "ema": "the moving average of the trained model itself",
        "online": "the trained model itself",
    }[plan.features]


def _average(decay: float) -> Topic:
    kept = f"a moving average, at each step min({number(decay)}, steps / (10 + steps)) of the old ones"
    return Topic("weights", (kept, "validated and saved beside the weights"))
