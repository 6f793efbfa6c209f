"""Facts from a run's files, in words for the model card: OpenCLIP's settings, and what was mined."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from open_clip_fff.config.plan import Plan
from open_clip_fff.config.topics import code
from open_clip_fff.errors import UsageError
from open_clip_fff.plural import plural

Params = Mapping[str, str]  # hub/params.py

_SETTINGS = (
    *("model", "pretrained", "pretrained_image", "force_quick_gelu", "force_custom_text", "force_image_size"),
    *("force_context_length", "force_patch_dropout", "image_mean", "image_std", "image_interpolation", "siglip"),
    *("loss_dist_impl", "distill_model", "distill_pretrained", "lock_image", "lock_text", "train_data"),
    *("train_num_samples", "dataset_type", "dataset_resampled", "aug_cfg", "epochs", "batch_size", "world_size"),
    *("accum_freq", "opt", "lr", "lr_scheduler", "warmup", "wd", "beta1", "beta2", "eps", "grad_clip_norm"),
    *("precision", "seed"),
)
_WHEN = "In the steps of the last log line"
_DIRECTIONS = {"by_image": "the images' hardest captions", "by_text": "the captions' hardest images"}
_MORE = {
    "ambiguous": "were ambiguous",
    "true": "were of one class",
    "right": "of the matches were",
    "missed": "of the pairs of one class were not called matches",
    "unscored": "of all hardest negatives were below the gate and not scored",
}


def param_value(params: Params, name: str) -> str | None:
    """A setting's text; None if it is missing or off."""
    text = params.get(name, "").strip()
    return None if text in ("", "None", "False", "()", "{}", "[]") else text


def number_of(params: Params, name: str) -> int:
    """A setting's number; 1 if it is missing. Raises UsageError for what is no number."""
    text = param_value(params, name) or "1"
    if not text.isdecimal():
        raise UsageError(f"params.txt of the run: {name} is {text!r}, and a number is needed")
    return int(text)


def data(params: Params) -> str:
    """The training data."""
    named, known = param_value(params, "train_data"), param_value(params, "train_num_samples") is not None
    kind = "synthetic" if param_value(params, "dataset_type") == "synthetic" else "not stated"
    size = f", {plural(number_of(params, 'train_num_samples'), 'images')} an epoch" if known else ""
    return (code(named) if named else kind) + size


def epochs(trained: int | None, params: Params) -> str:
    """Epochs trained, of those planned."""
    planned = param_value(params, "epochs")
    if trained is None or planned is None:
        return str(trained or planned or "not stated")
    return str(trained) if str(trained) == planned else f"{trained} of {planned}"


def start(params: Params) -> str:
    """The weights that training began with."""
    name = params["model"]
    if ":" in name:
        return f"the weights of {code(name)}"
    if weights := param_value(params, "pretrained"):
        return code(weights)
    return "random weights" + (", a pretrained image tower" if param_value(params, "pretrained_image") else "")


def batch(params: Params) -> str:
    """Images per step, and how they were split."""
    size, ranks, steps = (number_of(params, name) for name in ("batch_size", "world_size", "accum_freq"))
    factors = [f"{size:,}"]
    factors += [f"{ranks:,} processes"] if ranks > 1 else []
    factors += [f"{steps:,} accumulated"] if steps > 1 else []
    images = plural(size * ranks * steps, "images")
    return images + (f" ({' × '.join(factors)})" if len(factors) > 1 else "")


def run_settings(params: Params) -> list[str]:
    """OpenCLIP's settings that affect a model, `name: value`, without those that were off."""
    return [f"{name}: {text}" for name in _SETTINGS if (text := param_value(params, name))]


@dataclass(frozen=True)
class SavedStats:
    """What a run's extra state says about mining at a checkpoint."""

    file: str | None = None  # its name; None if there is none
    held: Mapping[str, float | None] | None = None  # the thresholds that a rate had found, by name; None if unknown
    steps: int | None = None  # optimizer steps that mining counted; None if unknown
    # values of the last log line before the checkpoint, by TensorBoard's tags
    seen: Mapping[str, float] = field(default_factory=dict)

    def sentences(self, plan: Plan) -> list[str]:
        """What was mined and, of the hardest negatives, how many matched."""
        mining, mined = plan.mining, []
        if mining is not None and self.steps is not None and self.steps <= mining.warmup:
            steps = f"training made {plural(self.steps, 'steps')}, and the warm-up is {plural(mining.warmup, 'steps')}"
            mined = [f"Nothing was mined yet: {steps}."]
        elif mining is not None and "train/mined_per_image" in self.seen:
            right = self.seen.get("train/mined_right")
            end = "." if right is None else f", {right:.1%} of them of the image's class."
            mined = [f"{_WHEN}, {self.seen['train/mined_per_image']:.3f} captions per image were mined{end}"]
        return mined + self._hardest()

    def _hardest(self) -> list[str]:
        prefix = "train/false_negatives_"
        shares = {name.removeprefix(prefix): f"{x:.1%}" for name, x in self.seen.items() if name.startswith(prefix)}
        if "rate" not in shares:
            true = shares.get("true")
            return [] if true is None else [f"{_WHEN}, {true} of the hardest negatives were of the image's class."]
        ways = ", ".join(f"{shares[name]} of {of}" for name, of in _DIRECTIONS.items() if name in shares)
        rate = f"MAFA's false-negative rate was {shares['rate']}: so many of the scored pairs were matches ({ways})"
        more = "".join(f", {shares[name]} {what}" for name, what in _MORE.items() if name in shares)
        return [f"{_WHEN}, {rate}{more}."]
