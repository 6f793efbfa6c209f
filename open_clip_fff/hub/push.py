"""Uploading a finished folder to the hub, never over another model."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from open_clip_fff.errors import UsageError, as_mistake
from open_clip_fff.hub.description import CONFIG_NAME, local_files

_MODEL_FILE = re.compile(r".*\.(safetensors|bin|pt|pth)$|(.*/)?" + re.escape(CONFIG_NAME))


def check_name(repository: str) -> None:
    """Raises UsageError if `repository` is no ORG/NAME."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repository):
        raise UsageError(f"--push {repository}: write it as ORG/NAME")


def check_portable(description: Mapping, repository: str) -> None:
    """Raises UsageError if the model needs a folder or file of this machine."""
    fixes = {"hf_model_name": "push that to the hub and name it there, or export", "bpe_path": "export"}
    for field, path in local_files(description).items():
        raise UsageError(
            f"--push {repository}: OpenCLIP reads a part of the text tower from {field}, which is a local path, "
            f"{path}: {fixes[field]} without --push"
        )


def push(folder: Path, repository: str, private: bool = False) -> str:
    """Uploads a finished folder in one commit to a repository ORG/NAME that is new or holds no model yet.

    `private` is for a new repository. Returns the repository's address.

    Raises UsageError if it holds a model, or is public despite `private`, or the hub is unreachable or refuses.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    fix = f"the model is in {folder}, for `hf upload {repository} {folder}`"
    with as_mistake(f"--push {repository}: the hub cannot be used", Exception, fix=fix):  # no network, token or right
        api.create_repo(repository, private=private or None, exist_ok=True)
        info = api.model_info(repository)
        _check_free(info, repository, private, folder)
        # parent_commit: a commit made since then is not overwritten
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            parent_commit=info.sha,
            commit_message="A model in OpenCLIP's hub format",
        )
    return f"{api.endpoint}/{repository}"


def _check_free(info: Any, repository: str, private: bool, folder: Path) -> None:
    held = [file.rfilename for file in info.siblings or () if _MODEL_FILE.fullmatch(file.rfilename)]
    if held:
        raise UsageError(
            f"--push {repository}: it already holds a model ({held[0]}); nothing was overwritten, and the model is "
            f"in {folder}"
        )
    if private and not info.private:
        raise UsageError(f"--push {repository} --private: it exists and is public; the model is in {folder}")
