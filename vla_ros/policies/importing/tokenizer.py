"""The tokenizer of a checkpoint: inside it, where the user says, or on the hub by the name that it gives."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from vla_ros.policies.importing import hub
from vla_ros.strict import quoted
from vla_ros.transforms.tokenizer import read_tokenizer

TOKENIZER_FILE = "tokenizer.json"
MAX_NAME = 200  # characters


def find_tokenizer(folder: Path, name: str, given: str | None) -> Tokenizer:
    """As ``find_tokenizer_file`` finds it; raises ValueError for one that is damaged, too."""
    path = find_tokenizer_file(folder, name, given)
    return read_tokenizer(path, str(path))


def find_tokenizer_file(folder: Path, name: str, given: str | None) -> Path:
    """``given`` by the user, a file or a folder; else in the checkpoint's ``folder``, in a folder ``name`` inside it,
    or of the hub's repository ``name``.

    Raises ValueError where it is nowhere, saying where it was looked for and how to give it.
    """
    if given is not None:
        path = Path(given).expanduser()
        path = path / TOKENIZER_FILE if path.is_dir() else path
        if not path.is_file():
            raise ValueError(f"--tokenizer {given}: {path} does not exist; give a {TOKENIZER_FILE} or its folder")
        return path
    named = Path(name)
    is_outside = named.is_absolute() or ".." in named.parts or len(name) > MAX_NAME
    inside = [folder] if is_outside else [folder, folder / named, folder / "tokenizer"]
    for place in inside:
        if (place / TOKENIZER_FILE).is_file():
            return place / TOKENIZER_FILE
    looked, fix = ", ".join(map(str, inside)), f"give its {TOKENIZER_FILE} or its folder with --tokenizer PATH"
    if not hub.is_repo(name):
        raise ValueError(f"the tokenizer '{quoted(name)}' is not in {looked}; {fix}")
    try:
        return hub.fetch_file(name, TOKENIZER_FILE)
    except ValueError as error:
        raise ValueError(f"the tokenizer '{quoted(name)}' is not in {looked}, nor had from the hub; {fix}") from error
