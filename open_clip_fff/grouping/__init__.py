"""Mini-batches of alike samples, from features alone: the walk, and the order of a queue."""

from open_clip_fff.grouping.order import Arrangement, arrange, grouped_order, mean_neighbour_similarity
from open_clip_fff.grouping.walk import alternating_walk

__all__ = [
    "Arrangement",
    "alternating_walk",
    "arrange",
    "grouped_order",
    "mean_neighbour_similarity",
]
