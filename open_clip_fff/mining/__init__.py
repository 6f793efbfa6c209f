"""Who is a positive for whom: own captions by id, Eq. 1 of FFF, match labels; the `Assignment` that losses read."""
