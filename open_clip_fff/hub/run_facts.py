"""What OpenCLIP's own flags say of a run, in words for the card: data, batch, where it started, what was set."""

from collections.abc import Mapping

from open_clip_fff.config.topics import code
from open_clip_fff.plural import plural

Params = Mapping[str, str]

_SETTINGS = (
    *("model", "pretrained", "pretrained_image", "force_quick_gelu", "force_custom_text", "force_image_size"),
    *("force_context_length", "force_patch_dropout", "image_mean", "image_std", "image_interpolation", "siglip"),
    *("loss_dist_impl", "distill_model", "distill_pretrained", "lock_image", "lock_text", "train_data"),
    *("train_num_samples", "dataset_type", "dataset_resampled", "aug_cfg", "epochs", "batch_size", "world_size"),
    *("accum_freq", "opt", "lr", "lr_scheduler", "warmup", "wd", "beta1", "beta2", "eps", "grad_clip_norm"),
    *("precision", "seed"),
)


def said(params: Params, name: str) -> str | None:
    """A setting's text; None where it is not there, or off."""
    text = params.get(name, "").strip()
    return None if text in ("", "None", "False", "()", "{}", "[]") else text


def data(params: Params) -> str:
    """What was trained on."""
    named, samples = said(params, "train_data"), said(params, "train_num_samples")
    kind = "synthetic" if said(params, "dataset_type") == "synthetic" else "not said"
    return (code(named) if named else kind) + (f", {plural(int(samples), 'images')} an epoch" if samples else "")


def epochs(trained: int | None, params: Params) -> str:
    """How many of how many."""
    planned = said(params, "epochs")
    if trained is None or planned is None:
        return str(trained or planned or "not said")
    return str(trained) if str(trained) == planned else f"{trained} of {planned}"


def start(params: Params) -> str:
    """The weights that training began with."""
    name = params["model"]
    if ":" in name:
        return f"the weights of {code(name)}"
    if weights := said(params, "pretrained"):
        return code(weights)
    return "random weights" + (", a pretrained image tower" if said(params, "pretrained_image") else "")


def batch(params: Params) -> str:
    """Images per step, and how they were shared out."""
    size, ranks, steps = (int(said(params, name) or 1) for name in ("batch_size", "world_size", "accum_freq"))
    shares = [f"{size:,}"]
    shares += [f"{ranks:,} processes"] if ranks > 1 else []
    shares += [f"{steps:,} accumulated"] if steps > 1 else []
    images = plural(size * ranks * steps, "images")
    return images + (f" ({' × '.join(shares)})" if len(shares) > 1 else "")


def settings(params: Params) -> list[str]:
    """OpenCLIP's settings that made the model, `name: value`, those that were off left out."""
    return [f"{name}: {text}" for name in _SETTINGS if (text := said(params, name))]
