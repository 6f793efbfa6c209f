"""Weights against the architecture, by names and shapes alone, before anything is built or written."""

import argparse
import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn

from open_clip_fff.config.plan import Plan
from open_clip_fff.data.data_sets import trains
from open_clip_fff.errors import UsageError, named
from open_clip_fff.host.checks.optimizer_state import NO_STATE, is_optimizer_state
from open_clip_fff.hub.checkpoints import optimizer_tensors, read_weights, run_of, usable_before, weights_of
from open_clip_fff.hub.description import only_errors_logged, quick_gelu, registered_architecture, trained_settings
from open_clip_fff.hub.params import read_params
from open_clip_fff.hub.weights import (
    BIAS,
    BIG_VISION,
    activation_warning,
    big_vision_obstacle,
    current_names,
    find_mismatch,
    without_ids,
)
from open_clip_fff.losses.registry import LOSSES
from open_clip_fff.numerics import not_finite


def setting_notes(args: argparse.Namespace) -> list[str]:
    """A line for each model of training that OpenCLIP would build with other settings than its weights had.

    These are no weights, so that nothing fails: the activation, and the images' mean and standard deviation.
    """
    own_flags = "; --image-mean, --image-std and --force-quick-gelu set them"
    models = [("--", args.model, args.pretrained, args.force_quick_gelu, own_flags)]
    if args.distill_model:
        models.append(("--distill-", args.distill_model, args.distill_pretrained, False, ""))
    notes: list[str | None] = []
    for flags, model, weights, forced, fix in models:
        source = f"{flags}model {model} {flags}pretrained {weights}"
        notes.append(activation_warning(model, weights, source, forced))
        notes += [f"warning: {source}: {each}{fix}" for each in _changed_settings(args, model, weights, forced)]
    return [note for note in notes if note]


def _changed_settings(args: argparse.Namespace, model: str | None, file: str | None, forced: bool) -> list[str]:
    """What is no weight and was another when a file of this machine was trained, as its run or folder says."""
    if not model or not file or ":" in model or not Path(file).is_file():
        return []
    built = {
        "mean": tuple(args.image_mean or OPENAI_DATASET_MEAN),
        "std": tuple(args.image_std or OPENAI_DATASET_STD),
        "quick_gelu": forced or quick_gelu(model),
    }
    return [
        f"it was trained with {what} {theirs}, and {model} has {built[what]} here"
        for what, theirs in trained_settings(Path(file))[1].items()
        if theirs != built[what]
    ]


def context_length(args: argparse.Namespace) -> int | None:
    """How many tokens the text tower takes; None where the hub would have to be asked."""
    config = registered_architecture(args.model)
    own = None if config is None else config["text_cfg"].get("context_length", 77)
    return args.force_context_length or own


def check_weights(args: argparse.Namespace, plan: Plan) -> None:
    """Raises UsageError if a lock locks nothing, or a file of weights to start from cannot be read or does not fit."""
    _check_locks(args, plan)
    _check_start("--", args.model, args.pretrained, given_model_options(args, plan), plan)
    if args.distill_model and args.distill_pretrained:
        _check_start("--distill-", args.distill_model, args.distill_pretrained, {}, plan)


def given_model_options(args: argparse.Namespace, plan: Plan) -> dict[str, object]:
    """With which `architecture` makes the run's model, but for the sizes that OpenCLIP changes weights to."""
    biased = args.siglip or plan.loss.name == "siglip" or (not plan.loss.stock and LOSSES[plan.loss.name].bias)
    return {"force_custom_text": args.force_custom_text, **({"init_logit_bias": -10.0} if biased else {})}


def _check_start(flags: str, name: str, weights: str | None, options: Mapping, plan: Plan) -> None:
    """Weights to start from. OpenCLIP interpolates position embeddings, so their lengths are not asked for."""
    if not weights or ":" in name or not Path(weights).is_file():
        return
    if open_clip.is_pretrained_cfg(name.replace("/", "-"), weights):
        return
    called, own = f"{flags}pretrained {weights}", architecture(name, options)
    if Path(weights).suffix in BIG_VISION:
        if own is not None and (obstacle := big_vision_obstacle(own)):
            raise UsageError(f"{called}: {obstacle}")
        return
    with named(f"{flags}pretrained"):
        tensors = read_weights(Path(weights))
    if own is None or any(each.startswith("image_encoder.") for each in tensors):  # MobileCLIP's own names
        return
    tensors = current_names(tensors, own)
    if obstacle := find_mismatch(tensors, own, resize=True):
        raise UsageError(f"{called}: the weights do not fit {flags}model {name}: {obstacle}")
    if plan.given and (bad := not_finite({each: tensors[each] for each in own if each in tensors})) is not None:
        raise UsageError(f"{called}: {bad} is not finite, so the training diverged{usable_before(Path(weights))}")
    if not plan.given and (more := sorted(tensors.keys() - own.keys())):
        raise UsageError(
            f"{called}: holds {more[0]}, which {flags}model {name} does not have, and OpenCLIP loads no such file; "
            f"with an open_clip_fff flag, as --method clip, it is left out"
        )


