"""A run's settings in sentences, for the card: how it was trained, on what, and who was a positive for whom."""

import ast
from collections.abc import Mapping

from open_clip_fff.hub.run_log import Found

Params = Mapping[str, str]

PAPERS = {
    "clip": "[CLIP](https://arxiv.org/abs/2103.00020) (Radford et al., 2021)",
    "siglip": "[SigLIP](https://arxiv.org/abs/2303.15343) (Zhai et al., 2023)",
    "coca": "[CoCa](https://arxiv.org/abs/2205.01917) (Yu et al., 2022)",
    "fff": "[FFF: Fixing Flawed Foundations](https://arxiv.org/abs/2405.10286) (Bulat et al., CVPR 2024)",
}
_METHODS = {
    "clip": f"{PAPERS['clip']}: OpenCLIP's softmax loss, in which an image has one positive.",
    "siglip": f"{PAPERS['siglip']}: OpenCLIP's sigmoid loss, in which an image has one positive.",
    "coca": f"{PAPERS['coca']}: OpenCLIP's contrastive and captioning loss.",
    "fff": f"{PAPERS['fff']}: a sigmoid loss over all images and all captions of a batch (its Eq. 2), in which an "
    f"image has any number of positives.",
    "softmax": f"A softmax over the assignment of {PAPERS['fff']}, in which an image has any number of positives. "
    f"The softmax is open_clip_fff's, not the paper's.",
}
_OFF_AT_ZERO = ("mining_warmup", "ignore_band")
_THRESHOLDS = ("p1", "p2", "p3", "p1_prime")
_SETTINGS = (
    *("model", "pretrained", "pretrained_image", "force_quick_gelu", "force_custom_text", "force_image_size"),
    *("force_context_length", "force_patch_dropout", "image_mean", "image_std", "image_interpolation", "siglip"),
    *("method", "loss", "loss_reduction", "distill_model", "distill_pretrained", "lock_image", "lock_text"),
    *("captions_per_image", "caption_policy", "text_key", "json_text_key", "caption_sidecar", "raw_weight"),
    *("mining_features", "mining_model", "mining_pretrained", "mined_per_image", *_THRESHOLDS),
    *("text_text", "mined_cap", "mined_as", "ignore_band", "mining_warmup", "logit_scale_init", "logit_bias_init"),
    *("logit_lr_mult", "ema_decay", "train_data", "train_num_samples", "dataset_type", "dataset_resampled", "aug_cfg"),
    *("epochs", "batch_size", "world_size", "accum_freq", "opt", "lr", "lr_scheduler", "warmup", "wd", "beta1"),
    *("beta2", "eps", "grad_clip_norm", "precision", "seed"),
)


def said(params: Params, name: str) -> str | None:
    """A setting's text; None where it is not there, or off."""
    text = params.get(name, "").strip()
    off = text in ("", "None", "False", "()", "{}", "[]", "off") or (name in _OFF_AT_ZERO and float(text) == 0)
    return None if off else text


def loss_name(params: Params) -> str:
    """The loss by our name for it."""
    loss = said(params, "loss")
    if loss not in (None, "clip"):  # under those two OpenCLIP goes by the model and its own flags
        return str(loss)
    if said(params, "distill_model"):
        return "distill"
    if "coca" in params["model"].lower():
        return "coca"
    return "siglip" if said(params, "siglip") and loss is None else "clip"


def method(params: Params) -> str:
    """The loss, and the paper it is from."""
    name = loss_name(params)
    if name == "distill":
        teacher = ", ".join(f"`{x}`" for key in ("distill_model", "distill_pretrained") if (x := said(params, key)))
        return f"{PAPERS['clip']}, distilled with OpenCLIP's loss from {teacher}."
    plugins = ", ".join(f"`{x}`" for x in _tuple(params, "plugin"))
    return _METHODS.get(name) or f"The loss `{name}` of a plug-in{f' ({plugins})' if plugins else ''}."


def captions(params: Params) -> str:
    """How many captions of an image were in a batch, and where they were from."""
    number = int(said(params, "captions_per_image") or 1)
    policy = said(params, "caption_policy") or "first"
    if policy == "all" and number > 1:
        how = f"up to {number} of an image in the same batch"
    elif policy == "sample":
        how = f"one of an image's first {number}, drawn anew at each visit"
    else:
        how = "one per image" if number == 1 else "an image's first"
    return f"{how}, from {_sources(params)}"


