"""The name under which a frozen model's features are stored: a local model's contains a hash of its files."""

import hashlib
import json
from pathlib import Path

from open_clip_fff.config.mining import FrozenSource
from open_clip_fff.errors import as_mistake
from open_clip_fff.fingerprint import fingerprint, hashed_name
from open_clip_fff.hub.checkpoints import read_weights
from open_clip_fff.hub.description import CONFIG_NAME, registered_architecture
from open_clip_fff.hub.loading import is_run_or_checkpoint, local_path, read_local
from open_clip_fff.hub.weights import BIAS, BIG_VISION, SCALE

# the files of a sentence model: weights, tokenizer, and settings, of which its prompt is one
_SENTENCE_FILES = {".bin", ".json", ".model", ".safetensors", ".txt"}
_SCALARS = {SCALE, BIAS, "init_logit_scale", "init_logit_bias", "nonscalar_logit_scale"}  # features do not depend on


def stored_name(source: FrozenSource) -> str:
    """The stored name: unchanged for a model of OpenCLIP or the hub, `NAME#HASH` for a local one.

    The hash is of architecture and weights; for a sentence model's folder it is `files_hash`. So a run that was trained
    further is another model, and a copy elsewhere is the same.

    Raises UsageError if a file cannot be read.
    """
    name, weights, called = source.model, source.pretrained, source.name
    path = local_path(name)
    if path is not None and (is_run_or_checkpoint(path) or (path / CONFIG_NAME).is_file()):
        description, checkpoint, tensors = read_local(path, weights)
        config, called = description["model_cfg"], str(checkpoint) if is_run_or_checkpoint(path) else called
    elif path is not None:
        return hashed_name(called, files_hash(path))
    else:
        file = Path(weights or "")
        config = registered_architecture(name)
        if config is None or not file.is_file() or file.suffix in BIG_VISION:
            return called
        tensors = read_weights(file)
    architecture, tensors = ({k: v for k, v in each.items() if k not in _SCALARS} for each in (config, tensors))
    digest = hashlib.sha256(json.dumps(architecture, sort_keys=True).encode())
    digest.update(fingerprint(tensors).encode())
    return hashed_name(called, digest.hexdigest())


def files_hash(folder: Path) -> str:
    """A hash of a sentence model's files, by names and contents. Raises UsageError if one cannot be read."""
    digest = hashlib.sha256()
    for path in sorted(path.relative_to(folder) for path in folder.rglob("*")):
        if path.suffix in _SENTENCE_FILES and not any(part.startswith(".") for part in path.parts):
            with as_mistake(f"{folder / path}: cannot be read", OSError), open(folder / path, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{path} {content} ".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]
