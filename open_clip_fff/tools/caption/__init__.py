"""Pseudo-captions: generated from the images of shards, cleaned, and written beside the shards or into new ones."""
