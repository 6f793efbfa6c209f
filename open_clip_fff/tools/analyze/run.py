"""open-clip-fff analyze: reads a sample, measures its captions, writes the page and CSVs, and prints the summary."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from open_clip_fff.atomic_io import write_atomically
from open_clip_fff.config.plan import Plan
from open_clip_fff.data.shards import SkippedSample
from open_clip_fff.errors import UsageError, printable
from open_clip_fff.fingerprint import plain_name
from open_clip_fff.hub.training_flags import MANY
from open_clip_fff.plural import plural
from open_clip_fff.tools.analyze import PAGE
from open_clip_fff.tools.analyze.measure import ONE, Measurements, measure_captions
from open_clip_fff.tools.analyze.sample import CaptionSample, read_sample
from open_clip_fff.tools.analyze.sections import left_out, sections
from open_clip_fff.tools.analyze.summary import FILE_NAMES, LEFT_OUT, SummaryLine, csv_files, summary_lines
from open_clip_fff.tools.pages.html import Head, data_address, render
from open_clip_fff.tools.sampling.command import check_earlier, exit_code, open_shards, writing
from open_clip_fff.tools.sampling.draw import SampleDraw
from open_clip_fff.tools.sampling.extractors import load_extractor
from open_clip_fff.tools.sampling.reading import SampleReader, thumbnail

TITLE = "Analysis of the captions"


def run(args: argparse.Namespace, plan: Plan, command: str) -> int:
    """Writes a folder with the page and CSVs; `command` is the command line.

    Raises UsageError for shards that training would refuse, a folder with other files, and too few images.
    """
    plan, urls, device = open_shards(args, plan, args.out, any_number_of_captions=True)
    check_earlier(args.out, (PAGE, *FILE_NAMES), f"<title>{TITLE}</title>", "analysis")
    extractor = load_extractor(plan, device)
    draw = SampleDraw(urls, args.images, 0)
    reader = SampleReader(draw, plan.captions, [extractor], device, keep=thumbnail, workers=args.workers)
    sample = read_sample(reader)
    check_sample(sample, draw, reader.skipped)
    found = measure_captions(sample, args.batch)
    if not found.kinds:
        raise UsageError("--train-data: no two images have a caption of the same kind, so there is nothing to compare")
    stored = None if extractor.stored is None else extractor.stored.model
    model = model_name(plan) or stored or "an unnamed model"
    joined = f" ({plural(sample.copies, 'copies')} of an image joined to it)" if sample.copies else ""
    held = f"{plural(len(sample.keys), 'images')} with {plural(len(sample.captions), 'captions')}"
    about = f"{held} from {plural(len(set(sample.shards)), 'shards')}{joined}, with features of {model}."
    lines = summary_lines(found)
    warnings = _warnings(found, sample, draw, reader.skipped, model, args.batch)
    page = render(
        Path(__file__).parent,
        Head(TITLE, about, warnings, _topics(plan), printable(command)),
        lead=_lead(found, lines),
        kinds=found.names,
        lines=lines,
        sections=sections(found, sample, args.show),
        keys=[printable(key) for key in sample.keys],
        address=lambda image: data_address(sample.thumbnails[image], "image/jpeg"),
        cosine=lambda value: f"{value:.3f}".replace("-", "−"),
    )
    with writing(args.out):  # the page first: it marks the folder as an analysis, even if a full disk ends the writing
        for name, content in {PAGE: page, **csv_files(found, lines, reader.skipped)}.items():
            write_atomically(args.out / name, content)
    print(about)
    print_summary(lines, found.names)
    code = exit_code(draw)
    if reader.skipped:
        print(f"{plural(len(reader.skipped), 'samples')} left out; {args.out / LEFT_OUT} says which and why")
    print(f"{args.out / PAGE} is written ({len(page) / 2**20:.1f} MiB): open it in a browser")
    return code


def check_sample(sample: CaptionSample, draw: SampleDraw, skipped: Sequence[SkippedSample]) -> None:
    """Raises UsageError if fewer than two images were read."""
    if len(sample.keys) < 2:
        reasons = [*draw.warnings(), *(f"{each.key}: {each.why}" for each in skipped)]
        because = f" ({'; '.join(reasons[:3])}{'; …' if len(reasons) > 3 else ''})" if reasons else ""
        raise UsageError(
            f"--train-data: {plural(len(sample.keys), 'images')} with captions read, and two are needed{because}"
        )


def print_summary(lines: Sequence[SummaryLine], kinds: Sequence[str]) -> None:
    """The summary as a table."""
    width, topic = max(len(line.title) for line in lines) + 2, ""
    print(" " * width, *(f"{kind:>10}" for kind in kinds))
    for line in lines:
        if line.topic != topic:
            topic = line.topic
            print(topic)
        print(f"  {line.title:<{width - 2}}", *(f"{line.formatted(kind):>10}" for kind in kinds))


def model_name(plan: Plan) -> str | None:
    """The architecture, and the tag or file of its weights; None for stored features."""
    source = plan.miner
    if source is None:
        return None
    weights = "" if source.pretrained is None else f" ({Path(source.pretrained).name})"
    model = plain_name(source.model)
    return f"{Path(model).name if Path(model).is_dir() else model}{weights}"


def _topics(plan: Plan) -> list[tuple[str, str]]:
    """The sources of captions and features, for the page's end."""
    raw = len(plan.captions.text_keys)
    sources = {"raw captions": plan.captions.sources[:raw], "generated captions": plan.captions.sources[raw:]}
    topics = [(topic, ", ".join(names) or "none") for topic, names in sources.items()]
    if plan.captions.per_image < MANY:
        topics.append(("of an image", f"{plural(plan.captions.per_image, 'captions')} at most"))
    stored = f"stored in {plan.feature_sidecar or 'the shards'}" if plan.features == "precomputed" else plan.features
    return [*topics, ("features", stored if plan.miner is None else f"{stored}, of {plan.miner.name}")]


def _lead(found: Measurements, lines: Sequence[SummaryLine]) -> str:
    """The most important sentence, if images have features."""
    outranked = next((line for line in lines if line.key == f"outranked_{ONE}_1"), None)
    if outranked is None:
        return ""
    size, kinds = f"{max(found.batch.values()):,}", outranked.values
    shares = " and ".join(f"{outranked.formatted(kind)} of images (by one {kind} caption each)" for kind in kinds)
    return f"In batches of {size}, {shares} have a caption of another image that matches at least as well as their own."


def _warnings(
    found: Measurements,
    sample: CaptionSample,
    draw: SampleDraw,
    skipped: Sequence[SkippedSample],
    model: str,
    batch: int,
) -> list[str]:
    lines = [f"All cosines are those of {model}: cosines of different models do not compare."]
    lines += left_out(found, sample, model)
    small = {size for size in found.batch.values() if size < batch}
    if small:
        lines.append(f"There are too few images for batches of {batch:,}: they are of {min(small):,}.")
    if skipped:
        lines.append(f"{plural(len(skipped), 'samples')} left out; {LEFT_OUT} says which and why.")
    return lines + draw.warnings()
