"""Image-text matching models by hub name or folder; no code of their own is run."""

from open_clip_fff.errors import UsageError, reason
from open_clip_fff.matching.blip import Blip
from open_clip_fff.matching.blip2 import Blip2
from open_clip_fff.matching.model import MatchingModel
from open_clip_fff.models.transformers_weights import absent_weights, quiet

# by what config.json calls itself: what wraps it, and transformers' class with a matching head
KINDS: dict[str, tuple[type[MatchingModel], str]] = {
    "blip": (Blip, "BlipForImageTextRetrieval"),
    "blip-2": (Blip2, "Blip2ForImageTextRetrieval"),
}
MEND = "name a folder with its config, weights, tokenizer and preprocessor, or go online once"


def load_matching(name: str, called: str, cache_dir: str | None = None, kind: str | None = None) -> MatchingModel:
    """Loads the model in float32 on the CPU, in eval mode.

    Args:
        name: of the hub, or a folder.
        called: the flag that named it, for error lines.
        cache_dir: where the hub's files are kept; None for the hub's own choice.
        kind: `blip` or `blip2` where the person said so; None for what its config.json says.

    Raises:
        UsageError: if it cannot be loaded, is of another kind, or has no image-text matching head.
    """
    import transformers

    at = {"cache_dir": cache_dir, "trust_remote_code": False}
    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(name, **at)
            known = KINDS.get(config.model_type)
            if known is None or kind not in (None, known[0].kind):
                raise UsageError(f"{called}: its config.json says {config.model_type}, not {_wanted(kind)}")
            wrapper, retrieval = known
            model, found = getattr(transformers, retrieval).from_pretrained(
                name, config=config, cache_dir=cache_dir, output_loading_info=True
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, **at)
            image_processor = transformers.AutoImageProcessor.from_pretrained(name, **at)
    except UsageError:
        raise
    except Exception as error:  # whatever keeps it from loading, the person can only choose another
        raise UsageError(f"{called}: cannot be loaded ({reason(error)}); {MEND}") from error
    if absent := absent_weights(model, found):
        head = "no image-text matching head" if any(key.startswith("itm_head") for key in absent) else "weights missing"
        raise UsageError(
            f"{called}: {head} ({absent[0]} and {len(absent) - 1} more are not in it); name a model that was trained "
            f"for retrieval, as Salesforce/blip-itm-base-coco was, or train one: open-clip-fff train-discriminator"
        )
    matching = wrapper(model.float().eval(), tokenizer, image_processor)
    _check(matching, called)
    return matching


def _wanted(kind: str | None) -> str:
    return " or ".join(model_type for model_type, (wrapper, _) in KINDS.items() if kind in (None, wrapper.kind))


def _check(matching: MatchingModel, called: str) -> None:
    side = matching.model.config.vision_config.image_size
    expected = (side, side) if isinstance(side, int) else tuple(side)
    try:
        size = matching.size
    except (KeyError, TypeError):
        raise UsageError(f"{called}: its preprocessor names no height and width of images") from None
    if size != expected:
        raise UsageError(
            f"{called}: its preprocessor makes images of {size[0]} x {size[1]}, and its vision tower takes "
            f"{expected[0]} x {expected[1]}; mend the size in its preprocessor's file"
        )
    if matching.tokenizer.pad_token_id is None:
        raise UsageError(f"{called}: its tokenizer has no token for padding")
