"""A plug-in that removes the shards when the data sets are made, after the look before training."""

from pathlib import Path

from open_clip_fff import Batch, register_batch_hook


@register_batch_hook("vanishing")
class Vanishing:
    def __init__(self, context) -> None:
        for shard in context.plan.captions.shards.split("::"):
            for path in Path(shard).parent.glob("*.tar"):
                path.unlink()

    def __call__(self, batch: Batch) -> Batch:
        return batch
