"""How much is read at most."""

SHARDS = 64  # drawn themselves: a sample of thousands needs no more
GALLERY_SHARDS = 8  # of a thousand
