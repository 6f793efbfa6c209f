"""Where the data pipelines of OpenCLIP 3.3 and its main branch differ: their stages, and the type of a batch."""

from collections.abc import Callable
from typing import Any

import open_clip_train.data as oc_data

from open_clip_fff.data.shard_reader import Chain
from open_clip_fff.host.generation import TASKS
from open_clip_fff.patching import View


def pack_batch(batch: tuple) -> Any:
    """Images and texts as OpenCLIP's loop takes them: a tuple in 3.3, a dictionary on its main branch."""
    return {"image": batch[0], "text": batch[1]} if TASKS else batch


def unpack_batch(batch: Any) -> tuple:
    """Images and texts of what OpenCLIP's loaders yield."""
    return (batch["image"], batch["text"]) if isinstance(batch, dict) else batch


def reading_txt(args: Any) -> Any:
    """OpenCLIP's flags as its loaders should see them: captions are in `txt`.

    Its main branch has flags --text-key and --json-text-key of its own; ours have been applied before.
    """
    return View(args, text_key="txt", json_text_key=None) if TASKS else args


def before_decoder(stage: Callable) -> dict[str, Any]:
    """Replacements for webdataset's names that put a stage before OpenCLIP's decoder.

    The main branch first makes tokens, by `map_dict(text=...)`, then decodes images, by a `map_dict` with a handler.
    """
    decode, map_dict = oc_data.wds.decode, oc_data.wds.map_dict
    if not TASKS:
        return {"decode": lambda *names, **options: Chain(stage, decode(*names, **options))}

    def mapping(**fields: Any) -> Callable:
        made = map_dict(**fields)
        return Chain(stage, made) if "text" in fields else made

    return {"map_dict": mapping}


def around_decoder(before: Callable, after: Callable, seams: dict[str, Any]) -> dict[str, Any]:
    """The same for two stages: `before` follows the filter of samples without caption or image, `after` all decoding.

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
