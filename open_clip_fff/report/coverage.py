"""What the loader read in an epoch, in one line each for captions and for damage."""

from collections.abc import Mapping

from open_clip_fff.plural import plural
from open_clip_fff.settings.captions import CaptionSettings


def caption_line(news: Mapping[str, int], captions: CaptionSettings) -> str | None:
    """Coverage by source, captions per image, repeats and length; None where no row was counted.

    Args:
        news: `data.tally.Tally.news`.
        captions: for the names of the sources.
    """
    rows, used = news["rows"], max(news["captions"], 1)
    if not rows:
        return None
    coverage = ", ".join(f"{source} {news[f'source {source}'] / rows:.2%}" for source in captions.sources)
    shares = f"{news['raw'] / used:.1%} of them raw, {news['repeated'] / used:.1%} repeated"
    return (
        f"{plural(rows, 'rows')} read, text in {coverage}; {news['captions'] / rows:.2f} captions per image, {shares}, "
        f"{news['words'] / used:.1f} words"
    )


def damage_line(news: Mapping[str, int], kinds: tuple[str, ...]) -> str | None:
    """Rows that were skipped or damaged; None where there were none."""
    return ", ".join(f"{news[kind]:,} {kind}" for kind in kinds if news[kind]) or None


def too_little(news: Mapping[str, int], captions: CaptionSettings) -> str | None:
    """The source that fell below --min-coverage, in words; None where none did."""
    for source in captions.sources:
        share = news[f"source {source}"] / max(news["rows"], 1)
        if news["rows"] and share < captions.min_coverage:
            return f"{source} has text in {share:.2%} of {plural(news['rows'], 'rows')}"
    return None
