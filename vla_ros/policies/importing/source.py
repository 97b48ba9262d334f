"""What a SOURCE holds, a folder or ``hf:org/repo[/subpath][@revision]``, told by its files. No torch."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from vla_ros.policies.importing import hub
from vla_ros.policies.importing.lerobot import CONFIG_FILE, MERGE, WEIGHTS_FILE, read_object
from vla_ros.policies.importing.openpi import ASSETS, STATS_FILE
from vla_ros.policies.kinds import kind_of
from vla_ros.strict import listed, quoted

HUB_PREFIX = "hf:"
HUB_SOURCE = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<subpath>[^@]+))?(?:@(?P<revision>.+))?", re.ASCII)
RUN, LEROBOT, OPENPI = "run", "lerobot", "openpi"
INNER = "pretrained_model"  # where LeRobot's training puts what it saves
BY_LEROBOT = "have it run by an installed LeRobot with --runner lerobot (docs/lerobot.md)"
SERVE = "serve it where it runs, and import its ws://host:port (docs/served.md)"
CONVERT = (
    "convert it with openpi's examples/convert_jax_model_to_pytorch.py, copy its assets beside, and import that; or "
    f"{SERVE}"
)
# Types of LeRobot's policies that have no family here.
FOREIGN_TYPES = {
    "diffusion": "a diffusion policy",
    "groot": "a GR00T checkpoint",
    "xvla": "an X-VLA checkpoint",
    "vqbet": "a VQ-BeT policy",
    "tdmpc": "a TD-MPC policy",
    "pi0_fast": "a pi0-FAST checkpoint",
    "sac": "a SAC policy",
}
_FILES = (".json", ".safetensors")
MAX_LOOKED_AT = 10_000  # files and folders; a checkpoint has tens


@dataclass(frozen=True)
class HubSource:
    """``hf:org/repo[/subpath][@revision]``."""

    repo: str
    subpath: PurePosixPath
    revision: str | None


@dataclass(frozen=True)
class Source:
    """``kind`` is one of ``RUN``, ``LEROBOT``, ``OPENPI``; ``folder`` is where its files are, for a run still as it was
    given."""

    kind: str
    folder: Path


def parse_hub_source(source: str) -> HubSource:
    """Raises ValueError for another form, or a path that climbs out."""
    match = HUB_SOURCE.fullmatch(source)
    subpath = PurePosixPath(match["subpath"] or "") if match else PurePosixPath()
    if match is None or ".." in subpath.parts:
        raise ValueError(f"'{source}' is not a hub source; expected hf:org/repo[/subpath][@revision]")
    return HubSource(match["repo"], subpath, match["revision"])


def find_source(source: str) -> Source:
    """What ``source`` holds; from the hub, its files come into the Hugging Face cache.

    Raises ValueError where it isn't there, and for what can't be imported, named for what it is.
    """
    if source.startswith(HUB_PREFIX):
        found = parse_hub_source(source)
        revision = hub.look_up(found.repo, found.revision)
        inside = {PurePosixPath(name) for name in revision.files}
        names = {path.relative_to(found.subpath).as_posix() for path in inside if path.is_relative_to(found.subpath)}
        if _is_run(names):
            return Source(RUN, Path(source))
        _refuse_known(source, {parent.as_posix() for name in names for parent in PurePosixPath(name, "_").parents})
        inner = f"{INNER}/" if f"{INNER}/{CONFIG_FILE}" in names else ""
        wanted = [name for name in names if name.startswith(inner) and _is_wanted(name.removeprefix(inner))]
        if not wanted:
            raise ValueError(f"{source} has no {CONFIG_FILE} and no {WEIGHTS_FILE}; give the folder that has them")
        paths = sorted((found.subpath / name).as_posix() for name in wanted)
        folder = hub.fetch_files(revision, paths) / found.subpath / inner
    else:
        folder = Path(source).expanduser()
        folder = folder / INNER if (folder / INNER / CONFIG_FILE).is_file() else folder
    kind = _kind(folder)
    return Source(kind, Path(source) if kind == RUN else folder)


def check_type(folder: Path) -> None:
    """Raises ValueError for a policy of LeRobot that is known and has no family here."""
    kind = read_object(folder / CONFIG_FILE).get("type")
    if kind in FOREIGN_TYPES:
        what = f"{folder} is {FOREIGN_TYPES[kind]} of LeRobot, which has no family here"
        raise ValueError(f"{what}; {BY_LEROBOT}, or {SERVE}")


def _kind(folder: Path) -> str:
    if not folder.is_dir():
        hint = " (of a hub's repository: hf:org/repo)" if str(folder).startswith(("http:", "https:")) else ""
        raise ValueError(f"{folder} is not a folder; give that of a checkpoint, or a run with cfg.yaml{hint}")
    paths = islice((path for pattern in ("*", "*/*", "*/*/*") for path in folder.glob(pattern)), MAX_LOOKED_AT)
    _refuse_known(str(folder), {path.relative_to(folder).as_posix() for path in paths})
    if _is_run([path.name for path in folder.iterdir()]):
        return RUN
    if not (folder / CONFIG_FILE).is_file():
        what = kind_of(folder).partition(":")[0]
        if not what or what == "is a released run":
            return RUN  # which says what it misses
        raise ValueError(f"{folder} {what}; expected {CONFIG_FILE} and {WEIGHTS_FILE} in it, or a run")
    config = read_object(folder / CONFIG_FILE)
    if isinstance(config.get("type"), str):
        return LEROBOT
    if (folder / ASSETS).is_dir() or "paligemma_variant" in config:
        return OPENPI
    what = kind_of(folder).partition(":")[0] or f"has a {CONFIG_FILE} without a type ({quoted(str(sorted(config)))})"
    raise ValueError(f"{folder} {what}; expected LeRobot's or openpi's, or a run: {SERVE}")


def _refuse_known(where: str, names: Collection[str]) -> None:
    """Raises ValueError for what is known by the files and folders ``names`` in it, and can't be imported."""
    if WEIGHTS_FILE not in names and not {"params", "_METADATA"}.isdisjoint(names):
        raise ValueError(f"{where} is openpi's JAX checkpoint; {CONVERT}")
    if CONFIG_FILE in names or _is_run([name for name in names if "/" not in name]):
        return
    if "policy.yaml" in names:
        raise ValueError(f"{where} is a policy directory; it needs no import: give it, as a folder, to --policy")
    if any(name.startswith("adapter_") for name in names):
        raise ValueError(f"{where} holds adapters (PEFT) and not the weights that they change; {MERGE}")
    inner = {name.rpartition("/")[0] for name in names if name.endswith((f"/{INNER}", "/params"))}
    if inner and INNER not in names:
        raise ValueError(f"{where} has checkpoints in it; give one of {listed(sorted(inner))}, with its path")


def _is_run(names: Collection[str]) -> bool:
    return "cfg.yaml" in names or any(name.rpartition("/")[2] == "model.pt" for name in names)


def _is_wanted(name: str) -> bool:
    """Of a checkpoint's folder: its own files, its tokenizer's, and its statistics."""
    path = PurePosixPath(name)
    is_own = len(path.parts) == 1 and path.suffix in _FILES
    is_tokenizer = len(path.parts) == 2 and path.name in ("tokenizer.json", "tokenizer_config.json")
    return is_own or is_tokenizer or (path.parts[0] == ASSETS and path.name == STATS_FILE)
