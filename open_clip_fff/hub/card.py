"""The model card: what is known of a model, and nothing that is not."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import open_clip_fff
from open_clip_fff.config.description import describe, settings
from open_clip_fff.config.flags import as_flag
from open_clip_fff.config.plan import Plan
from open_clip_fff.config.topics import Topic, code
from open_clip_fff.errors import UsageError
from open_clip_fff.hub import run_facts as words
from open_clip_fff.hub.base_names import base_names, params_by_base_names
from open_clip_fff.hub.description import local_tower
from open_clip_fff.hub.loading import LoadedModel
from open_clip_fff.hub.measured import MeasuredRow
from open_clip_fff.hub.params import plan_of_run, upstream_of_run
from open_clip_fff.hub.run_state import RunState
from open_clip_fff.hub.source import WeightSource


@dataclass(frozen=True)
class CardInfo:
    """What only a person can say about a model; each may be left unsaid.

    Attributes:
        captioner: what wrote the captions.
        discriminator: what scored false negatives, and what it was trained on.
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
    source: WeightSource,
    params: Mapping[str, str],
    said: CardInfo,
    out: Path,
    found: RunState | None = None,
    measured: MeasuredRow | None = None,
    full_length: str | None = None,
    paths: bool = False,
) -> str:
    """The text of README.md.

    Args:
        loaded: the model, made from a description.
        source: which weights of the run they are.
        params: of the run (hub/params.py); empty where it is not known.
        said: what the person said.
        out: the folder that the card is for.
        found: what the run found, from the state beside the (last) checkpoint.
        measured: a comparison that the model was in.
        full_length: why the text tower needs captions at full length; None where they may be trimmed.
        paths: whether paths of this machine stay what they are; else they stand there by their base names.
    """
    from jinja2 import Environment, StrictUndefined

    shown, params = (str, params) if paths else (base_names, params_by_base_names(params))
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters |= {"code": code, "cell": _cell, "points": _points}
    template = environment.from_string(resources.files(__package__).joinpath("card.md.jinja").read_text("utf-8"))
    text = template.render(
        **_of_model(loaded, source.model or params.get("model"), shown),
        **_of_run(loaded, source, params, found or RunState(), full_length),
        title=said.repository or out.resolve().name,
        address=f"hf-hub:{said.repository}" if said.repository else f"local-dir:{out.name}",
        weights=source.description(),
        license=said.license,
        captioner=_one_line(said.captioner),
        discriminator=_one_line(said.discriminator, end="."),
        measured=measured and replace(measured, label=shown(measured.label), table=_table(measured.table, shown)),
        versions=_versions(),
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def _of_model(loaded: LoadedModel, name: str | None, shown: Callable[[str], str]) -> dict[str, Any]:
    assert loaded.description is not None
    config = loaded.description["model_cfg"]
    size = loaded.model.visual.image_size  # OpenCLIP's own ResNets have one number
    height, width = (size, size) if isinstance(size, int) else size
    count = sum(parameter.numel() for parameter in loaded.model.parameters()) / 1e6
    tower = config["text_cfg"].get("hf_model_name")
    named = f"An OpenCLIP model, {code(shown(name))}" if name else "An OpenCLIP model"
    return {
        "architecture": (
            f"{named}: {count:.{0 if count >= 10 else 1}f} M parameters, images of {height} × {width} pixels, "
            f"{config['text_cfg'].get('context_length', 77)} tokens, embeddings of {config['embed_dim']}."
        ),
        "bias": loaded.model.logit_bias is not None,
        "text_tower": tower and shown(tower),
        "local_tower": local_tower(loaded.description) is not None,
        "stripped": loaded.stripped,
        "tags": ["clip", "open_clip"],
    }


def _of_run(
    loaded: LoadedModel, source: WeightSource, params: Mapping[str, str], found: RunState, full_length: str | None
) -> dict[str, Any]:
    if not params:
        return {"known": False, "plan": None, "sigmoid": False, "command": None, "settings": [], "ours": []}
    plan, upstream = plan_of_run(params), upstream_of_run(params)
    topics = describe(plan, upstream, full_length, loaded.epoch)
    thresholds, threshold_source = _thresholds(plan, source, found)
    ours = settings(plan, upstream) if plan.typed else []
    siglip = plan.loss.stock and upstream.stock_loss(plan.loss.name == "siglip") == "siglip"
    return {
        "known": True,
        "plan": plan,
        "sigmoid": plan.loss.name == "fff" or siglip,
        "topics": [topic for topic in topics if topic.name != "captions"],
        "thresholds": thresholds,
        "threshold_source": threshold_source,
        "findings": found.sentences(plan),
        "data": words.data(params),
        "captions": next(topic for topic in topics if topic.name == "captions"),
        "epochs": words.epochs(loaded.epoch, params),
        "batch": words.batch(params),
        "start": words.start(params),
        "command": words.said(params, "command"),
        "ranks": int(words.said(params, "world_size") or 1),
        "ours": [each._replace(flag=as_flag(each.flag)) for each in ours if each.effect],
        "idle": [as_flag(each.flag) for each in ours if not each.effect],
        "settings": words.settings(params),
    }


def _thresholds(plan: Plan, source: WeightSource, found: RunState) -> tuple[list[tuple[str, str, str]], str]:
    """Eq. 1's rows (MiningConfig.bars), none where they are not known, and where they are from."""
    mining, checkpoint = plan.mining, source.checkpoints[-1].name
    if mining is None:
        return [], ""
    if mining.per_image is None:
        return mining.bars(), "They were set before training."
    if found.held is None:
        return [], (
            f"Its thresholds are not known: the run found and held them, and no state is beside {code(checkpoint)}."
        )
    last = " the last of the averaged checkpoints," if len(source.checkpoints) > 1 else ""
    return mining.bars(found.held), (
        f"They were not set: the run found and held those of its rate. These are where it stood at{last} "
        f"{code(checkpoint)} (from {code(found.file or '')} beside it)."
    )


def _versions() -> str:
    import open_clip
    import torch

    ours = f"open_clip_fff {open_clip_fff.__version__}"
    return f"{ours}, OpenCLIP {open_clip.__version__} and torch {torch.__version__.split('+')[0]}"


def _table(text: str, shown: Callable[[str], str]) -> str:
    """A table of markdown, cell by cell."""
    return "|".join(shown(cell) for cell in text.split("|"))


def _one_line(text: str | None, end: str = "") -> str | None:
    return None if text is None else " ".join(text.split()).removesuffix(end or "\0")


def _cell(text: str) -> str:
    """As a cell of a table can hold it."""
    return text.replace("|", "\\|")


def _points(topic: Topic) -> str:
    """A topic's clauses as a line of markdown, with links for papers."""
    return re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", "; ".join(topic.parts))
