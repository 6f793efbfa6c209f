"""Programs that process a data set shard by shard, with any number of processes; each file is written atomically."""
