"""open-clip-fff analyze: a sample read and measured, the folder written, the summary told."""

import argparse
import dataclasses
import sys
from functools import partial
from pathlib import Path

from tqdm import tqdm

from open_clip_fff.atomic_io import write_atomically
from open_clip_fff.config.plan import Plan
from open_clip_fff.data.training_data import preview_training_data, training_shards
from open_clip_fff.devices import usable
from open_clip_fff.errors import UsageError, printable, reason
from open_clip_fff.plural import plural
from open_clip_fff.tools.analyze.constants import ALL, PAGE
from open_clip_fff.tools.analyze.run import Analysis, Wanted, analyse
from open_clip_fff.tools.analyze.tables import LEFT_OUT, NAMES
from open_clip_fff.tools.sampling.draw import Draw
from open_clip_fff.tools.sampling.extractors import extractor_of
from open_clip_fff.tools.shards.tars import count_samples


def run(args: argparse.Namespace, plan: Plan, command: str) -> int:
    """A folder with the page and its tables; `command` is what was typed.

    Raises:
        UsageError: for shards that training would refuse, and what else cannot work.
    """
    plan, urls = looked_at(args, plan)
    extractor = extractor_of(plan, args.device)
    wanted = Wanted(args.batch, args.show, extractor, model_name(plan), args.device, args.workers)
    bar = partial(tqdm, mininterval=1 if sys.stderr.isatty() else 30)
    draw = Draw(urls, args.images, 0, count_samples, bar)
    found = analyse(draw, plan.captions, wanted, topics(plan), printable(command), bar)
    write(args.out, found)
    tell(args.out, found)
    return 1 if found.missing.shards else 0


def looked_at(args: argparse.Namespace, plan: Plan) -> tuple[Plan, list[str]]:
    """The plan as the shards make it, and these, whose first rows are looked at.

    Raises:
        UsageError: for shards that training would refuse.
    """
    plan, urls = training_shards(plan, args.training)
    check_out(args.out)
    args.device = usable(args.device)
    one = dataclasses.replace(plan.captions, per_image=1)  # that no image has so many as ALL is no mistake
    seen, _, _ = preview_training_data(args.training, dataclasses.replace(plan, captions=one))
    return dataclasses.replace(seen, captions=plan.captions), urls


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
            write_atomically(out / name, content)
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
