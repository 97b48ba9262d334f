"""The Hugging Face Hub, through its own client: downloads resume where they broke off and show their progress."""

from __future__ import annotations

import re
from dataclasses import dataclass
from glob import escape
from pathlib import Path

_REPO = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_OFFLINE = "check the network, or give a folder that was downloaded before"


@dataclass(frozen=True)
class Revision:
    """One commit of a repository and the names of its files."""

    repo: str
    commit: str
    files: tuple[str, ...]


def is_repo(name: str) -> bool:
    """Whether ``name`` could be a repository's, ``org/name``."""
    return _REPO.fullmatch(name) is not None


def look_up(repo: str, revision: str | None) -> Revision:
    """A repository's files at a branch, tag or commit (its main branch by default); raises ValueError."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(repo, revision=revision)
    except Exception as error:  # the client raises many kinds: of its own, of its HTTP library, OSError
        where = f"hf:{repo}" + (f"@{revision}" if revision else "")
        raise ValueError(f"{where}: the hub gives {_line(error)}; {_OFFLINE}") from error
    assert info.sha is not None
    return Revision(repo, info.sha, tuple(file.rfilename for file in info.siblings or ()))


def fetch_files(revision: Revision, names: list[str]) -> Path:
    """The folder in the Hugging Face cache that holds ``names`` of that commit; raises ValueError."""
    from huggingface_hub import snapshot_download

    patterns = [escape(name) for name in names]
    try:
        return Path(snapshot_download(revision.repo, revision=revision.commit, allow_patterns=patterns))
    except Exception as error:
        raise ValueError(f"hf:{revision.repo}: the download gives {_line(error)}; {_OFFLINE}") from error


def fetch_file(repo: str, name: str) -> Path:
    """One file of a repository's main branch, from the Hugging Face cache or else downloaded; raises ValueError."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, name, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    try:
        return Path(hf_hub_download(repo, name))
    except Exception as error:
        given = "or give the folder of the VLM with --vlm DIR"
        raise ValueError(f"{name} of hf:{repo}: the hub gives {_line(error)}; check the network, {given}") from error


def _line(error: Exception, length: int = 160) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= length else f"{text[:length]}…"
