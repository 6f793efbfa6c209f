"""What the captions of a data set are like, raw ones against generated ones: one HTML page with figures, and CSVs.

    python scripts/analyze_captions.py --out analysis --device cuda -- --train-data 'data/{00000..00099}.tar' \\
        --text-key txt --json-text-key captions --mining-model ViT-L-14-quickgelu --mining-pretrained openai

Draws the analysis figures of FFF's paper (arXiv 2405.10286, Figures 2, 3 and 5) of one's own data. The flags behind
`--` are training's: captions from `--text-key` are raw, those from json and sidecars are generated. Features are those
of a frozen model, stored ones (`--mining-features precomputed`), or a sentence model's (`--mining-features text`), and
then what takes images is left out. The page holds its images and needs no server.
"""

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from open_clip_fff.analysis.run import PAGE, Analysis, Wanted, analyse
from open_clip_fff.analysis.tables import LEFT_OUT, NAMES
from open_clip_fff.commands.program import as_program
from open_clip_fff.devices import usable
from open_clip_fff.errors import UsageError, printable, reason
from open_clip_fff.host.arguments import parse_open_clip
from open_clip_fff.host.checks import preview_training_data
from open_clip_fff.host.shards import training_shards
from open_clip_fff.hub.borrowed import borrow, split_at_dashes
from open_clip_fff.plural import plural
from open_clip_fff.sampling.draw import SHARDS, Draw
from open_clip_fff.sampling.extractors import extractor_of
from open_clip_fff.settings import Plan
from open_clip_fff.settings.flags import OneLineParser, as_flag
from open_clip_fff.settings.mining import SELF
from open_clip_fff.shardwise.tars import count_samples
from open_clip_fff.whole import write_whole

ALL = 10_000  # captions of an image: more than training may take
IDLE = ("mined_per_image", "ema_decay", "raw_weight")  # only training needs them


def main(argv: Sequence[str] | None = None) -> int:
    """Shards in, a folder with a page out.

    Returns:
        0; 1 if a shard could not be read to its end; 2 for a mistake that the user can mend, printed in one line.
    """
    return as_program("analyze_captions.py", lambda: run(list(sys.argv[1:] if argv is None else argv)))


