"""Where OpenCLIP's two generations differ between a tar and a step: stages of the pipeline, and what a batch is."""

from collections.abc import Callable
from typing import Any

import open_clip_train.data as oc_data

from open_clip_fff.data.shard_reader import Chain
from open_clip_fff.host.generation import TASKS
from open_clip_fff.patching import View


def pack(batch: tuple) -> Any:
    """Images and texts as OpenCLIP's loop takes them: a tuple in 3.3, a dictionary on its main branch."""
    return {"image": batch[0], "text": batch[1]} if TASKS else batch


def unpack(batch: Any) -> tuple:
    """Images and texts of what OpenCLIP's loaders yield."""
    return (batch["image"], batch["text"]) if isinstance(batch, dict) else batch


def reading_txt(args: Any) -> Any:
    """OpenCLIP's flags for its loaders; on its main branch --text-key and --json-text-key are flags of its own, too.

    Ours are read before, and what they name has become `txt`.
    """
    return View(args, text_key="txt", json_text_key=None) if TASKS else args


def before_decoder(stage: Callable) -> dict[str, Any]:
    """What replaces webdataset's names in OpenCLIP's pipeline, so that a stage sees each sample before it is decoded.

    The main branch makes tokens first, then decodes: its `map_dict` of images that has a handler.
    """
    decode, map_dict = oc_data.wds.decode, oc_data.wds.map_dict
    if not TASKS:
        return {"decode": lambda *names, **options: Chain(stage, decode(*names, **options))}

    def mapping(**fields: Any) -> Callable:
        made = map_dict(**fields)
        return Chain(stage, made) if "text" in fields else made

    return {"map_dict": mapping}


def around_decoder(before: Callable, after: Callable, seams: dict[str, Any]) -> dict[str, Any]:
    """The same for a stage after the filter of samples without caption or image, and one after all decoding.

    `seams` are those of `before_decoder`.
    """
    select, to_tuple = oc_data.wds.select, oc_data.wds.to_tuple
    if not TASKS:
        return {
            "select": lambda predicate: Chain(select(predicate), before),
            "to_tuple": lambda *names: Chain(to_tuple(*names), after),
        }
    map_dict = seams["map_dict"]

    def selecting(predicate: Callable) -> Callable:
        made = select(predicate)
        return made if isinstance(predicate, oc_data.FilterNonEmptyText) else Chain(made, before)

    def mapping(**fields: Any) -> Callable:
        made = map_dict(**fields)
        return Chain(made, after) if "image" in fields and "handler" not in fields else made

    return {"select": selecting, "map_dict": mapping}
