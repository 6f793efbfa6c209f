"""What the loader read in an epoch, in one line each for captions and for damage."""

from collections.abc import Mapping

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.data.counters import DAMAGE
from open_clip_fff.errors import UsageError, printable
from open_clip_fff.plural import plural

LOST = "shards lost"
NAMED = 10  # shards in a line


def caption_line(news: Mapping[str, int], captions: CaptionSettings) -> str | None:
    """A line on coverage by source, captions per image, repeats and length (`LoaderCounters.take`); None for no row."""
    rows, used = news["rows"], max(news["captions"], 1)
    if not rows:
        return None
    coverage = ", ".join(f"{source} {news[f'source {source}'] / rows:.2%}" for source in captions.sources)
    shares = f"{news['raw'] / used:.1%} of them raw, {news['repeated'] / used:.1%} repeated"
    key = captions.positive_key
    keyed = "" if key is None else f"; {key} in {news['keys'] / rows:.2%}"
    return (
        f"{plural(rows, 'rows')} read, text in {coverage}; {news['captions'] / rows:.2f} captions per image, {shares}, "
        f"{news['words'] / used:.1f} words{keyed}"
    )


def skipped_lines(
    news: Mapping[str, int], read: Mapping[str, int], shards: int, where: str, rows: Mapping[str, int] | None = None
) -> list[str]:
    """A line on skipped or damaged rows, and one on lost shards (of `shards` in all), where there are any.

    `news` is as `caption_line`'s, `read` and `rows` are as `lost_line`'s.
    """
    damage = ", ".join(f"{news[kind]:,} {kind}" for kind in DAMAGE if news[kind])
    lines = [f"Rows skipped or damaged in {where}: {damage}"] if damage else []
    if read:
        lines.append(f"Lost of {plural(shards, 'shards')} in {where}: {printable(lost_line(read, rows or {}))}")
    return lines


def lost_line(read: Mapping[str, int], rows: Mapping[str, int]) -> str:
    """Shards that were lost in an epoch, and the rows that they cost.

    `read` has the rows read of each lost shard before its loss, `rows` how many rows a shard holds, where known.
    """
    known = {url: max(rows[url] - given, 0) for url, given in read.items() if url in rows}
    parts = [
        f"{url} ({plural(known[url], 'rows') if url in known else 'rows not known'}"
        + (f" beyond the first {given:,})" if given else ")")
        for url, given in sorted(read.items())
    ]
    more = [f"and {len(parts) - NAMED} more"] if len(parts) > NAMED else []
    cost = plural(sum(known.values()), "rows") if known else "rows not known"
    cost += f" of {len(known):,} of them, the others' not known" if 0 < len(known) < len(read) else ""
    return f"{plural(len(read), 'shards')}, {cost}: {', '.join([*parts[:NAMED], *more])}"


def check_coverage(news: Mapping[str, int], captions: CaptionSettings, where: str) -> None:
    """Raises UsageError if a source fell below --min-coverage."""
    for source in captions.sources:
        share = news[f"source {source}"] / max(news["rows"], 1)
        if news["rows"] and share < captions.min_coverage:
            short = f"{source} has text in {share:.2%} of {plural(news['rows'], 'rows')}"
            raise UsageError(f"--min-coverage {captions.min_coverage:g}: in {where}, {short}; lower it to go on")
