"""Webdataset shards of what people have: tables, folders of pictures, other shards."""

from open_clip_fff.packing.run import pack
from open_clip_fff.packing.settings import PackSettings

__all__ = ["PackSettings", "pack"]
