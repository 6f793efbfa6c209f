"""What calibration leaves behind: a table, flags to paste, two pictures; each file whole or not there."""

import shlex
from pathlib import Path

from open_clip_fff.calibration.flags import feature_flags, threshold_flags
from open_clip_fff.calibration.proposal_picture import draw_curves, draw_spread
from open_clip_fff.calibration.run import Findings, Wanted
from open_clip_fff.calibration.table import in_words
from open_clip_fff.errors import UsageError, reason
from open_clip_fff.plural import plural
from open_clip_fff.settings.plan import Plan
from open_clip_fff.whole import write_whole

FILES = ("thresholds.csv", "flags.txt", "cosines.png", "rates.png")


def write(out: Path, findings: Findings, plan: Plan, wanted: Wanted) -> None:
    """FILES, in a folder.

    Raises:
        UsageError: if one cannot be written.
    """
    try:
        write_whole(out / FILES[0], findings.table.to_csv(index=False))
        write_whole(out / FILES[1], flags_to_paste(findings, plan, wanted) + "\n")
        draw_spread(findings.spread, findings.proposal, out / FILES[2])
        draw_curves(findings.curves, findings.proposal, wanted.batch, wanted.per_image, out / FILES[3])
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
    lines += ["", in_words(f.table, wanted.batch), ""]
    lines += [f"! {notice}" for notice in f.notices] + ([""] if f.notices else [])
    return "\n".join([*lines, flags_to_paste(findings, plan, wanted)])
