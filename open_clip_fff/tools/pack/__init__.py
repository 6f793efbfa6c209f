"""Webdataset shards of what people have: tables, folders of pictures, other shards."""
