"""Packs tables, folders of images and shards as webdataset shards."""
