"""From what was typed to a source: what is wrong is said before anything is written."""

from collections.abc import Callable

from open_clip_fff.tools.pack.folder import folder_opening
from open_clip_fff.tools.pack.kinds import SourceKind
from open_clip_fff.tools.pack.settings import PackSettings
from open_clip_fff.tools.pack.shards import shards_opening
from open_clip_fff.tools.pack.source import PreparedSource
from open_clip_fff.tools.pack.table import table_opening

KINDS: dict[str, Callable[[PackSettings, SourceKind], PreparedSource]] = {
    "table": table_opening,
    "folder": folder_opening,
    "shards": shards_opening,
}


def opening(settings: PackSettings, kind: SourceKind) -> PreparedSource:
    """Looks at a source and writes nothing.

    Raises:
        UsageError: for columns that are not there, no rows or pictures, images none of which is there.
    """
    return KINDS[kind.name](settings, kind)
