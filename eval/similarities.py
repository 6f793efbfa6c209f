"""How a model sees one's data: cosines of own and other pairs, what thresholds would mine, and false negatives.

python eval/similarities.py ViT-B-32-quickgelu,openai 'data/{000..004}.tar' --json-text-key captions --class-key cls
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import webdataset as wds

from open_clip_fff.assignment.reference import Thresholds
from open_clip_fff.calibration.picture import draw_cosines, draw_false_negatives, draw_sweep
from open_clip_fff.calibration.sample import sample
from open_clip_fff.calibration.sweep import cosines, false_negatives, sweep
from open_clip_fff.errors import UsageError
from open_clip_fff.hub.borrowed import borrow, refuse
from open_clip_fff.hub.loading import FORMS, load_model
from open_clip_fff.plural import plural
from open_clip_fff.settings import Plan
from open_clip_fff.towers.frozen import FrozenModel

BATCHES = 2 ** np.arange(4, 17)


def main(argv: Sequence[str] | None = None) -> int:
    """Draws what the command line says.

    Returns:
        0, or 2 for a mistake that the user can mend, which is printed in one line.
    """
    arguments, rest = parse(argv)
    try:
        plan = plan_of(rest)
        look(arguments, plan)
    except UsageError as error:
        print(f"eval/similarities.py: error: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The command line, and what of it is training's."""
    parser = argparse.ArgumentParser(prog="eval/similarities.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", metavar="RUN_OR_MODEL", help=FORMS)
    parser.add_argument("shards", help="tars, with braces as in training")
    parser.add_argument("--out", type=Path, default=Path("similarities"), metavar="DIR", help="(default: similarities)")
    parser.add_argument("--images", type=int, default=1_000, help="to look at, from the first shard on (default: 1000)")
    parser.add_argument("--batch-size", type=int, default=1_024, metavar="N", help="global (default: 1024)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    parser.epilog = "Training's flags say where captions and classes are, and the thresholds: --json-text-key, --p1, …"
    return parser.parse_known_args(argv)


def plan_of(flags: Sequence[str]) -> Plan:
    """Training's flags about captions, classes and thresholds, and architectures of one's own.

    Raises:
        UsageError: for a flag that cannot work, or is none.
    """
    said = {"loss": "fff", "caption_policy": "all", "mining_features": "precomputed", "method": None}
    plan, others = borrow(flags, usual={"captions_per_image": 5}, said=said)
    refuse(others)
    return plan


def look(arguments: argparse.Namespace, plan: Plan) -> None:
    """Encodes a sample, writes thresholds.csv and three pictures, and prints what the thresholds would do.

    Raises:
        UsageError: if the model or the shards cannot be read.
    """
    assert plan.mining is not None
    for name, least in (("images", 2), ("batch_size", 2)):
        if (value := getattr(arguments, name)) < least:
            raise UsageError(f"--{name.replace('_', '-')} {value}: must be {least} or more")
    loaded = load_model(arguments.model, arguments.device)
    urls = wds.shardlists.expand_urls(arguments.shards)
    captions = replace(plan.captions, shards=arguments.shards)
    seen = sample(urls, captions, FrozenModel(loaded.model, loaded.tokenizer), arguments.images)
    labels = seen.labels.cpu().numpy()
    labelled = bool((labels >= 0).any())
    if plan.captions.class_key is not None and not labelled:
        raise UsageError(f"--class-key {plan.captions.class_key}: no image has it; name a tar member or a json field")
    found, thresholds = cosines(seen, plan.mining.text_text), Thresholds.of(plan.mining)
    captions = seen.features.valid.float().sum(dim=1).mean().item()
    table = sweep(found, len(labels), captions, arguments.batch_size, labelled)

    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "thresholds.csv", index=False)
    draw_cosines(found, thresholds, labelled, out / "similarities.png")
    draw_sweep(table, thresholds, arguments.batch_size, labelled, out / "thresholds.png")
    print(f"{plural(len(labels), 'images')}, {captions:.2f} captions each, as {loaded.name} sees them")
    if labelled:
        draw_false_negatives(false_negatives(labels[labels >= 0], BATCHES), out / "false-negatives.png")
    else:
        print("no classes (--class-key): which pairs are right, and false negatives, cannot be told")
    print(f"{out}/ holds thresholds.csv, {', '.join(sorted(path.name for path in out.glob('*.png')))}")


if __name__ == "__main__":
    sys.exit(main())
