"""open-clip-fff calibrate: finds thresholds, prints them, and writes a table, flags to paste, and plots."""

import argparse
import shlex
from pathlib import Path

from open_clip_fff.atomic_io import write_atomically
from open_clip_fff.config.fields import as_flag
from open_clip_fff.config.mining import THRESHOLDS, FrozenSource, MiningConfig
from open_clip_fff.config.numbers import threshold_text
from open_clip_fff.config.plan import Plan
from open_clip_fff.plural import plural
from open_clip_fff.tools.calibrate import COSINES, FALSE_NEGATIVES, FILES, FLAGS, RATES, TABLE
from open_clip_fff.tools.calibrate.calibration import Calibration, CalibrationSettings, calibrate
from open_clip_fff.tools.calibrate.plots import draw_false_negatives, draw_histograms, draw_rate_curves
from open_clip_fff.tools.calibrate.proposal import check_size
from open_clip_fff.tools.calibrate.table import THRESHOLD_COLUMNS, format_table
from open_clip_fff.tools.pages.figures import png
from open_clip_fff.tools.sampling.command import check_earlier, exit_code, open_shards, writing
from open_clip_fff.tools.sampling.draw import SampleDraw
from open_clip_fff.tools.sampling.extractors import load_extractor
from open_clip_fff.tools.sampling.match_scores import load_scorer


def run(args: argparse.Namespace, plan: Plan) -> int:
    """Finds the thresholds, prints and writes them.

    Raises UsageError for shards that training would refuse, a folder with other files, models that cannot be loaded,
    and too few images.
    """
    check_size(args.images, args.global_batch, args.mined_per_image, batch_from=args.batch_from)
    check_earlier(args.out, (*FILES, FALSE_NEGATIVES), ",".join(THRESHOLD_COLUMNS[:3]), "calibration")
    plan, urls, device = open_shards(args, plan, args.out)
    settings = CalibrationSettings(
        args.global_batch, args.mined_per_image, args.match_pairs, args.seed, args.workers, device, args.batch_from
    )
    extractor = load_extractor(plan, device)
    scorer = None if plan.connection is None else load_scorer(plan.connection, device)
    draw = SampleDraw(urls, args.images, args.seed)
    drawn = f"{plural(len(draw), 'samples')} of {len(draw.indices)} of {plural(len(urls), 'shards')}"
    print(f"{drawn}; batches of {settings.batch:,}{settings.batch_from}")
    try:
        found = calibrate(plan, draw, extractor, scorer, settings)
    finally:
        code = exit_code(draw)
    with writing(args.out):
        names = write(args.out, found, plan, settings)
    print(summary(found, plan, settings))
    print(f"{args.out}/ holds {', '.join(names)}")
    return code


def write(out: Path, found: Calibration, plan: Plan, settings: CalibrationSettings) -> list[str]:
    """Writes FILES, and FALSE_NEGATIVES if classes are known, each atomically; returns their names."""
    files: dict[str, str | bytes] = {
        TABLE: found.table.to_csv(index=False),
        FLAGS: flags_to_paste(found, plan, settings) + "\n",
        COSINES: png(draw_histograms(found.histograms, found.proposal)),
        RATES: png(draw_rate_curves(found.curves, found.proposal, settings.batch, settings.per_image)),
    }
    if found.false_negatives is None:
        (out / FALSE_NEGATIVES).unlink(missing_ok=True)  # of an earlier sample
    else:
        files[FALSE_NEGATIVES] = png(draw_false_negatives(found.false_negatives))
    for name, content in files.items():
        write_atomically(out / name, content)
    return list(files)


def summary(found: Calibration, plan: Plan, settings: CalibrationSettings) -> str:
    """The result for a terminal."""
    extractor = plan.features if plan.miner is None else plan.miner.name
    skipped = "".join(f"; {count:,} left out: {why}" for why, count in found.skipped.most_common())
    lines = [
        f"{plural(found.images, 'images')}, {found.captions / found.images:.2f} captions each, by {extractor}{skipped}"
    ]
    if found.own_above is not None:
        lines.append(f"{found.own_above:.1%} of images' own captions outscore p1")
    if found.false_negatives is None:
        lines.append("no classes (--class-key): which pairs are right, and false negatives, are unknown")
    lines += ["", format_table(found.table, settings.batch), ""]
    lines += [f"! {warning}" for warning in found.warnings] + ([""] if found.warnings else [])
    return "\n".join([*lines, flags_to_paste(found, plan, settings)])


def flags_to_paste(found: Calibration, plan: Plan, settings: CalibrationSettings) -> str:
    """Training's flags with thresholds as numbers, and flags that find the thresholds during training."""
    assert plan.mining is not None
    numbers = found.proposal.config
    held = [*feature_flags(plan, plan.mining), "--mined-per-image", f"{settings.per_image:g}"]
    for name in THRESHOLDS:
        if getattr(plan.mining, name) is None and not plan.text_only:
            held += [as_flag(name), "off"]
    return "\n".join(
        [
            "# by number",
            shlex.join([*feature_flags(plan, numbers), *threshold_flags(numbers)]),
            "# or found in training: this many per image at whatever batch size, with thresholds that follow the data",
            shlex.join(held),
        ]
    )


def model_flags(source: FrozenSource) -> list[str]:
    """The flags of the model that mines."""
    weights = [] if source.pretrained is None else ["--mining-pretrained", source.pretrained]
    return ["--mining-model", source.model, *weights]


def threshold_flags(config: MiningConfig) -> list[str]:
    """The threshold flags as numbers, with enough digits."""
    return [part for name in THRESHOLDS for part in (as_flag(name), threshold_text(getattr(config, name)))]


def feature_flags(plan: Plan, mining: MiningConfig) -> list[str]:
    """The flags of the feature extractor and of the captions that mine, beside the thresholds of `mining`."""
    flags = ["--mining-features", plan.features]
    if plan.miner is not None and (plan.features != "precomputed" or "mining_model" in plan.given):
        flags += model_flags(plan.miner)
    if plan.feature_sidecar is not None:
        flags += ["--feature-sidecar", plan.feature_sidecar]
    for config in plan.model_config:
        flags += ["--model-config", config]
    if mining.p3 is not None and mining.text_text != MiningConfig.text_text:
        flags += ["--text-text", mining.text_text]
    return flags + ([] if mining.raw else ["--no-mine-raw"])
