"""Paths and hosts removed from text: a model card is published, and should not show the machine that trained it."""

import os
import re
import shlex
from collections.abc import Mapping

# where an absolute path begins: /, ~/, ~me/, ../, file:// and me@host:/; not in a URL or a fraction
_BEGIN = r"(?:file://|[\w.-]+@[\w.-]+:|(?<![\w.~@/-]))(?:~[\w.-]*|\.\.)?/(?!/)"
_PATH = re.compile(_BEGIN + r"(?:[^\n'\"`;:]*/)?(?=[^\n'\"`;:/\s])")
# a relative path: two folders deep, or a file; the hub's ORG/NAME is neither
_FOLDER, _FILE = r"[\w.{},*-]+/", r"[^\s'\"`;:/]+\.(?:tar|pt|pth|bin|safetensors|npz|json|csv|tsv|parquet|py|txt)\b"
_RELATIVE = re.compile(rf"(?<![\w.~@/{{}}-])(?:\./)?(?:(?:{_FOLDER})+(?={_FILE})|(?:{_FOLDER}){{2,}}(?=\w))")
_MODEL = re.compile(r"(open_clip:[\w.-]+/)(?=[/~]|\.\.?/)")  # ARCH of a --discriminator, before its weights' path
_SLASHES = re.compile(r"(?<!/)(?<![^:]:)//+")  # not a URL's
_END = re.compile(r"(?<=[^\s/'\"`;:])/+(?=$|[\n'\"`;:])")  # a folder's last slash
# not a revision on the hub, R@1 or ViT-L/14@336px
_USER = re.compile(r"(hf-hub:[^\s'\"`;]+)|[\w.-]+@(?!\d+(?:px)?(?![\w-]|\.\d))[\w.-]+")
_HOST = re.compile(r"\b(tcp|ssh|sftp)://[^\s'\"`;|]+")


def base_names(text: str) -> str:
    """A setting's text with local paths shortened to their last part, and `USER@HOST` for user and host names.

    Example:
        >>> base_names("/data/me/{00..03}.tar")
        '{00..03}.tar'
    """
    if "/" in text and "\n" not in text and os.path.exists(text):  # an existing path, whatever it looks like
        return os.path.basename(os.path.abspath(text))
    text = "".join(part if at % 2 else _shortened(part) for at, part in enumerate(_MODEL.split(text)))
    return _USER.sub(lambda found: found[1] or "USER@HOST", _HOST.sub(r"\1://HOST", text))


def _shortened(text: str) -> str:
    return _RELATIVE.sub("", _PATH.sub("", _END.sub("", _SLASHES.sub("/", text))))


def params_by_base_names(params: Mapping[str, str]) -> dict[str, str]:
    """A run's settings (hub/params.py); its command is shortened word by word."""
    return {name: _command(text) if name == "command" else base_names(text) for name, text in params.items()}


def _command(text: str) -> str:
    try:
        return shlex.join([base_names(word) for word in shlex.split(text)])
    except ValueError:
        return base_names(text)
