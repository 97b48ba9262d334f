"""A policy directory without its weights: the names of its files, what they say, and their digest. Imports no torch.

A policy directory holds ``policy.yaml``, ``model.safetensors``, ``norm_stats.json``, ``golden.safetensors`` and what
the family's processor keeps, in ``processor/`` as a rule. One whose policy is computed elsewhere has neither weights
nor statistics.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from vla_ros.policies.config import CONFIG_FILE, DataConfig
from vla_ros.policies.families import family_of, find_family, read_policy_config
from vla_ros.policies.golden import GoldenCase, decoding_drift, preprocessing_drift, read_golden
from vla_ros.policies.kinds import kind_of
from vla_ros.policies.processor import PolicyProcessor, check_sizes, read_text, stats_shapes
from vla_ros.share import PREVIOUS, stand_in
from vla_ros.spaces.kinematics import Kinematics, strip_urdf
from vla_ros.strict import config_to_dict, explained, parse_config, parse_yaml
from vla_ros.transforms.normalize import load_stats, save_stats

WEIGHTS_FILE = "model.safetensors"
STATS_FILE = "norm_stats.json"
GOLDEN_FILE = "golden.safetensors"
KINEMATICS_FILE = "kinematics.urdf"


def file_names(policy_dir: Path) -> tuple[str, ...]:
    """The files of a policy directory, in the order in which they make its digest. Raises ValueError where its
    policy.yaml doesn't say what it is, or one is missing."""
    _check_file(policy_dir, CONFIG_FILE)  # it says which others there are
    groups = _read_groups(policy_dir)
    policy = groups["policy"]
    family = find_family(policy.get("type") if isinstance(policy, dict) else None, f"{CONFIG_FILE}: policy")
    links = (KINEMATICS_FILE,) if _has_kinematics(groups["data"]) else ()
    own = (WEIGHTS_FILE, STATS_FILE) if family.config_class().runs_here else ()
    names = (CONFIG_FILE, *own, *family.processor_class().files, *links, GOLDEN_FILE)
    for name in names:
        _check_file(policy_dir, name)
    return names


def _check_file(policy_dir: Path, name: str) -> None:
    if not (policy_dir / name).is_file():
        raise ValueError(f"file {name} is missing; restore it or export again")


def has_poses(policy_dir: Path) -> bool:
    """Whether the numbers of a policy directory depend on a robot's links."""
    return (policy_dir / KINEMATICS_FILE).is_file()


def digest_of(policy_dir: Path) -> str:
    """SHA-256 over names and contents of the policy's files: equal where two nodes have the same policy."""
    return _digest({name: hash_file(policy_dir / name) for name in file_names(policy_dir)})


