"""What calibration leaves behind: a table, flags to paste, plots; each file whole or not there."""

import shlex
from pathlib import Path

from open_clip_fff.atomic_io import write_atomically
from open_clip_fff.config.plan import Plan
from open_clip_fff.errors import UsageError, reason
from open_clip_fff.plural import plural
from open_clip_fff.tools.calibrate.files import FALSE_NEGATIVES, FILES
from open_clip_fff.tools.calibrate.flags import feature_flags, threshold_flags
from open_clip_fff.tools.calibrate.plots import draw_curves, draw_false_negatives, draw_spread
from open_clip_fff.tools.calibrate.run import Findings, Wanted
from open_clip_fff.tools.calibrate.table import in_words


def write(out: Path, findings: Findings, plan: Plan, wanted: Wanted) -> list[str]:
    """FILES and what classes allow, in a folder; gives their names.

    Raises:
        UsageError: if one cannot be written.
    """
    try:
        write_atomically(out / FILES[0], findings.table.to_csv(index=False))
        write_atomically(out / FILES[1], flags_to_paste(findings, plan, wanted) + "\n")
        draw_spread(findings.spread, findings.proposal, out / FILES[2])
        draw_curves(findings.curves, findings.proposal, wanted.batch, wanted.per_image, out / FILES[3])
        if findings.false_negatives is None:
            (out / FALSE_NEGATIVES).unlink(missing_ok=True)  # an earlier sample's
            return [*FILES]
        draw_false_negatives(findings.false_negatives, out / FALSE_NEGATIVES)
        return [*FILES, FALSE_NEGATIVES]
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written ({reason(error)})") from error


def flags_to_paste(findings: Findings, plan: Plan, wanted: Wanted) -> str:
    """Training's flags, by number, and those that find the thresholds on the fly."""
    features = feature_flags(plan)
    on_the_fly = [*features, "--mined-per-image", f"{wanted.per_image:g}"]
    for name in ("p1", "p2", "p3", "p1_prime"):
        if plan.mining is not None and getattr(plan.mining, name) is None and not plan.text_alone:
            on_the_fly += [f"--{name.replace('_', '-')}", "off"]
    return "\n".join(
        [
            "# by number",
            shlex.join([*features, *threshold_flags(findings.proposal.config)]),
            "# or found in training: this many per image at whatever batch size, with thresholds that follow the data",
            shlex.join(on_the_fly),
        ]
    )


def summary(findings: Findings, plan: Plan, wanted: Wanted, what: str) -> str:
    """What a person reads at the end.

    Args:
        what: mines, in a word or two.
    """
    f = findings
    left_out = "".join(f"; {count:,} left out: {why}" for why, count in f.left_out.most_common())
    lines = [f"{plural(f.images, 'images')}, {f.captions / f.images:.2f} captions each, as {what} sees them{left_out}"]
    if f.own_above is not None:
        lines.append(f"{f.own_above:.1%} of images' own captions outscore p1")
    if f.false_negatives is None:
        lines.append("no classes (--class-key): which pairs are right, and false negatives, cannot be told")
    lines += ["", in_words(f.table, wanted.batch), ""]
    lines += [f"! {notice}" for notice in f.notices] + ([""] if f.notices else [])
    return "\n".join([*lines, flags_to_paste(findings, plan, wanted)])