def mining(params: Params, found: Found) -> str:
    """What found positives beyond an image's own captions."""
    features = said(params, "mining_features")
    if features is None:
        return "Nothing was mined: only an image's own captions were its positives."
    model = ", ".join(f"`{x}`" for key in ("mining_model", "mining_pretrained") if (x := said(params, key)))
    source = {
        "frozen": f"a frozen model ({model}), which saw the same crops and captions",
        "precomputed": "features stored beside the images" + (f", of {model}" if model else ""),
        "text": f"a sentence model ({model}), which saw the captions alone",
        "ema": "a moving average of the trained model itself",
        "online": "the trained model itself",
    }.get(features, f"`{features}`")
    outcome = "left the loss" if said(params, "mined_as") == "ignore" else "became positives too"
    parts = [f"Captions of other images {outcome} where FFF's Eq. 1 holds, over cosines of {source}"]
    if cap := said(params, "mined_cap"):
        parts.append(f"at most {cap} per image")
    if warmup := said(params, "mining_warmup"):
        parts.append(f"from step {int(warmup):,}")
    if band := said(params, "ignore_band"):
        parts.append(f"pairs up to {band} below its thresholds left the loss")
    if said(params, "mining_guard"):
        parts.append(
            "never more than twice what the warm-up's end mined, and none while the model failed to find an "
            "image's own captions"
        )
    logged = f" At the last logged step, {found.mined} captions per image were mined." if found.mined else ""
    return "; ".join(parts) + "." + logged


def thresholds(params: Params, found: Found) -> tuple[list[tuple[str, str, str]], str]:
    """Eq. 1's clauses with the thresholds they were cut at, and where those are from.

    Args:
        params: of the run.
        found: those that it held at its end, where it held a rate.

    Returns:
        (clause, symbol, value) of each, none where nothing was mined, and a sentence.
    """
    if said(params, "mining_features") is None:
        return [], ""
    rate = said(params, "mined_per_image")
    clauses = (
        ("image–text", "p1", "p1"),
        ("image–image", "p2", "p2"),
        (f"text–text, {params.get('text_text', 'pooled')} over captions", "p3", "p3"),
        ("image–text, where text–text is above p3", "p1'", "p1_prime"),
    )
    rows = []
    for clause, symbol, name in clauses:
        typed = said(params, name)
        value = typed if rate is None else found.thresholds.get(symbol, "not in the log")
        rows.append((clause, symbol, value if typed is not None and value is not None else "off"))
    if rate is None:
        return rows, "They were set before training."
    return rows, (
        f"They were not set: the run found and held those at which {rate} captions per image are mined, and these are "
        f"the last in its log."
    )


def start(params: Params) -> str:
    """The weights that training began with."""
    name = params["model"]
    if ":" in name:
        return f"the weights of `{name}`"
    if weights := said(params, "pretrained"):
        return f"`{weights}`"
    return "random weights" + (", a pretrained image tower" if said(params, "pretrained_image") else "")


def batch(params: Params) -> str:
    """Images per step, and how they were shared out."""
    size, ranks, steps = (int(said(params, name) or 1) for name in ("batch_size", "world_size", "accum_freq"))
    shares = [f"{size:,}"]
    shares += [f"{ranks:,} processes"] if ranks > 1 else []
    shares += [f"{steps:,} accumulated"] if steps > 1 else []
    return f"{size * ranks * steps:,} images" + (f" ({' × '.join(shares)})" if len(shares) > 1 else "")


def settings(params: Params) -> list[str]:
    """The settings that made the model, `name: value`, those that were off or without effect left out."""
    features = said(params, "mining_features")
    idle: set[str] = set()
    if features is None or said(params, "mined_per_image"):
        idle.update(_THRESHOLDS)
    if features not in ("frozen", "text", "precomputed"):
        idle.update(("mining_model", "mining_pretrained"))
    return [f"{name}: {text}" for name in _SETTINGS if name not in idle and (text := said(params, name))]


def _sources(params: Params) -> str:
    if said(params, "dataset_type") == "synthetic":
        return "OpenCLIP's synthetic data"
    if said(params, "dataset_type") == "csv" or params.get("train_data", "").endswith((".csv", ".tsv")):
        return f"the CSV's `{params.get('csv_caption_key', 'title')}`"
    members = _tuple(params, "text_key") if "text_key" in params else ("txt",)
    names = [*(f"`{x}`" for x in members), *(f"`json:{x}`" for x in _tuple(params, "json_text_key"))]
    if sidecar := said(params, "caption_sidecar"):
        names += [f"`{x}` of the sidecar `{sidecar}`" for x in _tuple(params, "sidecar_text_key")]
    return ", ".join(names)


def _tuple(params: Params, name: str) -> tuple[str, ...]:
    try:
        value = ast.literal_eval(params.get(name, "()"))
    except (ValueError, SyntaxError):
        return ()
    return tuple(str(each) for each in value) if isinstance(value, tuple | list) else ()
