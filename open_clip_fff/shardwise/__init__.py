"""Programs that go through a data set shard by shard: each one whole or not at all, by any number of processes."""

from typing import TYPE_CHECKING

from open_clip_fff.lazy import lazy_names

if TYPE_CHECKING:
    from open_clip_fff.shardwise.folder import OutFolder
    from open_clip_fff.shardwise.record import Record
    from open_clip_fff.shardwise.run import each_shard
    from open_clip_fff.shardwise.share import Share
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "OutFolder": ".folder",
            "Record": ".record",
            "Share": ".share",
            "each_shard": ".run",
        },
    )

__all__ = [
    "OutFolder",
    "Record",
    "Share",
    "each_shard",
]
