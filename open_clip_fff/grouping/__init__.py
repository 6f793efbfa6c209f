"""Mini-batches of alike samples, from features alone: the walk, the order of a queue, and the bank of features."""
