"""Checks of the preview, and the table that a run prints at its start."""

from collections.abc import Sequence

from open_clip_fff.config.captions import PATTERN, CaptionSettings
from open_clip_fff.data.preview import Preview
from open_clip_fff.data.shards import IMAGES, describe_members, dotted_key_note
from open_clip_fff.data.table_columns import column_names
from open_clip_fff.errors import UsageError
from open_clip_fff.fingerprint import plain_name
from open_clip_fff.plural import plural

LONG = 1_000  # characters of a printed caption
FOLLOW = (
    "a row is what follows each other in the tar and has one key, so write it sorted, as with tar --sort=name, or "
    "open-clip-fff pack"
)


def check_previews(previews: Sequence[Preview], captions: CaptionSettings) -> None:
    """Checks the previews of all data sets, which may have their captions in different sources.

    Raises:
        UsageError: no rows, images or captions, a source without any text, or K larger than any row.
    """
    for preview in previews:
        _check_images(preview)
    preview, names = previews[0], " or ".join(preview.name for preview in previews)
    text = any(preview.empty < preview.rows for preview in previews)  # in other sources, then
    for source in captions.sources:
        found = sum(preview.rows_with.get(source, 0) for preview in previews)
        if not found:
            others = [key for key in captions.text_keys if key != source]
            fix = f"; without it: {preview.flag} '{';'.join(others)}'" if source in captions.text_keys and text else ""
            fix += "; several names are separated by ; and not by ," * ("," in source)
            fix += "; re: takes the pattern of a whole name, as in re:cap.*" * (f":{PATTERN}" in source)
            bounds = f" (--caption-words {captions.bounds})" if captions.bounds else ""
            instead = f"{bounds}; {_found_instead(source, preview)}{fix}"
            raise UsageError(f"{_flags(source, preview)}: no row of {names} has text there{instead}")
        share = found / sum(preview.rows for preview in previews)
        if share < captions.min_coverage:
            raise UsageError(
                f"--min-coverage {captions.min_coverage:g}: {source} has text in {share:.2%} of {names}'s rows"
            )
    for preview in previews:
        _check_captions(preview, captions)
        if preview.opened and not preview.stored:
            raise UsageError(
                f"stored features (--mining-features precomputed, --group-features stored): none of the first "
                f"{plural(preview.opened, 'rows')} of {preview.name} has any that can be used ({preview.lacking}); "
                f"make them with open-clip-fff embed, and name their folder with --feature-sidecar"
            )
    if captions.class_key is not None and not any(preview.classes for preview in previews):
        raise UsageError(
            f"--class-key {captions.class_key}: no row of {preview.name} has a class there; {_names_there(preview)}"
        )
    if captions.positive_key is not None and not any(preview.keys for preview in previews):
        raise UsageError(
            f"--positive-key {captions.positive_key}: no row of {names} has anything there; {_names_there(preview)}"
        )
    longest = max(preview.longest for preview in previews)
    if captions.policy != "first" and captions.per_image > longest:
        more = " and --json-text-key" * (preview.flag == "--text-key")
        if preview.again:
            more += "; rows with the same image are joined by open-clip-fff pack --group"
        raise UsageError(
            f"--captions-per-image {captions.per_image}: no row of {names} has more than "
            f"{plural(longest, 'captions')}; lower it, or name more sources with {preview.flag} 'A;B'{more}"
        )


def check_validation(previews: Sequence[Preview], captions: CaptionSettings) -> None:
    """Raises UsageError if the preview of a data set shows no row that can be used."""
    for preview in previews:
        _check_images(preview)
        _check_captions(preview, captions)


def _check_images(preview: Preview) -> None:
    if not preview.rows:
        raise UsageError(f"{preview.data_flag}: {preview.name} holds no sample")
    if not preview.images:
        raise UsageError(
            f"{preview.data_flag}: no row of {preview.name} has an image ({', '.join(IMAGES)}); its rows hold "
            f"{describe_members(preview.members)}{preview.links}"
        )


def _check_captions(preview: Preview, captions: CaptionSettings) -> None:
    if preview.empty == preview.rows:
        sources = ", ".join(captions.sources)
        raise UsageError(
            f"{preview.data_flag}: no row of {preview.name} has a caption in {sources}; "
            f"{_found_instead(sources, preview)}"
        )
    if preview.members and preview.usable <= preview.torn:  # in the order of a folder some rows are whole by chance
        number = f"only {plural(preview.usable, 'rows')}" if preview.usable else "no row"
        raise UsageError(
            f"{preview.data_flag}: {number} of {preview.name} {'have' if preview.usable > 1 else 'has'} both an image "
            f"and a caption: {FOLLOW}"
        )


def preview_lines(previews: Sequence[Preview], captions: CaptionSettings, tokens: int | None = None) -> list[str]:
    """The previews as lines: a coverage table, then the first rows, each caption quoted on its own line.

    `tokens` is the text tower's length; None where it is not known.
    """
    return [line for preview in previews for line in _lines(preview, captions, tokens)]


