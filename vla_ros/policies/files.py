"""A policy directory without its weights: the names of its files, what they say, and their digest. Imports no torch.

A policy directory holds ``policy.yaml``, ``model.safetensors``, ``norm_stats.json``, ``golden.safetensors`` and what
the family's processor keeps, in ``processor/`` as a rule.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vla_ros.policies.config import CONFIG_FILE, DataConfig
from vla_ros.policies.families import family_of, find_family, read_policy_config
from vla_ros.policies.golden import GoldenCase, preprocessing_drift, read_golden
from vla_ros.policies.processor import PolicyProcessor, check_sizes, read_text, stats_shapes
from vla_ros.strict import config_to_dict, explained, parse_config
from vla_ros.transforms.normalize import load_stats, save_stats

WEIGHTS_FILE = "model.safetensors"
STATS_FILE = "norm_stats.json"
GOLDEN_FILE = "golden.safetensors"


def file_names(policy_dir: Path) -> tuple[str, ...]:
    """The files of a policy directory, in the order in which they make its digest. Raises ValueError where its
    policy.yaml doesn't say what it is."""
    policy = _read_groups(policy_dir)["policy"]
    family = find_family(policy.get("type") if isinstance(policy, dict) else None, f"{CONFIG_FILE}: policy")
    return (CONFIG_FILE, WEIGHTS_FILE, STATS_FILE, *family.processor_class().files, GOLDEN_FILE)


def digest_of(policy_dir: Path) -> str:
    """SHA-256 over names and contents of the policy's files: equal where two nodes have the same policy."""
    digest = hashlib.sha256()
    for name in file_names(policy_dir):
        with (policy_dir / name).open("rb") as file:
            digest.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def load_processor(policy_dir: str | Path) -> PolicyProcessor:
    """The processor of a policy directory, after recomputing the preprocessing of its golden case.

    Raises ValueError, in one line that names the file, for a missing or damaged file, a key that doesn't exist, sizes
    that contradict each other, or preprocessing that drifted.
    """
    return open_policy(Path(policy_dir)).processor


@dataclass(frozen=True)
class OpenPolicy:
    """A policy directory as read: its processor and its golden case; ``drift`` is one line where the preprocessing of
    that has changed, else empty."""

    processor: PolicyProcessor
    golden: GoldenCase
    drift: str = ""


def open_policy(policy_dir: Path, refuse_drift: bool = True) -> OpenPolicy:
    """Read everything but the weights and check the preprocessing; errors as ``load_processor``."""
    if not policy_dir.is_dir():
        raise ValueError(f"policy directory {policy_dir} does not exist; give one that vla_ros train or import made")
    with explained(f"policy directory {policy_dir}: "):
        processor = _read(policy_dir)
        golden = read_golden(policy_dir / GOLDEN_FILE, processor.request_type)
        drift = preprocessing_drift(golden, processor.process(golden.observation))
    if drift and refuse_drift:
        raise ValueError(f"policy directory {policy_dir}: {drift}")
    return OpenPolicy(processor, golden, drift)


def write_files(policy_dir: Path, processor: PolicyProcessor) -> None:
    """Everything of a policy directory but weights and golden case."""
    policy_dir.mkdir(parents=True, exist_ok=True)
    groups = {"policy": config_to_dict(processor.config), "data": config_to_dict(processor.data)}
    (policy_dir / CONFIG_FILE).write_text(yaml.safe_dump(groups, sort_keys=False, width=120))
    save_stats(policy_dir / STATS_FILE, processor.stats)
    processor.write(policy_dir)


def _read(policy_dir: Path) -> PolicyProcessor:
    is_there = (policy_dir / CONFIG_FILE).is_file()  # it says which others there are
    for name in file_names(policy_dir) if is_there else (CONFIG_FILE,):
        if not (policy_dir / name).is_file():
            raise ValueError(f"file {name} is missing; restore it or export again")
    groups = _read_groups(policy_dir)
    config = read_policy_config(groups["policy"], f"{CONFIG_FILE}: policy")
    data = parse_config(DataConfig, groups["data"], f"{CONFIG_FILE}: data")
    check_sizes(config, data)  # first, so that the sizes of the statistics are not blamed for it
    stats = load_stats(policy_dir / STATS_FILE, stats_shapes(config))
    return family_of(config).processor_class().read(policy_dir, config, data, stats, digest_of(policy_dir))


def _read_groups(policy_dir: Path) -> dict[str, Any]:
    document = read_text(policy_dir / CONFIG_FILE, CONFIG_FILE, yaml.safe_load)
    if not isinstance(document, dict) or set(document) != {"policy", "data"}:
        got = ", ".join(map(str, document)) if isinstance(document, dict) else type(document).__name__
        raise ValueError(f"{CONFIG_FILE}: has {got}; expected the two groups policy and data")
    return document
