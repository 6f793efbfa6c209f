"""Programs that go through a data set shard by shard: each one whole or not at all, by any number of processes."""