def _lines(preview: Preview, captions: CaptionSettings, tokens: int | None) -> list[str]:
    width = max(len(source) for source in captions.sources)
    lines = [f"Captions in {preview.name}, {plural(preview.rows, 'rows')}:"]
    for source in captions.sources:
        share, count = preview.rows_with[source] / preview.rows, preview.captions[source] / preview.rows
        lines.append(f"  {source:<{width}}  text in {share:7.2%} of rows, {count:.2f} captions per row")
        if not preview.rows_with[source]:  # another data set has some
            lines.append(f"  ! {_flags(source, preview)}: none in this data set; {_found_instead(source, preview)}")
    words = sum(length * number for length, number in preview.lengths.items())
    lines.append(
        f"  {'used':<{width}}  {preview.used / preview.rows:.2f} captions per image of K = {captions.per_image}, "
        f"of {words / max(preview.used, 1):.1f} words; the longest row has {preview.longest}"
    )
    if tokens and (cut := sum(number for length, number in preview.lengths.items() if length > tokens - 2)):
        lines.append(
            f"  {cut / preview.used:.1%} of these have more words than the text tower has tokens ({tokens}): "
            "they are cut; --split-sentences makes a caption of each sentence (of json and sidecars)"
        )
    if preview.opened and preview.model is not None:
        share, rows = preview.stored / preview.opened, plural(preview.opened, "rows")
        lines.append(f"  features of {plain_name(preview.model)} in {share:.2%} of the first {rows}")
    if captions.positive_key is not None:
        share = preview.keys / preview.rows
        lines.append(f"  --positive-key {captions.positive_key} has a value in {share:.2%} of rows")
        if len(preview.values) == preview.keys > 1:
            lines.append(
                f"  ! all {preview.keys:,} of these differ, and only equal ones make positives: is it an image's id?"
            )
    lines += [f"  {note}" for note in damage_lines(preview)]
    if without := preview.rows - preview.images:
        lines.append(
            f"  {plural(without, 'rows')} without an image: training skips such rows{dotted_key_note(preview.members)}"
        )
    if preview.torn:
        lines.append(f"  {plural(preview.torn, 'rows')} whose files do not follow each other: {FOLLOW}")
    if preview.empty:
        lines.append(f"  {plural(preview.empty, 'rows')} without a caption: training skips such rows")
    if preview.again:
        lines.append(
            f"  {plural(preview.again, 'rows')} with the image of an earlier one: open-clip-fff pack --group makes one "
            "sample of all rows of an image"
        )
    if preview.broken:
        lines.append(
            f"  {plural(preview.broken, 'rows')} with a caption of several lines: json has lists of captions, "
            "and open-clip-fff pack makes a caption of each line of a folder's NAME.txt"
        )
    if preview.repeated:
        lines.append(
            f"  {plural(preview.repeated, 'captions')} equal to an earlier one of the row: is one text in two sources?"
        )
    for key, texts in preview.shown:
        lines.append(f"  {key}")
        lines += [f"    {number} {_quoted(text)}" for number, text in enumerate(texts[: captions.per_image], 1)]
        if len(texts) > captions.per_image:
            lines.append(f"    and {len(texts) - captions.per_image} more, beyond K")
    return lines


def damage_lines(preview: Preview) -> list[str]:
    """Notes on columns, and how many rows have captions that cannot be read."""
    rows = f"{plural(preview.damaged, 'rows')} with captions that cannot be read, first {preview.damage}"
    return [*preview.notes, *[rows] * bool(preview.damaged)]


def _flags(source: str, preview: Preview) -> str:
    """The flag and key that name a source."""
    prefix, colon, name = source.partition(":")
    if colon and prefix == "sidecar":
        return f"--sidecar-text-key {name}"
    if colon and prefix.endswith("json"):
        return f"--json-text-key {source.removeprefix('json:')}"
    return f"{preview.flag} {source}"


def _found_instead(source: str, preview: Preview) -> str:
    """What a source holds instead of text."""
    member, _, key = source.partition(":")
    if preview.damaged == preview.rows:
        return preview.damage
    if start := preview.members.get(member) or preview.cells.get(source):
        below = [path for path in preview.texts if member == "json" and path.startswith(f"{key}.")]
        text = f"text is in {column_names(below)}; " if below else ""
        return f"{text}the first {source if preview.cells else member} is {start}"
    return _names_there(preview)


def _names_there(preview: Preview) -> str:
    """Where a class or a key could be."""
    if not preview.members:  # a CSV, whose columns are known to be there
        return "all rows are empty there"
    fields = f", and json has {column_names(list(preview.fields))}" if preview.fields else ""
    return f"its rows hold {', '.join(sorted(preview.members))}{fields}{preview.links}"


def _quoted(text: str) -> str:
    return repr(text) if len(text) <= LONG else f"{text[:LONG]!r}… ({len(text):,} characters)"
