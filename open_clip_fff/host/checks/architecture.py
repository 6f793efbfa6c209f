"""Fields of an architecture's json that OpenCLIP cannot make a model of, which it says without the field's name."""

import dataclasses

import open_clip
import timm

from open_clip_fff.config.parsers import did_you_mean
from open_clip_fff.errors import UsageError
from open_clip_fff.host.generation import TASKS


def check_architecture(name: str, config: dict) -> None:
    """Looks at both towers' fields.

    Raises:
        UsageError: for the first that is unknown or does not fit the others.
    """
    for part, kind in (("text_cfg", open_clip.CLIPTextCfg), ("vision_cfg", open_clip.CLIPVisionCfg)):
        where, known = (
            f"--model {name}: {name}.json: {part}",
            {field.name: field.default for field in dataclasses.fields(kind)},
        )
        # on OpenCLIP's main branch other kinds of models have fields of their own
        if not TASKS and (unknown := [key for key in config[part] if key not in known]):
            raise UsageError(f"{where} has no field {unknown[0]}{did_you_mean(unknown[0], known)}")
        _check_tower(where, {**known, **config[part]})


def _check_tower(where: str, tower: dict) -> None:
    if timm_name := tower.get("timm_model_name"):
        if ":" not in timm_name and not timm.is_model(timm_name):
            close = did_you_mean(timm_name, timm.list_models())
            raise UsageError(f"{where}: timm_model_name {timm_name}: timm has no such model{close}")
        return
    width = tower["width"]
    if tower.get("hf_model_name") or not isinstance(width, int) or isinstance(tower["layers"], list | tuple):
        return
    if "heads" in tower:
        if width % tower["heads"]:
            raise UsageError(f"{where}: heads {tower['heads']}: has to divide width, which is {width}")
    elif not 0 < tower["head_width"] <= width or width % (width // tower["head_width"]):
        raise UsageError(f"{where}: head_width {tower['head_width']}: has to divide width, which is {width}")
