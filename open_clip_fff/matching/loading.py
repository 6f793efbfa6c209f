"""Loads image-text matching models by hub name or folder, without running code from the hub."""

from open_clip_fff.errors import UsageError, as_mistake
from open_clip_fff.matching.blip import Blip, Blip2
from open_clip_fff.matching.model import MatchingModel
from open_clip_fff.models.transformers_weights import (
    absent_weights,
    cannot_be_loaded,
    load_tokenizer,
    silenced_transformers,
)

# by the model type in config.json: our wrapper, and transformers' class with a matching head
MATCHING_MODELS: dict[str, tuple[type[MatchingModel], str]] = {
    "blip": (Blip, "BlipForImageTextRetrieval"),
    "blip-2": (Blip2, "Blip2ForImageTextRetrieval"),
}
FIX = "name a folder with its config, weights, tokenizer and preprocessor, or go online once"


def load_matching(name: str, flag: str, cache_dir: str | None = None, kind: str | None = None) -> MatchingModel:
    """Loads a model of the hub, or a folder, in float32 on the CPU, in eval mode.

    `flag` is the flag with its value, for error lines. `kind` is `blip` or `blip2` if the user chose one, None to
    follow config.json.

    Raises:
        UsageError: if it cannot be loaded, is of another kind, or has no image-text matching head.
    """
    import transformers

    options = {"cache_dir": cache_dir, "trust_remote_code": False}
    # whatever the cause, the user can only choose another model
    with as_mistake(f"{flag}: {cannot_be_loaded(name)}", Exception, fix=FIX), silenced_transformers():
        config = transformers.AutoConfig.from_pretrained(name, **options)
        known = MATCHING_MODELS.get(config.model_type)
        if known is None or kind not in (None, known[0].kind):
            expected = " or ".join(key for key, (wrapper, _) in MATCHING_MODELS.items() if kind in (None, wrapper.kind))
            raise UsageError(f"{flag}: its config.json says {config.model_type}, not {expected}")
        wrapper, retrieval = known
        model, info = getattr(transformers, retrieval).from_pretrained(
            name, config=config, cache_dir=cache_dir, output_loading_info=True
        )
        tokenizer = load_tokenizer(name, cache_dir=cache_dir)
        image_processor = transformers.AutoImageProcessor.from_pretrained(name, **options)
    if absent := absent_weights(model, info):
        head = "no image-text matching head" if any(key.startswith("itm_head") for key in absent) else "weights missing"
        raise UsageError(
            f"{flag}: {head} ({absent[0]} and {len(absent) - 1} more are not in it); name a model that was trained "
            f"for retrieval, as Salesforce/blip-itm-base-coco was, or train one: open-clip-fff train-discriminator"
        )
    matching = wrapper(model.float().eval(), tokenizer, image_processor)
    _check(matching, flag)
    return matching


def _check(matching: MatchingModel, flag: str) -> None:
    side = matching.model.config.vision_config.image_size
    expected = (side, side) if isinstance(side, int) else tuple(side)
    try:
        size = matching.size
    except (KeyError, TypeError):
        raise UsageError(f"{flag}: its preprocessor names no height and width of images") from None
    if size != expected:
        raise UsageError(
            f"{flag}: its preprocessor makes images of {size[0]} x {size[1]}, and its vision tower takes "
            f"{expected[0]} x {expected[1]}; fix the size in its preprocessor's file"
        )
    if matching.tokenizer.pad_token_id is None:
        raise UsageError(f"{flag}: its tokenizer has no padding token")