def run(argv: list[str]) -> int:
    """All of it. Raises UsageError for a mistake that the user can mend."""
    args, plan, urls = parse(argv)
    extractor = extractor_of(plan, args.device)
    wanted = Wanted(args.batch, args.show, extractor, model_name(plan), args.device, args.workers)
    command = printable(shlex.join(["python", "scripts/analyze_captions.py", *argv]))
    bar = partial(tqdm, mininterval=1 if sys.stderr.isatty() else 30)
    draw = Draw(urls, args.images, 0, count_samples, bar)
    found = analyse(draw, plan.captions, wanted, topics(plan), command, bar)
    write(args.out, found)
    tell(args.out, found)
    return 1 if found.missing.shards else 0


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, Plan, list[str]]:
    """The command line: the program's own flags, the plan of training's, and the shards, which are looked at first.

    Raises:
        UsageError: for a flag that cannot work, and for shards that training would refuse.
    """
    parser = OneLineParser(
        prog="scripts/analyze_captions.py", description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=f"folder for {PAGE} and the CSVs")
    parser.add_argument(
        "--images",
        type=int,
        default=5_000,
        metavar="N",
        help=f"to draw, evenly from up to {SHARDS} shards (default: 5000)",
    )
    parser.add_argument(
        "--batch", type=int, default=1_000, metavar="B", help="images whose captions compete for one (default: 1000)"
    )
    parser.add_argument("--show", type=int, default=4, metavar="N", help="images of each part of examples (default: 4)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    parser.add_argument("--workers", type=int, default=4, help="threads that decode (default: 4)")
    parser.epilog = "Behind --, training's flags: --train-data, --text-key, --json-text-key, --mining-model, …"
    here, there = split_at_dashes(argv)
    args = parser.parse_args(here)
    for name, least in (("images", 2), ("batch", 2), ("show", 0), ("workers", 0)):
        if (value := getattr(args, name)) < least:
            raise UsageError(f"{as_flag(name)} {value}: must be {least} or more")
    usual = {"captions_per_image": ALL, "mining_features": "frozen"}
    # with a warm-up, so that the trainee's own features are refused below, in words that help
    said = {"loss": "fff", "caption_policy": "all", "method": None, "mining_warmup": 1}
    plan, others = borrow(there, usual=usual, said=said, idle=IDLE)
    if plan.features in (*SELF, "off"):
        raise UsageError(
            f"--mining-features {plan.features}: there is no model to look with; choose frozen, precomputed or text"
        )
    plan, urls, open_clip = training_shards(plan, parse_open_clip(others))
    check_out(args.out)
    args.device = usable(args.device)
    one = dataclasses.replace(plan.captions, per_image=1)  # that no image has so many as ALL is no mistake
    seen, _, _ = preview_training_data(open_clip, dataclasses.replace(plan, captions=one))
    return args, dataclasses.replace(seen, captions=plan.captions), urls


def check_out(out: Path) -> None:
    """Before the work, not after it: whether the folder can be had, and holds nobody else's files.

    Raises:
        UsageError: if not.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be made ({reason(error)})") from error
    foreign = [name for name in NAMES if (out / name).exists()]
    if foreign and not (out / PAGE).exists():
        raise UsageError(f"--out {out}: holds {foreign[0]}, not of an earlier analysis; name another folder")


def write(out: Path, found: Analysis) -> None:
    """Each file whole.

    Raises:
        UsageError: if one cannot be written.
    """
    try:
        for name, content in found.files.items():
            write_whole(out / name, content)
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written ({reason(error)})") from error


def tell(out: Path, found: Analysis) -> None:
    """The summary, for a terminal."""
    width, topic = max(len(line.words) for line in found.lines) + 2, ""
    print(found.about)
    print(" " * width, *(f"{kind:>10}" for kind in found.kinds))
    for line in found.lines:
        if line.topic != topic:
            topic = line.topic
            print(topic)
        print(f"  {line.words:<{width - 2}}", *(f"{line.said(kind):>10}" for kind in found.kinds))
    for sentence in found.missing.shards:
        print(f"not read to its end: {sentence}", file=sys.stderr)
    if found.missing.samples:
        print(f"{plural(len(found.missing.samples), 'samples')} left out; {out / LEFT_OUT} says which and why")
    print(f"{out / PAGE} is written ({len(found.files[PAGE]) / 2**20:.1f} MiB): open it in a browser")


def model_name(plan: Plan) -> str | None:
    """As a person calls it: the architecture, and the tag or file of its weights. None where stored features say it."""
    source = plan.miner
    if source is None:
        return None
    weights = "" if source.pretrained is None else f" ({Path(source.pretrained).name})"
    return f"{Path(source.model).name if Path(source.model).is_dir() else source.model}{weights}"


def topics(plan: Plan) -> list[tuple[str, str]]:
    """Where captions are from and what looks at them, for the page's end."""
    raw = len(plan.captions.text_keys)
    sources = {"raw captions": plan.captions.sources[:raw], "generated captions": plan.captions.sources[raw:]}
    said = [(topic, ", ".join(names) or "none") for topic, names in sources.items()]
    if plan.captions.per_image < ALL:
        said.append(("of an image", f"{plural(plan.captions.per_image, 'captions')} at most"))
    stored = f"stored in {plan.feature_sidecar or 'the shards'}" if plan.features == "precomputed" else plan.features
    return [*said, ("features", stored if plan.miner is None else f"{stored}, of {plan.miner.name}")]


if __name__ == "__main__":
    sys.exit(main())
