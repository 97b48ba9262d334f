"""What every family's configuration says, and the ``data:`` group of a policy.yaml."""

from __future__ import annotations

from dataclasses import dataclass

from vla_ros.transforms.actions import ACTION_MODES
from vla_ros.transforms.normalize import MODES

CONFIG_FILE = "policy.yaml"


class PolicyConfig:
    """The ``policy:`` group: each family's is a frozen dataclass of its own, with at least these in it.

    ``type`` is the family's name in ``families``; a state is [state_history, state_dim], a chunk [action_horizon,
    action_dim].
    """

    type: str
    action_horizon: int
    action_dim: int
    state_dim: int
    state_history: int


@dataclass(frozen=True)
class DataConfig:
    """The ``data:`` group: what the policy's numbers mean.

    ``chunk_dt_s`` is the time between actions; action ``k`` is due ``(k + action_offset) * chunk_dt_s`` after the
    observation. ``action_mode`` is ``relative`` (to the joints measured at the observation) or ``absolute``.
    """

    joint_names: tuple[str, ...]
    camera_names: tuple[str, ...]
    action_horizon: int
    chunk_dt_s: float
    action_offset: float = 1.0
    state_history: int = 1
    action_mode: str = "relative"
    normalization: str = "quantile"

    def __post_init__(self) -> None:
        _choice("data.action_mode", self.action_mode, ACTION_MODES)
        _choice("data.normalization", self.normalization, MODES)
        if self.chunk_dt_s <= 0:
            raise ValueError(f"data.chunk_dt_s is {self.chunk_dt_s}; expected seconds above 0")


def _choice(where: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{where} is '{value}'; expected one of {', '.join(choices)}")
