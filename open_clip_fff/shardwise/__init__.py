"""Programs that go through a data set shard by shard: each one whole or not at all, by any number of processes."""

from open_clip_fff.shardwise.folder import OutFolder
from open_clip_fff.shardwise.record import Record
from open_clip_fff.shardwise.run import each_shard
from open_clip_fff.shardwise.share import Share

__all__ = ["OutFolder", "Record", "Share", "each_shard"]
