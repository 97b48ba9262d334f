"""The Hugging Face Hub, through its own client: downloads resume where they broke off and show their progress."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from vla_ros.strict import one_line

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

    with _asked(f"hf:{repo}" + (f"@{revision}" if revision else "") + ": the hub", _OFFLINE):
        info = HfApi().model_info(repo, revision=revision)
    assert info.sha is not None
    return Revision(repo, info.sha, tuple(file.rfilename for file in info.siblings or ()))


def fetch_files(revision: Revision, names: list[str]) -> Path:
    """The folder in the Hugging Face cache that holds ``names`` of that commit; raises ValueError."""
    from huggingface_hub import snapshot_download

    patterns = [escape(name) for name in names]
    with _asked(f"hf:{revision.repo}: the download", _OFFLINE):
        return Path(snapshot_download(revision.repo, revision=revision.commit, allow_patterns=patterns))


def fetch_file(repo: str, name: str) -> Path:
    """One file of a repository's main branch, from the Hugging Face cache or else downloaded; raises ValueError."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    with suppress(LocalEntryNotFoundError):
        return Path(hf_hub_download(repo, name, local_files_only=True))
    with _asked(f"{name} of hf:{repo}: the hub", "check the network, or give the folder of the VLM with --vlm DIR"):
        return Path(hf_hub_download(repo, name))


@contextmanager
def _asked(whom: str, fix: str, length: int = 160) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the client raises many kinds: of its own, of its HTTP library, OSError
        text = f"{type(error).__name__}: {one_line(error)}"
        text = text if len(text) <= length else f"{text[:length]}…"
        raise ValueError(f"{whom} gives {text}; {fix}") from error
