"""A plug-in that writes the ids of each batch to a file of its rank, named by the variable ID_WRITER."""

import json
import os
from pathlib import Path

from open_clip_fff import Batch, register_batch_hook


@register_batch_hook("id-writer")
class IdWriter:
    def __init__(self, context) -> None:
        self.path = Path(f"{os.environ['ID_WRITER']}.{context.rank}")

    def __call__(self, batch: Batch) -> Batch:
        with self.path.open("a") as file:
            file.write(json.dumps(batch.captions.ids.tolist()) + "\n")
        return batch