def hash_file(path: Path) -> str:
    """SHA-256 of what a file holds."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_processor(policy_dir: str | Path) -> PolicyProcessor:
    """The processor of a policy directory, after recomputing the preprocessing of its golden case.

    Raises ValueError, in one line that names the file, for a missing or damaged file, a key that doesn't exist, sizes
    that contradict each other, or preprocessing that drifted.
    """
    return open_policy(Path(policy_dir)).processor


@dataclass(frozen=True)
class OpenPolicy:
    """A policy directory as read: its processor and its golden case; ``drift`` is one line where the preprocessing of
    that or what its actions mean has changed, else empty; ``notes`` are lines of what else is to be known."""

    processor: PolicyProcessor
    golden: GoldenCase
    drift: str = ""
    notes: tuple[str, ...] = ()


def open_policy(
    policy_dir: Path, refuse_drift: bool = True, hash_weights: Callable[[OpenPolicy, Path], str] | None = None
) -> OpenPolicy:
    """Read everything but the weights and check preprocessing and decoding; errors as ``load_processor``.

    Whoever reads the weights, too, does it in ``hash_weights``, and returns the SHA-256 of what was read: the digest is
    then of what runs, whatever becomes of the files meanwhile.
    """
    given, policy_dir = policy_dir, stand_in(policy_dir)
    _check_there(policy_dir)
    with explained(f"policy directory {given}: "):
        names = [name for name in file_names(policy_dir) if name != WEIGHTS_FILE]
        hashes = {name: hash_file(policy_dir / name) for name in names}
        processor = read_files(policy_dir)
        golden = read_golden(policy_dir / GOLDEN_FILE, processor.request_type)
        drift = preprocessing_drift(golden, processor.process(golden.observation)) or decoding_drift(golden, processor)
    if drift and refuse_drift:
        raise ValueError(f"policy directory {given}: {drift}")
    notes = list(processor.config.notes)
    if policy_dir != given:
        notes.append(f"the replacement of {given} was interrupted; {policy_dir}, the one before, is used instead")
    if not golden.decoded:
        notes.append(
            f"policy directory {given}: its {GOLDEN_FILE} is of an earlier release and doesn't say what actions decode "
            "to: other action statistics or times would not be noticed; export it again"
        )
    opened = OpenPolicy(processor, golden, drift, tuple(notes))
    with explained(f"policy directory {given}: "):
        weights, of_weights = policy_dir / WEIGHTS_FILE, {}
        if processor.config.runs_here:
            of_weights[WEIGHTS_FILE] = hash_file(weights) if hash_weights is None else hash_weights(opened, weights)
        if hashes != {name: hash_file(policy_dir / name) for name in names}:
            raise ValueError("its files changed while they were read; load it again")
        processor.digest = _digest(hashes | of_weights)
    return opened


def write_files(policy_dir: Path, processor: PolicyProcessor) -> None:
    """Everything of a policy directory but weights and golden case."""
    groups = {"policy": config_to_dict(processor.config), "data": config_to_dict(processor.data)}
    if processor.data.kinematics is not None:
        (policy_dir / KINEMATICS_FILE).write_text(processor.data.kinematics.urdf)
        groups["data"]["kinematics"]["urdf"] = KINEMATICS_FILE
    (policy_dir / CONFIG_FILE).write_text(yaml.safe_dump(groups, sort_keys=False, width=120))
    if processor.config.runs_here:
        save_stats(policy_dir / STATS_FILE, processor.stats)
    processor.write(policy_dir)


def read_files(policy_dir: Path) -> PolicyProcessor:
    """The inverse of ``write_files``; nothing is recomputed. Raises ValueError, naming the file, for a damaged one."""
    groups = _read_groups(policy_dir)
    config = read_policy_config(groups["policy"], f"{CONFIG_FILE}: policy")
    data = parse_config(DataConfig, _read_kinematics(groups["data"], policy_dir), f"{CONFIG_FILE}: data")
    check_sizes(config, data)  # first, so that the sizes of the statistics are not blamed for it
    stats = load_stats(policy_dir / STATS_FILE, stats_shapes(config)) if config.runs_here else {}
    return family_of(config).processor_class().read(policy_dir, config, data, stats, "")


def _has_kinematics(data: Any) -> bool:
    """Whether the ``data:`` group has links and joints, whose URDF is a file of its own."""
    return isinstance(data, dict) and isinstance(data.get("kinematics"), dict)


def _read_kinematics(data: Any, policy_dir: Path) -> Any:
    """The ``data:`` group with the text of its URDF; raises ValueError where that can't be read."""
    if not _has_kinematics(data):
        return data
    where = f"{CONFIG_FILE}: data.kinematics"
    kinematics = parse_config(Kinematics, data["kinematics"], where)
    if kinematics.urdf != KINEMATICS_FILE:
        raise ValueError(f"{where}.urdf is '{kinematics.urdf}'; expected {KINEMATICS_FILE}")
    text = read_text(policy_dir / KINEMATICS_FILE, KINEMATICS_FILE, lambda text: strip_urdf(text, "it"))
    return {**data, "kinematics": replace(kinematics, urdf=text)}


@contextmanager
def replaced_whole(out: Path) -> Iterator[Path]:
    """A new folder beside ``out``, which takes its name, and its place where there is one, only when the block has
    ended; whatever else than a policy lies in ``out`` stays. Nothing is left behind where the block fails.

    Raises ValueError where that can't be written, or ``out`` is where this program runs.
    """
    out = out.resolve()
    if Path.cwd().is_relative_to(out):
        raise ValueError(f"{out} is the folder that this runs in; give another folder")
    before = out.with_name(PREVIOUS.format(out.name))
    with explained(f"{out}: ", OSError, shutil.Error, after="; give a writable folder with enough room"):
        out.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        try:
            folder = aside / out.name  # one below, for mkdtemp's folder is closed to others
            folder.mkdir()
            yield folder
            for path in filter(Path.is_file, folder.rglob("*")):  # safetensors' own are closed to others
                path.chmod(folder.stat().st_mode & 0o666)
            if out.exists():
                shutil.rmtree(before, ignore_errors=True)
                shutil.copytree(out, folder, symlinks=True, copy_function=_keep, dirs_exist_ok=True)
                out.rename(before)
            # Killed in between: ``stand_in`` finds the one before.
            folder.rename(out)
            shutil.rmtree(before, ignore_errors=True)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _keep(source: str, target: str) -> None:
    """``source`` under another name, too, unless that is taken."""
    if not os.path.lexists(target):
        try:
            os.link(source, target)
        except OSError:  # some file systems can't
            shutil.copy2(source, target)


def _check_there(policy_dir: Path) -> None:
    if not policy_dir.exists():
        raise ValueError(f"policy directory {policy_dir} does not exist; give one that vla_ros train or import made")
    if not (policy_dir / CONFIG_FILE).is_file() and (kind := kind_of(policy_dir)):
        raise ValueError(f"policy {policy_dir} {kind}")


def _digest(hashes: Mapping[str, str]) -> str:
    """Weights come second, as they did in each directory there is."""
    digest = hashlib.sha256()
    first = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if name in hashes]
    for name in (*first, *(name for name in hashes if name not in first)):
        digest.update(f"{name}\0{hashes[name]}\n".encode())
    return digest.hexdigest()


def _read_groups(policy_dir: Path) -> dict[str, Any]:
    document = read_text(policy_dir / CONFIG_FILE, CONFIG_FILE, parse_yaml)
    if not isinstance(document, dict) or set(document) != {"policy", "data"}:
        got = ", ".join(map(str, document)) if isinstance(document, dict) else type(document).__name__
        raise ValueError(f"{CONFIG_FILE}: has {got}; expected the two groups policy and data")
    return document
