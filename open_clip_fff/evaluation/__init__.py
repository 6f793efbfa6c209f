"""Scores of a trained model by clip-benchmark's evaluators: which sets, where they are, and what is kept of them."""
