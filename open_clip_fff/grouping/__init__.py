"""Mini-batches of similar samples, from features: the walk, the order of a queue, and the bank of features."""
