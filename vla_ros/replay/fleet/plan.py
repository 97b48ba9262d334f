"""What a fleet's bags are replayed with, and where: enough for another process or machine to do it, and to tell whose
result is whose."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vla_ros.policies.files import has_poses, open_policy
from vla_ros.recordings.description import describe_robot, load_robot_of
from vla_ros.replay.baseline.provenance import policy_files, replayed_values
from vla_ros.replay.session import MAX_POLICIES, SessionConfig, policy_names
from vla_ros.replay.settings import ReplaySettings
from vla_ros.robot import RobotConfig
from vla_ros.strict import check_count, quoted

MAX_PATH = 1000  # characters of it in a line that is read
RESULT_FORMAT = "vla_ros replay result 1"


@dataclass(frozen=True)
class PlannedPolicy:
    """A policy directory as it was found: ``files`` are the SHA-256 of its files, ``camera_names`` its cameras."""

    name: str
    folder: str
    digest: str
    has_poses: bool
    camera_names: tuple[str, ...]
    files: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """``values`` are those of settings and robot that a replay depends on (``replayed_values``), ``release`` is the
    version of vla_ros that replays, ``described_by`` the bag that has the robot's URDF, where that is a topic's; paths
    are relative to ``folder``, where the replay was asked for."""

    folder: str
    policies: tuple[PlannedPolicy, ...]
    robot_file: str
    settings: ReplaySettings
    values: Mapping[str, Any]
    device: str
    num_threads: int
    release: str
    described_by: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError for no policy, and more than can be compared."""
        if not 1 <= len(self.policies) <= MAX_POLICIES:
            raise ValueError(f"{len(self.policies)} policies; expected 1 or {MAX_POLICIES}")

    @classmethod
    def of(cls, config: SessionConfig, robot_file: Path) -> Plan:
        """Read and hash the policies of ``config``, whose robot was read from ``robot_file``.

        Raises ValueError for a policy that cannot be read.
        """
        described = describe_robot(robot_file, config.bags, config.settings.namespace)
        policies = tuple(_look_at(name, folder) for name, folder in policy_names(config.policies).items())
        return cls(
            folder=str(Path.cwd()),
            policies=policies,
            robot_file=str(robot_file),
            settings=config.settings,
            values=replayed_values(config.settings.stored(), config.robot, policies[0].has_poses),
            device=config.device,
            num_threads=config.num_threads,
            release=installed_release(),
            described_by="" if described.bag is None else str(described.bag),
        )

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """One for each policy: the same for whatever is replayed alike, wherever its files lie."""
        alike = {
            "format": RESULT_FORMAT,
            "values": dict(self.values),
            "device": self.device,
            "threads": self.num_threads,
            "release": self.release,
        }
        return tuple(_digest(alike | {"policy": policy.name, "digest": policy.digest}) for policy in self.policies)

    @cached_property
    def key(self) -> str:
        """That of all policies together."""
        return _digest(list(self.keys))

    def robot(self) -> RobotConfig:
        """The robot file, read again.

        Raises ValueError where it can't be read, or no longer says what bags were replayed with.
        """
        path = Path(self.folder) / self.robot_file
        check_count("the path of the robot file", "characters", str(path), MAX_PATH)
        bags = (Path(self.folder) / self.described_by,) if self.described_by else ()
        robot = load_robot_of(path, bags, self.settings.namespace)
        values = replayed_values(self.settings.stored(), robot, self.policies[0].has_poses)
        changed = sorted(name for name in {*values, *self.values} if values.get(name) != self.values.get(name))
        if changed:
            name = changed[0]
            got, expected = (quoted(repr(each.get(name))) for each in (values, self.values))
            fix = "with which bags were replayed: restore it, or replay them into another folder"
            where = f"robot file {path}: {quoted(name.removeprefix('robot.'))}"
            raise ValueError(f"{where} is {got}; expected {expected}, {fix}")
        return robot


def installed_release() -> str:
    """The version of vla_ros; empty of a source tree that isn't installed."""
    try:
        return version("vla_ros")
    except PackageNotFoundError:
        return ""


def _look_at(name: str, folder: Path) -> PlannedPolicy:
    processor = open_policy(folder, refuse_drift=False).processor
    return PlannedPolicy(
        name=name,
        folder=str(folder),
        digest=processor.digest,
        has_poses=has_poses(folder),
        camera_names=tuple(processor.camera_names),
        files=policy_files(folder),
    )


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
