"""Where a released run and what belongs to it are: in a folder, beside it, or on the Hugging Face Hub. No torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vla_ros.policies.importing import hub
from vla_ros.policies.importing.source import HUB_PREFIX, parse_hub_source
from vla_ros.strict import listed

CFG_FILE = "cfg.yaml"
MODEL_FILE = "model.pt"
VLM_CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
IMAGE_CONFIG_FILE = "preprocessor_config.json"
_CHECKPOINT = re.compile(r"checkpoint_(\d+)", re.ASCII)


@dataclass(frozen=True)
class ReleasedRun:
    """A run directory ``folder`` with ``cfg.yaml`` and the ``checkpoint_N/model.pt`` that was chosen."""

    folder: Path
    model: Path

    @property
    def cfg(self) -> Path:
        return self.folder / CFG_FILE


def find_run(source: str) -> ReleasedRun:
    """The run of ``source``: a run directory (its highest checkpoint), one of its checkpoint folders, or
    ``hf:org/repo[/subpath][@revision]``, which is downloaded into the Hugging Face cache.

    Raises ValueError where there is none, or where the hub can't be reached or refuses.
    """
    folder = _download(source) if source.startswith(HUB_PREFIX) else Path(source).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{source} is not a folder; give a run with {CFG_FILE} and checkpoint_N/{MODEL_FILE}")
    chosen = folder if _CHECKPOINT.fullmatch(folder.resolve().name) else None
    folder = folder.resolve().parent if chosen else folder
    checkpoint = chosen or _highest([path.name for path in folder.iterdir() if (path / MODEL_FILE).is_file()], folder)
    run = ReleasedRun(folder, folder / checkpoint / MODEL_FILE)
    for path in (run.cfg, run.model):
        if not path.is_file():
            raise ValueError(f"{path} is missing; a run directory has {CFG_FILE} and checkpoint_N/{MODEL_FILE}")
    return run


def find_vlm_config(run: ReleasedRun, model_id: str, given: str | None) -> Path:
    """The ``config.json`` of the VLM: what the user says (``given``, that file or its folder), else in the run, beside
    it, in the Hugging Face cache, or downloaded.

    Raises ValueError where it is nowhere.
    """
    if given:
        path = Path(given).expanduser()
        path = path / VLM_CONFIG_FILE if path.is_dir() else path
        if not path.is_file():
            raise ValueError(f"--vlm {given}: {path} does not exist; give the VLM's {VLM_CONFIG_FILE} or its folder")
        return path
    folders = _local_folders(run, model_id)
    for folder in folders:
        if (folder / VLM_CONFIG_FILE).is_file():
            return folder / VLM_CONFIG_FILE
    if not hub.is_repo(model_id):
        looked = ", ".join(map(str, folders))
        raise ValueError(f"{VLM_CONFIG_FILE} of the VLM '{model_id}' is not in {looked}; give it with --vlm PATH")
    return hub.fetch_file(model_id, VLM_CONFIG_FILE)


def find_tokenizer(vlm_config: Path, model_id: str) -> Path:
    """``tokenizer.json``: beside the VLM's ``config.json``, else from the hub; ValueError where there is none."""
    path = vlm_config.parent / TOKENIZER_FILE
    if path.is_file():
        return path
    if not hub.is_repo(model_id):
        raise ValueError(f"{path} is missing; put the VLM's {TOKENIZER_FILE} there, or name its folder by --vlm")
    return hub.fetch_file(model_id, TOKENIZER_FILE)


def find_image_config(vlm_config: Path) -> Path | None:
    """``preprocessor_config.json`` beside the VLM's ``config.json``; None where there is none."""
    path = vlm_config.parent / IMAGE_CONFIG_FILE
    return path if path.is_file() else None


def find_stats(run: ReleasedRun, given: str | None) -> Path:
    """The ``.npz`` with the statistics: ``given``, a file or ``hf:org/repo[/subpath][@revision]``, or the only one in
    the run or its checkpoint folder.

    Raises ValueError where there is none, or more than one.
    """
    if given and given.startswith(HUB_PREFIX):
        return _fetch_stats(given)
    if given:
        if not Path(given).is_file():
            raise ValueError(f"--stats {given} is not a file; give the .npz with the statistics of state and action")
        return Path(given)
    for folder in (run.model.parent, run.folder):
        found = sorted(folder.glob("*.npz"))
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise ValueError(f"{folder} has several statistics ({names}); name the one to use with --stats FILE.npz")
        if found:
            return found[0]
    raise ValueError(f"no statistics (.npz) in {run.folder}; give those of the training data with --stats FILE.npz")


def _fetch_stats(given: str) -> Path:
    found = parse_hub_source(given)
    revision = hub.look_up(found.repo, found.revision)
    paths = [path for path in map(PurePosixPath, revision.files) if path.suffix == ".npz"]
    names = sorted(str(path) for path in paths if path.is_relative_to(found.subpath))
    if len(names) != 1:
        raise ValueError(f"--stats {given} holds {listed(names)}; name one .npz: hf:org/repo/FILE.npz")
    return hub.fetch_files(revision, names) / names[0]


def _highest(names: list[str], folder: Path) -> str:
    numbered = {int(match[1]): name for name in names if (match := _CHECKPOINT.fullmatch(name))}
    if not numbered:
        raise ValueError(f"{folder} has no checkpoint_N/{MODEL_FILE}; give a run directory of a released checkpoint")
    return numbered[max(numbered)]


def _download(source: str) -> Path:
    found = parse_hub_source(source)
    subpath, revision = found.subpath, hub.look_up(found.repo, found.revision)
    prefix = "" if subpath == PurePosixPath() else f"{subpath}/"
    if _CHECKPOINT.fullmatch(subpath.name):
        folder, checkpoint = subpath.parent, subpath.name
    else:
        names = [name.removeprefix(prefix) for name in revision.files if name.startswith(prefix)]
        checkpoints = [name.partition("/")[0] for name in names if name.endswith(f"/{MODEL_FILE}")]
        folder, checkpoint = subpath, _highest(checkpoints, Path(source))
    wanted = {folder / CFG_FILE, folder / checkpoint / MODEL_FILE}
    wanted |= {folder / "vlm" / name for name in (VLM_CONFIG_FILE, TOKENIZER_FILE, IMAGE_CONFIG_FILE)}
    files = {PurePosixPath(name) for name in revision.files}
    wanted |= {file for file in files if file.suffix == ".npz" and file.parent in (folder, folder / checkpoint)}
    return hub.fetch_files(revision, sorted(map(str, wanted & files))) / folder / checkpoint


def _local_folders(run: ReleasedRun, model_id: str) -> list[Path]:
    """``run/vlm`` and what ``model_id`` names from the run or its parent; a path that climbs out is not followed."""
    named = PurePosixPath(model_id)
    if named.is_absolute() or ".." in named.parts:
        return [run.folder / "vlm"]
    return [run.folder / "vlm", run.folder / named, run.folder.parent / named]
