"""Refuses fields of an architecture's json that OpenCLIP fails on with an error that does not name the field."""

import dataclasses
import typing

import open_clip
import timm

from open_clip_fff.config.parsers import did_you_mean
from open_clip_fff.errors import UsageError

WHOLE = ("layers", "width", "heads", "head_width", "patch_size", "image_size", "context_length", "vocab_size")
CHOICES: dict[str, dict[str, tuple[str, ...]]] = {
    "text_cfg": {"pool_type": ("argmax", "first", "last", "eos", "none")},
    "vision_cfg": {"pool_type": ("tok", "avg", "none"), "pos_embed_type": ("learnable", "sin_cos_2d")},
}
KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    dict: "an object",
    tuple: "a list",
}


def check_architecture(name: str, config: dict) -> None:
    """Raises UsageError for the first field of a model, or of a tower, that is unknown or does not fit the others."""
    here = f"--model {name}: {name}.json"
    _check_size(f"{here}: embed_dim", config["embed_dim"])
    own = {"custom_text": bool, "multimodal_cfg": None}
    _check_fields(here, config, {**typing.get_type_hints(open_clip.CLIP.__init__), **own})
    for part, kind in (("text_cfg", open_clip.CLIPTextCfg), ("vision_cfg", open_clip.CLIPVisionCfg)):
        where = f"{here}: {part}"
        _check_fields(where, config[part], typing.get_type_hints(kind))
        for field, choices in CHOICES[part].items():
            modern = config[part].get("text_arch") == "modern"  # of OpenCLIP's main branch, which has others
            if not modern and (chosen := config[part].get(field, choices[0])) not in choices:
                raise UsageError(f"{where}: {field} {chosen!r}: choose {', '.join(choices[:-1])} or {choices[-1]}")
        _check_tower(where, {**{field.name: field.default for field in dataclasses.fields(kind)}, **config[part]})


def _check_fields(where: str, given: dict, annotations: dict) -> None:
    """Compares fields with OpenCLIP's type annotations; null fits all, as OpenCLIP's own files have it."""
    if unknown := [field for field in given if field not in annotations]:
        raise UsageError(f"{where} has no field {unknown[0]}{did_you_mean(unknown[0], annotations)}")
    for field, value in given.items():
        if value is None or field not in annotations or field == "attentional_pool":  # takes strings, too
            continue
        union = typing.get_args(annotations[field]) or [annotations[field]]
        kinds = {typing.get_origin(kind) or kind for kind in union} - {type(None)}
        found = {list: tuple}.get(type(value), type(value))
        if kinds <= KINDS.keys() and found not in kinds | ({int} if float in kinds else set()):
            says = " or ".join(words for kind, words in KINDS.items() if kind in kinds)
            raise UsageError(f"{where}: {field} {value!r}: has to be {says}")


def _check_size(what: str, value: object) -> None:
    if type(value) is not int or value < 1:
        raise UsageError(f"{what} {value!r}: has to be a whole number, 1 or more")


def _check_tower(where: str, tower: dict) -> None:
    if timm_name := tower.get("timm_model_name"):
        if ":" not in timm_name and not timm.is_model(timm_name):
            close = did_you_mean(timm_name, timm.list_models())
            raise UsageError(f"{where}: timm_model_name {timm_name}: timm has no such model{close}")
        return
    if isinstance(tower.get("layers"), list | tuple) and len(tower["layers"]) != 4:
        raise UsageError(f"{where}: layers {tower['layers']!r}: has to be one number, or a ResNet's four")
    if tower.get("hf_model_name") or isinstance(tower["layers"], list | tuple):
        return
    for field in WHOLE:
        value = tower.get(field, 1)
        if not isinstance(value, list | tuple):
            _check_size(f"{where}: {field}", value)
        elif len(value) != 2:
            raise UsageError(f"{where}: {field} {value!r}: has to be one number, or height and width")
    width = tower["width"]
    if "heads" in tower:
        if width % tower["heads"]:
            raise UsageError(f"{where}: heads {tower['heads']}: has to divide width, which is {width}")
    elif not tower["head_width"] <= width or width % (width // tower["head_width"]):
        raise UsageError(f"{where}: head_width {tower['head_width']}: has to divide width, which is {width}")
