"""open-clip-fff export: reads the weights, writes and checks the folder, and pushes it if asked to."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from open_clip_fff.atomic_io import check_new_folder
from open_clip_fff.hub.card import CardInfo, model_card, read_comparison
from open_clip_fff.hub.checkpoints import read_epoch, read_extra
from open_clip_fff.hub.description import local_files, read_description
from open_clip_fff.hub.folder import write_hub_folder
from open_clip_fff.hub.fusion_files import CONFIG, fusion_to_export, write_fusion
from open_clip_fff.hub.loading import LoadedModel, add_architectures, model_from_description
from open_clip_fff.hub.params import plan_of_run, read_params
from open_clip_fff.hub.push import check_name, check_portable, push
from open_clip_fff.hub.run_facts import SavedStats
from open_clip_fff.hub.stock_check import STOCK, check_in_stock_process
from open_clip_fff.hub.weight_source import WeightSource, choose_weights
from open_clip_fff.mining.rate import held_thresholds
from open_clip_fff.models.text_design import design_of_config


def run(arguments: argparse.Namespace) -> int:
    """Exports, and pushes, as the flags say. Raises UsageError as `export`, and for an invalid repository name."""
    info = CardInfo(arguments.captioner, arguments.discriminator, arguments.license, arguments.push)
    if arguments.push:
        check_name(arguments.push)
    check_new_folder(arguments.out)
    add_architectures(arguments.model_config)
    source = choose_weights(arguments.run, arguments.average, arguments.ema, arguments.model)
    loaded = export(source, arguments.out, info, arguments.comparison, arguments.card_paths)
    _print_summary(source, loaded, info, arguments.out)
    if arguments.push:
        print(f"pushed to {push(arguments.out, arguments.push, arguments.private)}")
    return 0


def export(
    source: WeightSource,
    out: Path,
    info: CardInfo | None = None,
    comparison: Path | None = None,
    paths: bool = False,
    check: Callable[[Path, LoadedModel], object] = check_in_stock_process,
) -> LoadedModel:
    """Writes `out`: configuration, weights, model card and, if the text tower needs them, tokenizer files.

    Args:
        source: the weights.
        out: the folder to make.
        info: for the card.
        comparison: a folder of open-clip-fff compare, for the card.
        paths: whether the card shows local paths.
        check: compares the finished folder with the model, before it is renamed to `out`.

    Returns:
        The exported model.

    Raises:
        UsageError: if anything cannot be read, does not fit, or loads back differently, or `out` holds anything.

    Example:
        >>> source = choose_weights([Path("logs/my-run")], averaged=None, ema=False)  # doctest: +SKIP
        >>> export(source, Path("my-model"))  # doctest: +SKIP
    """
    info = info or CardInfo()
    weights, checkpoint = source.read(), source.checkpoints[-1]
    description = read_description(checkpoint, weights, source.model)
    if info.repository:
        check_portable(description, info.repository)
    loaded = model_from_description(str(checkpoint), checkpoint.stem, description, weights, str(checkpoint))
    loaded = replace(loaded, epoch=read_epoch(checkpoint), run=source.run)
    loaded.model.eval()
    measured = read_comparison(comparison, loaded.weights) if comparison else None
    params = read_params(source.run) if source.run else {}
    stats = _saved_stats(params, checkpoint) if params else None
    full_length = design_of_config(description["model_cfg"]).obstacle
    fusion, note = fusion_to_export(source)
    card = model_card(loaded, source, params, info, out, stats, measured, full_length, paths, fusion is not None)
    # in training's dtypes, and by OpenCLIP's current names
    kept = {
        name: tensor.to(weights[name].dtype) if name in weights else tensor
        for name, tensor in loaded.model.state_dict().items()
    }

    def write_more(folder: Path) -> None:
        if fusion is not None:
            write_fusion(fusion, folder)

    write_hub_folder(description, kept, out, lambda folder: check(folder, loaded), card, info.repository, write_more)
    return replace(loaded, notes=(*loaded.notes, note)) if note else loaded


def _saved_stats(params: Mapping[str, str], checkpoint: Path) -> SavedStats:
    name, state = read_extra(checkpoint)
    mining = plan_of_run(params).mining
    held = None
    if mining is not None and mining.per_image is not None and "miner" in state:
        held = held_thresholds(mining, state["miner"]["rate"])
    step, seen = state.get("miner", {}).get("step"), state.get("seen", {})
    return SavedStats(name if state else None, None if held is None else held._asdict(), step, seen)


def _print_summary(source: WeightSource, loaded: LoadedModel, info: CardInfo, out: Path) -> None:
    print(f"{out} holds {source.description()}")
    print(f"from {', '.join(map(str, source.checkpoints))}")
    for note in loaded.notes:
        print(note)
    if (out / CONFIG).is_file():
        print(f"with its fusion model: --discriminator fusion:{out}")
    if info.discriminator:
        print("note: with a discriminator fine-tuned on COCO, COCO figures are not zero-shot; the card says so")
    for field, path in local_files(loaded.description or {"model_cfg": {}}).items():
        print(f"note: OpenCLIP reads a part of the text tower ({field}) from {path}, here and elsewhere")
    print(f"checked: {STOCK}, in a separate process, gives the same token ids and, up to float error, logits")
    print(f'load it with open_clip.create_model_and_transforms("local-dir:{out}"); read {out}/README.md')
