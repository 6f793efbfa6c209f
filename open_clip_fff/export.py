"""`python -m open_clip_fff.export`: a training checkpoint as a folder that stock OpenCLIP loads, with a model card.

python -m open_clip_fff.export logs/my-run --out my-model
# anywhere: open_clip.create_model_and_transforms("local-dir:my-model")
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from open_clip_fff.assignment.rate import held_thresholds
from open_clip_fff.errors import UsageError
from open_clip_fff.hub.card import Said, card
from open_clip_fff.hub.checkpoints import read_epoch, read_extra
from open_clip_fff.hub.description import local_tower, read_description
from open_clip_fff.hub.folder import check_free, write_hub_folder
from open_clip_fff.hub.found import Found
from open_clip_fff.hub.fresh_process import check_alone
from open_clip_fff.hub.loading import LoadedModel, add_architectures, assemble
from open_clip_fff.hub.measured import read_comparison
from open_clip_fff.hub.params import plan_of_run, read_params
from open_clip_fff.hub.push import check_name, check_portable, push
from open_clip_fff.hub.source import Source, choose
from open_clip_fff.settings.flags import OneLineParser
from open_clip_fff.towers.text_design import design_of_config


def main(argv: Sequence[str] | None = None) -> int:
    """Exports, and pushes, as the command line says.

    Returns:
        0, or 2 for a mistake that the user can mend, which is printed in one line.
    """
    try:
        arguments = _parser().parse_args(argv)
        said = Said(arguments.captioner, arguments.discriminator, arguments.license, arguments.push)
        if arguments.push:
            check_name(arguments.push)
        elif arguments.private:
            raise UsageError("--private: goes with --push ORG/NAME")
        check_free(arguments.out)
        add_architectures(arguments.model_config)
        source = choose(arguments.run, arguments.average, arguments.ema, arguments.model)
        loaded = export(source, arguments.out, said, arguments.comparison, arguments.card_paths)
        print(f"{arguments.out} holds {source.words()}")
        print(f"from {', '.join(map(str, source.checkpoints))}")
        _tell(loaded, said, arguments.out)
        if arguments.push:
            print(f"pushed to {push(arguments.out, arguments.push, arguments.private)}")
    except UsageError as error:
        print(f"open_clip_fff.export: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return 2
    return 0


def export(
    source: Source,
    out: Path,
    said: Said | None = None,
    comparison: Path | None = None,
    paths: bool = False,
    check: Callable[[Path, LoadedModel], object] = check_alone,
) -> LoadedModel:
    """Writes `out`: configuration, weights, tokenizer files where the text tower needs them, and the model card.

    Args:
        source: the weights.
        out: the folder to make.
        said: for the card.
        comparison: a folder of eval/compare.py, for the card.
        paths: whether the card says where on this machine things were.
        check: of the finished folder against the model, before it gets its name.

    Returns:
        The exported model.

    Raises:
        UsageError: if anything cannot be read, does not fit, or does not load back alike, or `out` holds anything.
    """
    said = said or Said()
    weights, checkpoint = source.read(), source.checkpoints[-1]
    description = read_description(checkpoint, weights, source.model)
    if said.repository:
        check_portable(description, said.repository)
    loaded = assemble(source.called, checkpoint.stem, description, weights, source.called)
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


def _found(params: Mapping[str, str], checkpoint: Path) -> Found:
    """What the run found until then; its thresholds, where it held a rate."""
    name, state = read_extra(checkpoint)
    mining = plan_of_run(params).mining
    held = None
    if mining is not None and mining.per_image is not None and "miner" in state:
        held = held_thresholds(mining, state["miner"]["rate"])
    return Found.of(name, state, None if held is None else held._asdict())


def _tell(loaded: LoadedModel, said: Said, out: Path) -> None:
    for note in loaded.notes:
        print(note)
    if said.discriminator:
        print("note: a discriminator fine-tuned on COCO makes COCO figures no longer zero-shot; the card says so")
    if loaded.description and (tower := local_tower(loaded.description)):
        print(f"note: OpenCLIP reads the text tower's configuration (hf_model_name) from {tower}, here and elsewhere")
    print("stock OpenCLIP, in a process of its own, loads it with the same token ids and, to float error, logits")
    print(f'load it with open_clip.create_model_and_transforms("local-dir:{out}"); read {out}/README.md')


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is no number; checkpoints stand before it")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="python -m open_clip_fff.export", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    add = parser.add_argument
    add("run", type=Path, nargs="+", help="a run's folder (its last checkpoint), or a checkpoint, of OpenCLIP or ours")
    add("--out", type=Path, required=True, help="the folder to make; it must not hold anything yet")
    which = parser.add_argument_group("which weights")
    add = which.add_argument
    add("--ema", action="store_true", help="the moving average of the weights (--ema-decay)")
    add(
        "--average",
        type=_number,
        nargs="?",
        const=0,
        metavar="N",
        help="the mean of the run's last N checkpoints; without N, of all checkpoints given (put it after them). "
        "Statistics of batch norm are averaged, not estimated anew",
    )
    add("--model", metavar="NAME", help="the architecture, where the checkpoint is not in its run's folder")
    add("--model-config", action="append", default=[], metavar="FILE|DIR", help="adds architectures of your own")
    about = parser.add_argument_group("the model card")
    add = about.add_argument
    add("--captioner", metavar="TEXT", help="what wrote the captions")
    add("--discriminator", metavar="TEXT", help="what the discriminator was trained on")
    add("--license", metavar="ID", help="the hub's identifier, such as mit")
    add("--comparison", type=Path, metavar="DIR", help="a folder of eval/compare.py in which this model was measured")
    add(
        "--card-paths",
        action="store_true",
        help="keep the paths of this machine and the hosts that the command names (default: paths by base names)",
    )
    hub = parser.add_argument_group("the hub")
    add = hub.add_argument
    add("--push", metavar="ORG/NAME", help="upload the finished folder, in one commit, where no model is yet")
    add("--private", action="store_true", help="make the repository private")
    return parser


if __name__ == "__main__":
    sys.exit(main())
