"""The model card: what is known of a model, and no number that was not measured."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import open_clip_fff
from open_clip_fff.config.description import describe, settings
from open_clip_fff.config.fields import as_flag
from open_clip_fff.config.plan import Plan
from open_clip_fff.config.topics import Topic, code, table_cell
from open_clip_fff.errors import UsageError, as_mistake
from open_clip_fff.hub import run_facts
from open_clip_fff.hub.base_names import base_names, params_by_base_names
from open_clip_fff.hub.description import local_files
from open_clip_fff.hub.loading import LoadedModel
from open_clip_fff.hub.params import plan_of_run, upstream_of_run
from open_clip_fff.hub.run_facts import SavedStats
from open_clip_fff.hub.weight_source import WeightSource


@dataclass(frozen=True)
class CardInfo:
    """What only the user knows about a model; all optional.

    Raises UsageError for a licence that the hub's front matter cannot hold.
    """

    captioner: str | None = None  # what wrote the captions
    discriminator: str | None = None  # what scored false negatives, and what it was trained on
    license: str | None = None  # the hub's identifier
    repository: str | None = None  # ORG/NAME, where it will be pushed

    def __post_init__(self) -> None:
        if self.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", self.license):
            raise UsageError(f"--license {self.license}: the hub's identifier, such as mit, apache-2.0 or cc-by-nc-4.0")


@dataclass(frozen=True)
class MeasuredRow:
    """A comparison that includes the model."""

    label: str  # the model's row
    models: int  # models of the row: seeds of one training if several
    table: str  # markdown, with notes


def read_comparison(folder: Path, weights: str) -> MeasuredRow:
    """The row of the model with these weights (a `fingerprint`), in a folder of open-clip-fff compare.

    Raises UsageError if there is no comparison, or the model is not in it.
    """
    none = f"--comparison {folder}: no comparison of open-clip-fff compare"
    with as_mistake(none, OSError, ValueError, KeyError, TypeError):
        models = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))["models"]
        table = (folder / "table.md").read_text(encoding="utf-8").strip()
        rows = [(each["label"], len(each["weights"])) for each in models if weights in each["weights"]]
        known = ", ".join(each["label"] for each in models)
    if not rows:
        raise UsageError(
            f"--comparison {folder}: these weights ({weights[:8]}) were not measured there, only those of {known}; "
            f"score them with open-clip-fff score and compare again"
        )
    return MeasuredRow(*rows[0], table)


def model_card(
    loaded: LoadedModel,
    source: WeightSource,
    params: Mapping[str, str],
    info: CardInfo,
    out: Path,
    stats: SavedStats | None = None,
    measured: MeasuredRow | None = None,
    full_length: str | None = None,
    paths: bool = False,
    fusion: bool = False,
) -> str:
    """The text of README.md, for a model made from a hub configuration, in the folder `out`.

    Args:
        loaded, source: the model, and which of the run's weights it has.
        params: of the run (hub/params.py); empty if unknown.
        info: from the user.
        out: the folder that the card is for.
        stats: from the extra state of the (last) checkpoint.
        measured: a comparison that includes the model.
        full_length: why the text tower needs captions at full length; None if they may be trimmed.
        paths: whether local paths are shown; else only their base names.
        fusion: whether its fusion model is beside it.
    """
    from jinja2 import Environment, StrictUndefined

    shown, params = (str, params) if paths else (base_names, params_by_base_names(params))
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters |= {"code": code, "cell": table_cell, "points": _points}
    template = environment.from_string(resources.files(__package__).joinpath("card.md.jinja").read_text("utf-8"))
    text = template.render(
        **_of_model(loaded, source.model or params.get("model"), shown),
        **_of_run(loaded, source, params, stats or SavedStats(), full_length),
        title=info.repository or out.resolve().name,
        address=f"hf-hub:{info.repository}" if info.repository else f"local-dir:{out.name}",
        weights=source.description(),
        several_runs=source.several_runs,
        fusion=fusion,
        license=info.license,
        captioner=_one_line(info.captioner),
        discriminator=_one_line(info.discriminator, end="."),
        measured=measured and replace(measured, label=shown(measured.label), table=_by_cell(measured.table, shown)),
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
        "local_files": {field: shown(path) for field, path in local_files(loaded.description).items()},
        "stripped": loaded.stripped,
    }


def _of_run(
    loaded: LoadedModel, source: WeightSource, params: Mapping[str, str], stats: SavedStats, full_length: str | None
) -> dict[str, Any]:
    if not params:
        return {"known": False, "plan": None, "sigmoid": False, "command": None, "settings": [], "ours": []}
    plan, upstream = plan_of_run(params), upstream_of_run(params)
    text = (loaded.description or {}).get("model_cfg", {}).get("text_cfg", {})
    topics = describe(plan, upstream, full_length, loaded.epoch, masks="hf_model_name" in text)
    thresholds, threshold_source = _thresholds(plan, source, stats)
    ours = settings(plan, upstream) if plan.given else []
    siglip = plan.loss.stock and upstream.stock_loss(plan.loss.name == "siglip") == "siglip"
    return {
        "known": True,
        "plan": plan,
        "sigmoid": plan.loss.name == "fff" or siglip,
        "topics": [topic for topic in topics if topic.name != "captions"],
        "thresholds": thresholds,
        "threshold_source": threshold_source,
        "findings": stats.sentences(plan),
        "data": run_facts.data(params),
        "captions": next(topic for topic in topics if topic.name == "captions"),
        "epochs": run_facts.epochs(loaded.epoch, params),
        "batch": run_facts.batch(params),
        "start": run_facts.start(params),
        "command": run_facts.param_value(params, "command"),
        "ranks": run_facts.number_of(params, "world_size"),
        "ours": [each._replace(flag=as_flag(each.flag)) for each in ours if each.effect],
        "without_effect": [as_flag(each.flag) for each in ours if not each.effect],
        "settings": run_facts.run_settings(params),
    }


def _thresholds(plan: Plan, source: WeightSource, stats: SavedStats) -> tuple[list[tuple[str, str, str]], str]:
    """Eq. 1's rows (`MiningConfig.threshold_rows`), empty if unknown, and a sentence on where they come from."""
    mining, checkpoint = plan.mining, source.checkpoints[-1].name
    if mining is None:
        return [], ""
    if mining.per_image is None:
        return mining.threshold_rows(), "They were set before training."
    if stats.held is None:
        return [], (
            f"Its thresholds are unknown: the run adapted them to its rate, and no extra state is beside "
            f"{code(checkpoint)}."
        )
    last = " the last of the averaged checkpoints," if len(source.checkpoints) > 1 else ""
    return mining.threshold_rows(stats.held), (
        f"They were not set: the run adapted them to its rate. These are their values at{last} "
        f"{code(checkpoint)} (from {code(stats.file or '')} beside it)."
    )


def _versions() -> str:
    import open_clip
    import torch

    ours = f"open_clip_fff {open_clip_fff.__version__}"
    return f"{ours}, OpenCLIP {open_clip.__version__} and torch {torch.__version__.split('+')[0]}"


def _by_cell(table: str, shown: Callable[[str], str]) -> str:
    """A markdown table with each cell's text shortened."""
    return "|".join(shown(cell) for cell in table.split("|"))


def _one_line(text: str | None, end: str = "") -> str | None:
    return None if text is None else " ".join(text.split()).removesuffix(end)


def _points(topic: Topic) -> str:
    """A topic's clauses as a line of markdown, with links to papers."""
    return re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", "; ".join(topic.parts))
