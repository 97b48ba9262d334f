"""Configuration of a policy that LeRobot runs: which it is, and what lies in its checkpoint. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from vla_ros.policies.modules.elsewhere import MAX_SIDE, MAX_SIZE, ElsewhereConfig
from vla_ros.strict import check_range, quoted

TYPE = "LeRobotPolicy"


@dataclass(frozen=True)
class PictureInput:
    """What LeRobot calls a camera's pictures, and their (height, width) in pixels in training."""

    key: str
    size: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.size) != 2 or not all(1 <= side <= MAX_SIDE for side in self.size):
            raise ValueError(
                f"the size of {quoted(self.key)} is {list(self.size)}; expected height and width in pixels"
            )


@dataclass(frozen=True)
class LeRobotConfig(ElsewhereConfig):
    """The ``policy:`` group of a policy.yaml.

    ``lerobot_type`` is what LeRobot calls the policy. ``checkpoint`` is the folder in the policy directory that
    LeRobot reads, ``files`` the SHA-256 of everything in it. ``num_observations`` is how many in a row it was trained
    to see.
    """

    computed_by: ClassVar[str] = "LeRobot"
    pictures_key: ClassVar[str] = "policy.pictures"
    type: str
    lerobot_type: str
    pictures: tuple[PictureInput, ...]
    files: Mapping[str, str]
    action_horizon: int
    action_dim: int
    state_dim: int
    state_history: int = 1
    num_observations: int = 1
    checkpoint: str = "checkpoint"

    def __post_init__(self) -> None:
        self.check_sizes()
        check_range("policy.", self, 1, MAX_SIZE, "num_observations")
        if not self.pictures or len({each.key for each in self.pictures}) < len(self.pictures):
            keys = ", ".join(quoted(each.key) for each in self.pictures) or "none"
            raise ValueError(f"policy.pictures has keys {keys}; expected at least one, each once")
        for name in (self.checkpoint, *self.files):
            path = Path(name)
            if not path.parts or path.is_absolute() or ".." in path.parts:
                raise ValueError(f"policy: '{quoted(name)}' is no path inside the policy directory; import it again")

    @property
    def picture_sizes(self) -> dict[str, tuple[int, int]]:
        return {each.key: (each.size[0], each.size[1]) for each in self.pictures}

    @property
    def waits_for(self) -> str:
        return f"LeRobot's own '{self.lerobot_type}' in this process"

    @property
    def notes(self) -> tuple[str, ...]:
        if self.num_observations == 1:
            return ()
        num, name = self.num_observations, self.lerobot_type
        seen = f"here it sees the newest one {num} times, as LeRobot does when an episode begins"
        return (f"LeRobot's '{name}' was trained to see {num} observations in a row; {seen}",)
