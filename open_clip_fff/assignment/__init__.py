"""Who is a positive for whom: Eq. 1 of FFF, identity by sample id, and the one small type that losses understand."""

from open_clip_fff.assignment.labels import IGNORED, NEGATIVE, POSITIVE, own_assignment
from open_clip_fff.assignment.making import make_assignment, own_columns
from open_clip_fff.assignment.miner import Miner
from open_clip_fff.assignment.mining import Mined, assign, mine, similarity_assignment
from open_clip_fff.assignment.reference import MiningFeatures

__all__ = [
    "IGNORED",
    "NEGATIVE",
    "POSITIVE",
    "Mined",
    "Miner",
    "MiningFeatures",
    "assign",
    "make_assignment",
    "mine",
    "own_assignment",
    "own_columns",
    "similarity_assignment",
]
