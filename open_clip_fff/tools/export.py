"""open-clip-fff export: the weights read, the folder written and checked, pushed where that was asked for."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from open_clip_fff.hub.card import CardInfo, card
from open_clip_fff.hub.checkpoints import read_epoch, read_extra
from open_clip_fff.hub.description import local_tower, read_description
from open_clip_fff.hub.folder import check_free, write_hub_folder
from open_clip_fff.hub.loading import LoadedModel, add_architectures, model_from_description
from open_clip_fff.hub.measured import read_comparison
from open_clip_fff.hub.params import plan_of_run, read_params
from open_clip_fff.hub.push import check_name, check_portable, push
from open_clip_fff.hub.run_state import RunState
from open_clip_fff.hub.source import WeightSource, choose_weights
from open_clip_fff.hub.stock_check import check_in_stock_process
from open_clip_fff.mining.rate import held_thresholds
from open_clip_fff.models.text_design import design_of_config


def run(arguments: argparse.Namespace) -> None:
    """Exports, and pushes, as the command line says.

    Raises:
        UsageError: as `export` does, and for a name that the hub does not take.
    """
    said = CardInfo(arguments.captioner, arguments.discriminator, arguments.license, arguments.push)
    if arguments.push:
        check_name(arguments.push)
    check_free(arguments.out)
    add_architectures(arguments.model_config)
    source = choose_weights(arguments.run, arguments.average, arguments.ema, arguments.model)
    loaded = export(source, arguments.out, said, arguments.comparison, arguments.card_paths)
    print(f"{arguments.out} holds {source.description()}")
    print(f"from {', '.join(map(str, source.checkpoints))}")
    _tell(loaded, said, arguments.out)
    if arguments.push:
        print(f"pushed to {push(arguments.out, arguments.push, arguments.private)}")


def export(
    source: WeightSource,
    out: Path,
    said: CardInfo | None = None,
    comparison: Path | None = None,
    paths: bool = False,
    check: Callable[[Path, LoadedModel], object] = check_in_stock_process,
) -> LoadedModel:
    """Writes `out`: configuration, weights, tokenizer files where the text tower needs them, and the model card.

    Args:
        source: the weights.
        out: the folder to make.
        said: for the card.
        comparison: a folder of open-clip-fff compare, for the card.
        paths: whether the card says where on this machine things were.
        check: of the finished folder against the model, before it gets its name.

    Returns:
        The exported model.

    Raises:
        UsageError: if anything cannot be read, does not fit, or does not load back alike, or `out` holds anything.
    """
    said = said or CardInfo()
    weights, checkpoint = source.read(), source.checkpoints[-1]
    description = read_description(checkpoint, weights, source.model)
    if said.repository:
        check_portable(description, said.repository)
    loaded = model_from_description(source.called, checkpoint.stem, description, weights, source.called)
    loaded = replace(loaded, epoch=read_epoch(checkpoint), run=source.run)
    loaded.model.eval()
    measured = read_comparison(comparison, loaded.weights) if comparison else None
    params = read_params(source.run) if source.run else {}
    found = _found(params, checkpoint) if params else None
    full_length = design_of_config(description["model_cfg"]).obstacle
    text = card(loaded, source, params, said, out, found, measured, full_length, paths)
    # in the types that training kept them in, and by the names that OpenCLIP has for them today
    kept = {
        name: tensor.to(weights[name].dtype) if name in weights else tensor
        for name, tensor in loaded.model.state_dict().items()
    }
    write_hub_folder(description, kept, out, text, lambda folder: check(folder, loaded), said.repository)
    return loaded


def _found(params: Mapping[str, str], checkpoint: Path) -> RunState:
    """What the run found until then; its thresholds, where it held a rate."""
    name, state = read_extra(checkpoint)
    mining = plan_of_run(params).mining
    held = None
    if mining is not None and mining.per_image is not None and "miner" in state:
        held = held_thresholds(mining, state["miner"]["rate"])
    return RunState.of(name, state, None if held is None else held._asdict())


def _tell(loaded: LoadedModel, said: CardInfo, out: Path) -> None:
    for note in loaded.notes:
        print(note)
    if said.discriminator:
        print("note: a discriminator fine-tuned on COCO makes COCO figures no longer zero-shot; the card says so")
    if loaded.description and (tower := local_tower(loaded.description)):
        print(f"note: OpenCLIP reads the text tower's configuration (hf_model_name) from {tower}, here and elsewhere")
    print("stock OpenCLIP, in a process of its own, loads it with the same token ids and, to float error, logits")
    print(f'load it with open_clip.create_model_and_transforms("local-dir:{out}"); read {out}/README.md')
