"""Numbers of a discriminator's training that its flags name."""

HARD = 0.5  # the share of negatives that are drawn by their cosine, where nothing else is said
LEAST = 8  # held-out pairs, below which the figures mean nothing
