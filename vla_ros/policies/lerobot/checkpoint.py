"""The folder that LeRobot reads: what may lie in it, and whether it is what it was. Needs no LeRobot."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vla_ros.policies.files import hash_file
from vla_ros.policies.importing.lerobot import (
    AFTER_FILE,
    BEFORE_FILE,
    KNOWN_STEPS,
    LeRobotCheckpoint,
    read_lerobot,
    read_object,
)
from vla_ros.strict import check_safetensors, explained, listed, quoted

TOKENIZER = "tokenizer"
TOKENIZER_STEP = "tokenizer_processor"
_OWN = (".json", ".safetensors")
_TOKENIZERS = (".json", ".txt", ".model", ".jinja")


def read_checkpoint(folder: Path) -> LeRobotCheckpoint:
    """What a checkpoint says, its steps being LeRobot's affair.

    Raises ValueError, in one line, for one that isn't whole or damaged, weights in a pickle, and a step that names code
    to be imported.
    """
    for name in (BEFORE_FILE, AFTER_FILE):
        if not (folder / name).is_file():
            fix = "LeRobot runs no policy without it: save the policy with a LeRobot of at least 0.4, which migrates it"
            raise ValueError(f"{folder / name} is missing; {fix}")
    steps = read_steps(folder)
    unknown = tuple(name for name in steps if name not in KNOWN_STEPS)
    checkpoint = read_lerobot(folder, unknown)
    for name in checkpoint_files(folder):
        if name.endswith(".safetensors"):
            with explained(f"{folder / name}: damaged (", OSError, ValueError, after="); copy or download it again"):
                check_safetensors(folder / name)
    return checkpoint


def read_steps(folder: Path, names: Sequence[str] = (BEFORE_FILE, AFTER_FILE)) -> dict[str, Mapping[str, Any]]:
    """The configurations of the steps before and after the policy, by their registered names. Raises ValueError for one
    without such a name, or with a state that isn't a safetensors file beside it."""
    found: dict[str, Mapping[str, Any]] = {}
    for path in (folder / name for name in names):
        steps = read_object(path).get("steps")
        if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
            raise ValueError(f"{path}: steps is no list of objects; restore it from its origin")
        for step in steps:
            name, state = step.get("registry_name"), step.get("state_file")
            if not isinstance(name, str):
                got = f"a step names the class '{quoted(str(step.get('class')))}', which could run code"
                raise ValueError(f"{path}: {got}; nothing was run: expected steps that LeRobot knows by a name")
            if state is not None and (not isinstance(state, str) or Path(state).name != state):
                raise ValueError(f"{path}: state_file is '{quoted(str(state))}'; expected a file beside it, not a path")
            if state is not None and not (folder / state).is_file():
                there = folder / quoted(state)
                raise ValueError(f"{there} is missing, which {path.name} names; restore it from its origin")
            if state is not None and not state.endswith(".safetensors"):
                raise ValueError(f"{path}: state_file is '{quoted(state)}'; expected a safetensors file")
            found[name] = step.get("config") or {}
    return found


def checkpoint_files(folder: Path) -> tuple[str, ...]:
    """What LeRobot reads of a folder: its JSON and safetensors files, and a tokenizer's."""
    own = [path.name for path in folder.iterdir() if path.is_file() and path.suffix in _OWN]
    inner = folder / TOKENIZER
    tokenizer = [path for path in inner.iterdir() if path.suffix in _TOKENIZERS] if inner.is_dir() else []
    return tuple(sorted((*own, *(f"{TOKENIZER}/{path.name}" for path in tokenizer if path.is_file()))))


def copy_checkpoint(source: Path, target: Path, tokenizer: str | None) -> dict[str, str]:
    """The files of ``source`` in the new folder ``target``, with the ``tokenizer`` of a folder where one is given. The
    SHA-256 of each by its name.

    Raises ValueError where a step needs a tokenizer and there is none.
    """
    target.mkdir()
    for name in checkpoint_files(source):
        if not (tokenizer and name.startswith(f"{TOKENIZER}/")):
            (target / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, target / name)
    if tokenizer:
        _copy_tokenizer(Path(tokenizer).expanduser(), target / TOKENIZER)
    step = read_steps(target).get(TOKENIZER_STEP)
    if step is not None and not (target / TOKENIZER).is_dir():
        name = quoted(str(step.get("tokenizer_name")))
        got = f"{source} reads text by the tokenizer '{name}' and has none in {TOKENIZER}/"
        raise ValueError(f"{got}; give the folder that has its files with --tokenizer FOLDER")
    return {name: hash_file(target / name) for name in checkpoint_files(target)}


def check_files(folder: Path, expected: Mapping[str, str]) -> None:
    """Raises ValueError where ``folder`` doesn't hold exactly the files ``expected``, by their SHA-256."""
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()]
    others: Sequence[str] = sorted({*found} ^ {*expected})
    if others:
        missing = [name for name in others if name in expected]
        got = f"lacks {listed(missing)}" if missing else f"holds {listed(others)} besides"
        raise ValueError(f"{folder.name}/ {got}; restore what it was at import, or import it again")
    for name, digest in expected.items():
        if hash_file(folder / name) != digest:
            raise ValueError(f"{folder.name}/{name} is not what it was at import; restore it, or import it again")


def _copy_tokenizer(source: Path, target: Path) -> None:
    files = [path for path in source.iterdir() if path.suffix in _TOKENIZERS] if source.is_dir() else []
    if not files:
        raise ValueError(f"--tokenizer {source} is no folder with a tokenizer's files; give that of the policy's")
    target.mkdir()
    for path in files:
        shutil.copyfile(path, target / path.name)