def check_resume(
    args: argparse.Namespace, plan: Plan, checkpoint: Path | str, stored: Mapping, own: Mapping[str, Tensor] | None
) -> None:
    """A checkpoint to go on from, `stored`, in which all has to be as it was, and finite where a flag of ours is given.

    `own` are the parameters of the run's model, which may be on the device `meta`; None where they are not known.
    Raises UsageError, which says what differs, and how it was trained.
    """
    called, training = f"--resume {checkpoint}", trains(args)
    start = f"start from its towers with --pretrained {checkpoint}"
    with named("--resume"):
        weights = weights_of(stored, checkpoint)
    for entry in ("epoch", "step") if "epoch" in stored else ():
        if not isinstance(count := stored.get(entry, 0), int) or count < 0:
            raise UsageError(f"{called}: its {entry} is {str(count)[:50]!r}, and no whole number from 0 on")
    optimizer: Any = stored.get("optimizer") if training and "epoch" in stored else NO_STATE
    if Path(checkpoint).suffix == ".safetensors" or not is_optimizer_state(optimizer):
        raise UsageError(f"{called}: holds weights and no optimizer's state, so no run can go on from it; {start}")
    opt = params_of(checkpoint).get("opt", args.opt)
    if training and "epoch" in stored and opt.lower() != args.opt.lower():
        raise UsageError(f"{called}: its optimizer's state is of --opt {opt}, not {args.opt}; resume with --opt {opt}")
    if plan.given and (name := not_finite(weights)):
        raise UsageError(f"{called}: its weight {name} is not finite; resume from an earlier checkpoint")
    if plan.given and (name := not_finite(optimizer_tensors(optimizer))):
        raise UsageError(f"{called}: its optimizer's {name} is not finite; resume from an earlier checkpoint")
    if changed := _changed_settings(args, args.model, str(checkpoint), args.force_quick_gelu):
        raise UsageError(f"{called}: {changed[0]}; resume with the flags it was trained with")
    if own is None:
        return
    weights = without_ids(weights, own) if training else current_names(weights, own)
    if (BIAS in weights) != (BIAS in own):
        here, there = ("no ", "has one") if BIAS in own else ("a ", "has none")
        raise UsageError(
            f"{called}: holds {here}{BIAS}{trained_with(checkpoint, args)}, and this run's model {there}; resume with "
            f"the flags it was trained with, or {start}"
        )
    more = sorted(name for name in weights.keys() - own.keys() if not (args.torchscript and name.endswith("attn_mask")))
    obstacle = find_mismatch(weights, own) or (f"it holds {more[0]}, which the model does not have" if more else None)
    if obstacle:
        raise UsageError(
            f"{called}: does not fit --model {args.model}: {obstacle}{trained_with(checkpoint, args)}; resume with "
            f"the flags it was trained with"
        )


def trained_with(checkpoint: Path | str, args: argparse.Namespace) -> str:
    """The flags a checkpoint was trained with, as far as they say what its model is; empty where they are not known."""
    params = params_of(checkpoint)
    if not params:
        return ""
    words = [f"--{name} {params[name]}" for name in ("method", "loss") if params.get(name, "None") != "None"][:1]
    words += ["--siglip"] * (not words and params.get("siglip") == "True")
    words += [f"--model {params['model']}"] * (params["model"] != args.model)
    return f" (trained with {' '.join(words)})" if words else " (trained with OpenCLIP's own loss)"


def params_of(checkpoint: Path | str) -> dict[str, str]:
    """The settings of the run that a checkpoint belongs to; none where they are not known."""
    run = run_of(Path(checkpoint))
    return {} if run is None else read_params(run)


def _check_locks(args: argparse.Namespace, plan: Plan) -> None:
    """Parts of --model's towers that stay trained beside a lock; OpenCLIP locks nothing if they are all."""
    image, text = args.lock_image_unlocked_groups, args.lock_text_unlocked_layers
    towers = {"image": (args.lock_image, "groups", image), "text": (args.lock_text, "layers", text)}
    for tower, (locked, parts, count) in towers.items():
        model = _meta_model(args.model, given_model_options(args, plan)) if locked and count else None
        if model is None:
            continue
        flag, before = f"--lock-{tower}-unlocked-{parts} {count}", _frozen(model)
        try:
            with redirect_stdout(io.StringIO()):
                getattr(model, f"lock_{tower}_tower")(count)
        except KeyError as error:  # as OpenCLIP's table of transformers' models has it for BERT
            raise UsageError(f"{flag}: OpenCLIP can lock this tower of {args.model} whole alone; drop it") from error
        if _frozen(model) == before:
            raise UsageError(f"{flag}: the tower of {args.model} has no more, so nothing would be locked; lower it")


def _frozen(model: nn.Module) -> int:
    return sum(not parameter.requires_grad for parameter in model.parameters())


def architecture(name: str, options: Mapping) -> Mapping[str, Tensor] | None:
    """The parameters of a model by name, on the device `meta`; None where the hub would have to be asked."""
    model = _meta_model(name, options)
    return None if model is None else model.state_dict()


def _meta_model(name: str, options: Mapping) -> Any | None:
    if name.startswith("hf-hub:"):
        return None
    try:
        with torch.device("meta"), only_errors_logged():
            return open_clip.create_model(name, device="meta", load_weights=False, pretrained_text=False, **options)
    except Exception:  # whatever it is, it is said once the model is made
        return None
