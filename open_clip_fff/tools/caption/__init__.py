"""Pseudo-captions: what a captioner says of the images of a shard, cleaned, and where it is written."""
