"""Mini-batches of alike samples, from features alone: the walk, the order of a queue, and the bank of features."""

from open_clip_fff.grouping.bank import Bank, BankWriter
from open_clip_fff.grouping.bank_file import discard
from open_clip_fff.grouping.order import Arrangement, arrange, grouped_order, mean_neighbour_similarity
from open_clip_fff.grouping.walk import alternating_walk

__all__ = [
    "Arrangement",
    "Bank",
    "BankWriter",
    "alternating_walk",
    "arrange",
    "discard",
    "grouped_order",
    "mean_neighbour_similarity",
]
