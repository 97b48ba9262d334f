"""A recorded case of LeRobot's layout: an observation, and what the reference computed from it in float32.

The robot of a case is nobody's: a joint for each number of the state, in the units that the numbers have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from vla_ros.policies.importing.settings import CameraSettings, ImportSettings
from vla_ros.strict import check_safetensors, explained
from vla_ros.types import Observation

IMAGES = ("observation.images.", "image.")  # LeRobot's names, and the beginning of openpi's
NO_TASK = "none"  # of a policy that reads no instruction
# A file of outputs alone, LeRobot 0.4's for the observation of the other.
OLD_RULES, OBSERVED = "case_v04", "case.safetensors"


@dataclass(frozen=True)
class LeRobotCase:
    """``images`` uint8 RGB by the checkpoint's keys and ``state`` [state_dim] in robot units, both with a leading axis
    where the case has several steps; ``given`` are the other ``in.*``, ``expected`` the ``out.*`` tensors. ``allowed``
    are differences other than the usual, by kind."""

    images: Mapping[str, np.ndarray]
    state: np.ndarray
    task: str
    given: Mapping[str, np.ndarray]
    expected: Mapping[str, np.ndarray]
    lerobot_version: str = "0.6"
    allowed: Mapping[str, float] = field(default_factory=dict)


def read_lerobot_case(path: Path, rename: Mapping[str, str]) -> LeRobotCase:
    """Read a ``case*.safetensors``; raises ValueError where it is missing, damaged or lacks the state."""
    kinds = (SafetensorError, OSError, AttributeError, KeyError, TypeError, ValueError)
    with explained(f"{path}: not readable (", *kinds, after="); give a recorded case"):
        task, given = _read(path.with_name(OBSERVED) if path.stem == OLD_RULES else path, "in.")
        expected = _read(path, "out.")[1]
        state = given.pop("state") if "state" in given else given.pop("observation.state")
        images = {name: given.pop(name) for name in list(given) if name.startswith(IMAGES)}
        images = {rename.get(name, name.removeprefix("image.")): image for name, image in images.items()}
        return LeRobotCase(
            images=images,
            state=state,
            task=task,
            given=given,
            expected={name: value for name, value in expected.items() if not name.startswith("bfloat16.")},
            lerobot_version="0.4" if path.stem == OLD_RULES else "0.6",
        )


def _read(path: Path, prefix: str) -> tuple[str, dict[str, np.ndarray]]:
    """The instruction, and the tensors whose names begin with ``prefix``, without it."""
    check_safetensors(path)
    with safe_open(path, framework="np") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]
        return (file.metadata() or {}).get("task", NO_TASK), {
            name.removeprefix(prefix): file.get_tensor(name) for name in names
        }


@dataclass(frozen=True)
class CaseRobot:
    """A robot with a joint for each number and a camera for each key, with the sizes of its pictures."""

    joint_names: tuple[str, ...]
    cameras: Mapping[str, CameraSettings]
    lerobot_version: str

    @classmethod
    def of(cls, case: LeRobotCase, keys: Sequence[str]) -> CaseRobot:
        """With those of the checkpoint's cameras ``keys`` that the case has pictures of."""
        shapes = {key: case.images[key].shape for key in keys if key in case.images}
        cameras = {key: CameraSettings(key, shape[0], shape[1]) for key, shape in shapes.items()}
        return cls(tuple(f"number_{i}" for i in range(len(case.state))), cameras, case.lerobot_version)

    def settings(self, is_relative: Sequence[bool], tokenizer: str | None = None) -> ImportSettings:
        """An import's; ``is_relative`` says which actions are added to the state of their observation."""
        pairs = zip(self.joint_names, is_relative, strict=True)
        action = tuple(
            {"type": "joint", "joint": name, "reference": "observation" if relative else "absolute"}
            for name, relative in pairs
        )
        return ImportSettings(
            joint_names=self.joint_names,
            cameras=self.cameras,
            chunk_dt_s=0.1,
            action=action,
            tokenizer=tokenizer,
            lerobot_version=self.lerobot_version,
        )

    def observation(self, case: LeRobotCase) -> Observation:
        """The case's."""
        return Observation(
            stamp_ns=0,
            headers_ns=dict.fromkeys(case.images, 0),
            images=case.images,
            joint_positions=case.state.astype(np.float64),
            task=case.task,
        )
