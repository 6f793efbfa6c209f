"""The model card: what is known of a model, and nothing that is not."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import open_clip_fff
from open_clip_fff.errors import UsageError
from open_clip_fff.hub import words
from open_clip_fff.hub.description import local_tower
from open_clip_fff.hub.loading import LoadedModel
from open_clip_fff.hub.measured import Measured
from open_clip_fff.hub.run_log import Found, read_found
from open_clip_fff.hub.source import Source


@dataclass(frozen=True)
class Said:
    """What only a person can say about a model; each may be left unsaid.

    Attributes:
        captioner: what wrote the captions.
        discriminator: what judged false negatives, and what it had seen.
        license: the hub's identifier.
        repository: ORG/NAME, where it will be pushed.

    Raises:
        UsageError: for a licence that the hub's front matter cannot hold.
    """

    captioner: str | None = None
    discriminator: str | None = None
    license: str | None = None
    repository: str | None = None

    def __post_init__(self) -> None:
        if self.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", self.license):
            raise UsageError(f"--license {self.license}: the hub's identifier, such as mit, apache-2.0 or cc-by-nc-4.0")


def card(
    loaded: LoadedModel,
    source: Source,
    params: Mapping[str, str],
    said: Said,
    out: Path,
    measured: Measured | None = None,
) -> str:
    """The text of README.md.

    Args:
        loaded: the model, made from a description.
        source: which weights of the run they are.
        params: of the run (hub/params.py); empty where it is not known.
        said: what the person said.
        out: the folder that the card is for.
        measured: a comparison that the model was in.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["code"] = _code
    template = environment.from_string(resources.files(__package__).joinpath("card.md.jinja").read_text("utf-8"))
    text = template.render(
        **_of_model(loaded, source.model or params.get("model")),
        **_of_run(loaded, params),
        title=said.repository or out.resolve().name,
        address=f"hf-hub:{said.repository}" if said.repository else f"local-dir:{out.name}",
        weights=source.words(),
        license=said.license,
        captioner=_one_line(said.captioner),
        discriminator=_one_line(said.discriminator, end="."),
        measured=measured,
        versions=_versions(),
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def _of_model(loaded: LoadedModel, name: str | None) -> dict[str, Any]:
    assert loaded.description is not None
    config = loaded.description["model_cfg"]
    size = loaded.model.visual.image_size  # OpenCLIP's own ResNets have one number
    height, width = (size, size) if isinstance(size, int) else size
    count = sum(parameter.numel() for parameter in loaded.model.parameters()) / 1e6
    named = f"An OpenCLIP model, {_code(name)}" if name else "An OpenCLIP model"
    return {
        "architecture": (
            f"{named}: {count:.{0 if count >= 10 else 1}f} M parameters, images of {height} × {width} pixels, "
            f"{config['text_cfg'].get('context_length', 77)} tokens, embeddings of {config['embed_dim']}."
        ),
        "bias": loaded.model.logit_bias is not None,
        "text_tower": config["text_cfg"].get("hf_model_name"),
        "local_tower": local_tower(loaded.description) is not None,
        "stripped": loaded.stripped,
        "tags": ["clip", "open_clip"],
    }


def _of_run(loaded: LoadedModel, params: Mapping[str, str]) -> dict[str, Any]:
    if not params:
        unknown = ("method", "mining", "thresholds", "threshold_source", "data", "captions", "epochs", "batch", "start")
        return {**dict.fromkeys(unknown), "sigmoid": False, "command": None, "ranks": 1, "settings": []}
    found = read_found(loaded.run, loaded.epoch) if loaded.run is not None else Found()
    rows, source = words.thresholds(params, found)
    return {
        "method": words.method(params),
        "sigmoid": words.loss_name(params) in ("fff", "siglip"),
        "mining": words.mining(params, found),
        "thresholds": rows,
        "threshold_source": source,
        "data": _data(params),
        "captions": words.captions(params),
        "epochs": _epochs(loaded.epoch, words.said(params, "epochs")),
        "batch": words.batch(params),
        "start": words.start(params),
        "command": words.said(params, "command"),
        "ranks": int(words.said(params, "world_size") or 1),
        "settings": words.settings(params),
    }


def _data(params: Mapping[str, str]) -> str:
    data = words.said(params, "train_data")
    samples = words.said(params, "train_num_samples")
    named = _code(data) if data else "synthetic" if words.said(params, "dataset_type") == "synthetic" else "not said"
    return named + (f", {int(samples):,} images an epoch" if samples else "")


def _epochs(trained: int | None, planned: str | None) -> str:
    if trained is None or planned is None:
        return str(trained or planned or "not said")
    return str(trained) if str(trained) == planned else f"{trained} of {planned}"


def _versions() -> str:
    import open_clip
    import torch

    ours = f"open_clip_fff {open_clip_fff.__version__}"
    return f"{ours}, OpenCLIP {open_clip.__version__} and torch {torch.__version__.split('+')[0]}"


def _one_line(text: str | None, end: str = "") -> str | None:
    """As a cell of a table can hold it."""
    return None if text is None else " ".join(text.split()).replace("|", "\\|").removesuffix(end or "\0")


def _code(text: str) -> str:
    """As code, whatever is in it."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if fence != "`" else ""
    return f"{fence}{pad}{' '.join(text.split())}{pad}{fence}".replace("|", "\\|")
