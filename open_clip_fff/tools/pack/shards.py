"""Other shards, and captions that join their samples."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.data.data_sets import parquet_name
from open_clip_fff.data.shards import IMAGES, as_usage_errors, describe_members, dotted_image, image_bytes, read_samples
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.data.table_columns import column_names, spaces_note
from open_clip_fff.errors import UsageError
from open_clip_fff.plural import plural
from open_clip_fff.tools.pack.columns import check_column, chosen, columns_line, unused_columns
from open_clip_fff.tools.pack.items import Item, SkipSample
from open_clip_fff.tools.pack.join import Join, Joined, OneTable, PerShard, check_join
from open_clip_fff.tools.pack.kinds import SourceKind, files_in, kind_of
from open_clip_fff.tools.pack.listing import Listing, listed
from open_clip_fff.tools.pack.settings import PackSettings
from open_clip_fff.tools.pack.source import PreparedSource, SampleSource
from open_clip_fff.tools.pack.table_rows import joined_rows
from open_clip_fff.tools.pack.tables.table import SourceTable
from open_clip_fff.tools.pack.walk import unused_in
from open_clip_fff.tools.shards.folder import by_stem
from open_clip_fff.tools.shards.share import Share
from open_clip_fff.tools.shards.tars import count_samples, members

TRIED = 1_000  # samples that are looked at, up to the first with an image
CAPTIONS = "captions.arrow"  # the list of captions, in the folder that is filled


class Shards:
    """Samples of other shards, and captions that join them.

    Args:
        urls: the shards; each makes one of the same name.
        json_keys: fields of the json that hold captions, which are counted.
        join: finds captions; None for none.
        unused: what lies beside them, in lines.
    """

    def __init__(
        self, urls: tuple[str, ...], json_keys: tuple[str, ...], join: Join | None, unused: Sequence[str] = ()
    ) -> None:
        self.join, self._unused = join, list(unused)
        self.shards: Mapping[str, str] = by_stem(urls, "SOURCE")
        joined = () if join is None or "captions" in json_keys else ("captions",)
        self.json_keys: tuple[str, ...] = (*json_keys, *joined)
        self.read_keys: tuple[str, ...] | None = self.json_keys
        self._reader = CaptionReader(CaptionSettings(json_keys=self.json_keys))

    def size(self, shard: str) -> int:
        return count_samples(shard)

    def samples(self, shard: str) -> Iterator[tuple[str, tuple[dict[str, Any], Joined | None]]]:
        if self.join is not None:
            self.join.check(shard)
        for sample in as_usage_errors(read_samples([shard]), shard):
            yield str(sample["__key__"]), (sample, self.join.find(sample) if self.join is not None else None)

    def look(self, count: int) -> Iterator[tuple[str, tuple[dict[str, Any], Joined | None]]]:
        """The first of the first shard."""
        return islice(self.samples(next(iter(self.shards.values()))), count)

    def total(self) -> int:
        """Those of the first shard times the shards, about."""
        return count_samples(next(iter(self.shards.values()))) * len(self.shards)

    def notes(self) -> list[str]:
        return [] if self.join is None else self.join.notes()

    def unused(self) -> list[str]:
        return self._unused

    def item(self, makings: tuple[dict[str, Any], Joined | None]) -> Item:
        sample, joined = makings
        image = image_bytes(sample)
        if image is None:
            raise SkipSample("no image" if dotted_image(sample) is None else "no image: its key has a dot")
        name = next(name for name, member in sample.items() if member is image)
        beside = {name: bytes(member) for name, member in members(sample).items() if isinstance(member, bytes)}
        del beside[name]
        if joined is not None and joined.captions:
            beside |= joined.into(beside)
        found, damage = self._reader.read({**sample, **beside})
        if damage:
            raise SkipSample("captions cannot be read")
        raw = len(found["txt"])
        return Item(
            *(str(sample["__key__"]), image, beside, raw, sum(map(len, found.values())) - raw),
            joined=joined.rows if joined is not None else 0,
            name=name,
        )


def shards_opening(settings: PackSettings, kind: SourceKind) -> PreparedSource:
    """Looks at shards, and at what joins them.

    Raises:
        UsageError: for shards without images, captions that cannot be read, or columns that are not there.
    """
    _check_images(kind.files[0])
    lines, opened = _join(settings, kind) if settings.captions else ([], lambda place, share: None)

    def open_at(place: Path, share: Share) -> SampleSource[Any]:
        if (join := opened(place, share)) is not None:
            check_join(join, kind.files)
        return Shards(kind.files, settings.json_keys, join, unused_in(settings.source, kind.files, pictures=False))

    return PreparedSource([f"{settings.source}: {plural(len(kind.files), 'shards')}", *lines], open_at)


def _check_images(shard: str) -> None:
    """Refuses local shards the first of which has no image at its start; one that cannot be read costs itself only."""
    held: dict[str, None] = {}
    if not Path(shard).is_file():
        return
    with suppress(UsageError):
        for sample in as_usage_errors(read_samples([shard], TRIED), shard):
            if image_bytes(sample) is not None:
                return
            held |= dict.fromkeys(sample)
    if held:
        raise UsageError(
            f"SOURCE: the first samples of {shard} have no image ({', '.join(IMAGES)}); "
            f"they hold {describe_members(held)}"
        )


def _join(settings: PackSettings, kind: SourceKind) -> tuple[list[str], Callable[[Path, Share], Join | None]]:
    """What was understood of --captions, and what opens it."""
    place, typed = Path(settings.captions or ""), settings.columns
    if any((place / parquet_name(url)).exists() for url in kind.files):
        if settings.join != "key":
            raise UsageError(f"--join {settings.join}: {place} has a parquet per shard, which joins by key")
        columns = typed.captions or ("captions",)
        PerShard(place, columns).check(kind.files[0])
        line = f"{place}: a parquet per shard, captions by {', '.join(columns)}, joined by key"
        return [line], lambda place_, share: PerShard(place, columns)
    files = files_in(place, ".parquet") if place.is_dir() else ()
    found = SourceKind("table", files) if files else kind_of(str(place), "--captions")
    if found.name != "table":
        raise UsageError(
            f"--captions {place}: is {found.name}; name a table, or a folder with STEM.parquet for each STEM.tar"
        )
    table = SourceTable(found.files, settings.separator)
    by = (typed.url or "url") if settings.join == "url" else "key"
    flag = "--url-key" if settings.join == "url" else "--join key: the column"
    field, by = by, check_column(table, flag, by)
    names, notes = chosen(table, typed, image=False)
    notes = list(dict.fromkeys([*notes, *spaces_note(flag, field, by)]))
    notes += [f"not used: {line}" for line in unused_columns(table, names, by)]
    if not names.captions:
        raise UsageError(
            f"--caption-key: say which columns of {table.name} hold captions; it has {column_names(table.columns)}"
        )
    if next(joined_rows(table, names, by), None) is None:
        raise UsageError(f"--captions: {table.name} holds no row")
    table.skipped.clear()

    def open_at(place_: Path, share: Share) -> Join:
        found = joined_rows(table, names, by)
        listing = Listing(found, names.captions, "join", "identity", table.about(), table.warnings)
        rows = listed(place_ / CAPTIONS, listing, share)
        return OneTable(rows, table.name, field if settings.join == "url" else None)

    return [f"{columns_line(table, typed, names)}; joined by `{by}`", *notes], open_at
