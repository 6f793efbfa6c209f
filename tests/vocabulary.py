"""OpenCLIP's vocabulary, read once in a process and not for each tokenizer: a third of a tiny training's start."""

import functools

import open_clip.factory


def read_once() -> None:
    """From now on `open_clip.get_tokenizer` gives the same tokenizer where it is asked for the same one."""
    open_clip.factory.SimpleTokenizer = functools.cache(open_clip.factory.SimpleTokenizer)
