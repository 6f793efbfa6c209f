"""What a frozen model is called where its features are stored: by a name, and what is in its files by a hash."""

import hashlib
import json
from pathlib import Path

from open_clip_fff.config.mining import FrozenSource
from open_clip_fff.fingerprint import fingerprint, hashed_name
from open_clip_fff.hub.checkpoints import read_weights
from open_clip_fff.hub.description import CONFIG_NAME
from open_clip_fff.hub.loading import is_run_or_checkpoint, local_path, read_local
from open_clip_fff.hub.weights import BIAS, BIG_VISION, SCALE

_SCALARS = {SCALE, BIAS}  # no feature depends on them
_STARTS = {"init_logit_scale", "init_logit_bias", "nonscalar_logit_scale"}


def stored_name(source: FrozenSource) -> str:
    """The name of a model that OpenCLIP or the hub has, as it is; of one that lies on this machine, `NAME#HASH`.

    The hash is of the architecture and the weights: a run that went on is another model, a copy elsewhere is the same.

    Raises:
        UsageError: if a file cannot be read.
    """
    import open_clip

    name, weights, called = source.model, source.pretrained, source.name
    path = local_path(name)
    if path is not None and (is_run_or_checkpoint(path) or (path / CONFIG_NAME).is_file()):
        description, checkpoint, tensors = read_local(path, weights)
        config, called = description["model_cfg"], str(checkpoint) if is_run_or_checkpoint(path) else called
    else:
        file = Path(weights or "")
        config = None if ":" in name else open_clip.get_model_config(name.replace("/", "-"))
        if path is not None or config is None or not file.is_file() or file.suffix in BIG_VISION:
            return called
        tensors = read_weights(file)
    architecture = {key: value for key, value in config.items() if key not in _STARTS}
    digest = hashlib.sha256(json.dumps(architecture, sort_keys=True).encode())
    digest.update(fingerprint({key: value for key, value in tensors.items() if key not in _SCALARS}).encode())
    return hashed_name(called, digest.hexdigest())
