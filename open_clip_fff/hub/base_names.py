"""Paths by their base names alone: a card travels, and whose machine trained the model is nobody's business."""

import os
import re
import shlex
from collections.abc import Mapping

# where a path of a machine begins: /, ~/, ~me/, ../, file:// and me@host:/; no URL's, and no fraction's
_BEGIN = r"(?:file://|[\w.-]+@[\w.-]+:|(?<![\w.~@/-]))(?:~[\w.-]*|\.\.)?/(?!/)"
_PATH = re.compile(_BEGIN + r"(?:[^\n'\"`;:]*/)?(?=[^\n'\"`;:/\s])")
# and one from where the run was started: two folders deep, or a file; ORG/NAME of a hub is neither
_FOLDER, _FILE = r"[\w.{},*-]+/", r"[^\s'\"`;:/]+\.(?:tar|pt|pth|bin|safetensors|npz|json|csv|tsv|parquet|py|txt)\b"
_RELATIVE = re.compile(rf"(?<![\w.~@/{{}}-])(?:\./)?(?:(?:{_FOLDER})+(?={_FILE})|(?:{_FOLDER}){{2,}}(?=\w))")
_END = re.compile(r"(?<=[^\s/'\"`;:])/+(?=$|[\n'\"`;:])")  # a folder's last slash
_PERSON = re.compile(r"[\w.-]+@[\w.-]+")
_HOST = re.compile(r"\b(tcp|ssh|sftp)://[^\s'\"`;|]+")


def base_names(text: str) -> str:
    """A setting's text; of each local path in it, what comes after the last slash, and no one@host."""
    if "/" in text and "\n" not in text and os.path.exists(text):  # from here, whatever it looks like
        return os.path.basename(os.path.abspath(text))
    text = _RELATIVE.sub("", _PATH.sub("", _END.sub("", text)))
    return _PERSON.sub("USER@HOST", _HOST.sub(r"\1://HOST", text))


def params_by_base_names(params: Mapping[str, str]) -> dict[str, str]:
    """A run's settings (hub/params.py), the command among them, word by word."""
    return {name: _command(text) if name == "command" else base_names(text) for name, text in params.items()}


def _command(text: str) -> str:
    try:
        return shlex.join([base_names(word) for word in shlex.split(text)])
    except ValueError:
        return base_names(text)
