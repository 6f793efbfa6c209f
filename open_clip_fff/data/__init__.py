"""Captions: where they are, K of them, masks, ids, tokens."""
