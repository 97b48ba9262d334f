"""A robot without a body: its joints follow what its controllers are told, by the rules of those of ros2_controllers.

No physics, and nothing that could break. All times are s on one clock, the caller's, which never runs backwards.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from vla_ros.messages.trajectories import Trajectory
from vla_ros.robot import CameraConfig, OutputConfig, RobotConfig
from vla_ros.sim.controller import TrajectoryController

NUM_PICTURES = 8
SQUARE_SHARE = 4


@dataclass(frozen=True)
class GripperRules:
    """Parameters of a gripper's action controller: within ``goal_tolerance`` (rad or m) a goal is reached; one that has
    not moved for ``stall_timeout_s`` is stalled, which is a success where ``allow_stalling`` is set."""

    goal_tolerance: float = 0.02
    stall_velocity: float = 0.001
    stall_timeout_s: float = 0.05
    allow_stalling: bool = True


class Outcome(StrEnum):
    """What became of a gripper's goal."""

    REACHED = "reached"
    STALLED = "stalled"


class Controller(ABC):
    """What one controller wants of its joints, ``[num_joints]``, from what it was told last; at first, to stay."""

    @abstractmethod
    def accept(self, command: Trajectory, now_s: float, start_s: float) -> None:
        """Follow ``command``, whose times count from ``start_s``. Raises ValueError for one that is refused."""

    @abstractmethod
    def wanted(self, now_s: float) -> np.ndarray:
        """Where the joints are to be at ``now_s``."""


class Trajectories(Controller):
    """joint_trajectory_controller; with ``speed_scaling`` below 1 the scaled one, whose trajectories' time goes on by
    that share alone."""

    def __init__(self, start: np.ndarray, speed_scaling: float = 1.0) -> None:
        self._controller = TrajectoryController(start)
        self._speed_scaling, self._scaled_s, self._at_s = speed_scaling, 0.0, 0.0

    def accept(self, command: Trajectory, now_s: float, start_s: float) -> None:
        scaled_s = self._scaled(now_s)
        self._controller.accept(command, scaled_s, scaled_s - (now_s - start_s))

    def wanted(self, now_s: float) -> np.ndarray:
        return self._controller.sample(self._scaled(now_s))[0]

    def _scaled(self, now_s: float) -> float:
        self._scaled_s, self._at_s = self._scaled_s + self._speed_scaling * (now_s - self._at_s), now_s
        return self._scaled_s


class Positions(Controller):
    """forward_command_controller for positions: the newest command, at once."""

    def __init__(self, start: np.ndarray) -> None:
        self._positions = start

    def accept(self, command: Trajectory, now_s: float, start_s: float) -> None:
        self._positions = command.positions[0]

    def wanted(self, now_s: float) -> np.ndarray:
        return self._positions


class Velocities(Controller):
    """forward_command_controller for velocities: the newest command for ever, whoever sent it, up to the joints' ends
    ``lower`` and ``upper``."""

    def __init__(self, start: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> None:
        self._positions, self._velocities, self._at_s = start, np.zeros_like(start), 0.0
        self._lower, self._upper = lower, upper

    def accept(self, command: Trajectory, now_s: float, start_s: float) -> None:
        self.wanted(now_s)
        self._velocities = command.positions[0]

    def wanted(self, now_s: float) -> np.ndarray:
        positions = self._positions + self._velocities * (now_s - self._at_s)
        self._positions, self._at_s = np.clip(positions, self._lower, self._upper), now_s
        return self._positions


class Gripper(Controller):
    """gripper_action_controller: one goal at a time, which a new one ends; ``outcome`` tells once what became of it.

    The joint moves at ``max_velocity`` from ``start`` to the goal, and no further than ``stop``, where something is
    held.
    """

    def __init__(self, start: np.ndarray, max_velocity: float, stop: float, rules: GripperRules) -> None:
        self._position, self._goal, self._at_s = float(start[0]), float(start[0]), 0.0
        self._start, self._stop = self._position, stop
        self._max_velocity, self.rules = max_velocity, rules
        self._is_open, self._moved_s = False, 0.0

    def accept(self, command: Trajectory, now_s: float, start_s: float) -> None:
        self.wanted(now_s)
        self._goal, self._is_open, self._moved_s = float(command.positions[0, 0]), True, now_s

    def cancel(self, now_s: float) -> None:
        """Forget the goal and stay."""
        self._goal, self._is_open = float(self.wanted(now_s)[0]), False

    def wanted(self, now_s: float) -> np.ndarray:
        elapsed_s, self._at_s = now_s - self._at_s, now_s
        reach = self._max_velocity * elapsed_s
        position = self._position + np.clip(self._goal - self._position, -reach, reach)
        if (self._stop - self._start) * (position - self._stop) > 0:
            position = self._stop
        if abs(position - self._position) > self.rules.stall_velocity * elapsed_s:
            self._moved_s = now_s
        self._position = float(position)
        return np.array([self._position])

    def outcome(self, now_s: float) -> Outcome | None:
        """What became of the goal since the last call; None while it is under way, and where there is none."""
        if not self._is_open:
            return None
        if abs(self._goal - self._position) < self.rules.goal_tolerance:
            self._is_open = False
            return Outcome.REACHED
        if now_s - self._moved_s > self.rules.stall_timeout_s:
            self._is_open = False
            return Outcome.STALLED
        return None


class FakeDriver:
    """The joints of ``robot`` and a controller for each of its outputs.

    ``positions`` and ``velocities`` ``[num_joints]`` are what is measured, from the middle of the limits on. Joints
    follow exactly, or with ``lag_s`` above 0 as a first-order lag. ``stops`` has the positions beyond which something
    keeps a joint from moving. ``speed_scaling`` is what a slider on a robot's pendant does: no joint is faster than
    that share of its ``max_velocity``, and trajectories' time is stretched.
    """

    def __init__(
        self,
        robot: RobotConfig,
        lag_s: float = 0.0,
        stops: Mapping[str, float] | None = None,
        rules: GripperRules = GripperRules(),
        speed_scaling: float = 1.0,
    ) -> None:
        self._robot, self._lag_s, self._at_s = robot, lag_s, 0.0
        self._stops, self._rules, self._speed_scaling = stops or {}, rules, speed_scaling
        self._max_speeds = np.where(speed_scaling < 1.0, speed_scaling * robot.joint_values("max_velocity"), np.inf)
        self.positions = (robot.joint_values("lower") + robot.joint_values("upper")) / 2
        self.velocities = np.zeros(robot.num_joints)
        self.controllers = {output.name: self._controller(output) for output in robot.outputs}
        self.columns = {output.name: robot.columns(output.joints) for output in robot.outputs}

    def accept(self, output: OutputConfig, command: Trajectory, now_s: float, age_s: float = 0.0) -> None:
        """A command for one output's controller, stamped ``age_s`` ago; of a controller without times, its first point.
        Raises ValueError for one that the controller refuses."""
        self.step(now_s)
        self.controllers[output.name].accept(command, now_s, now_s - age_s)

    def step(self, now_s: float) -> None:
        """Let the joints follow until ``now_s``."""
        elapsed_s = now_s - self._at_s
        if elapsed_s <= 0:
            return
        wanted = self.positions.copy()
        for name, controller in self.controllers.items():
            wanted[self.columns[name]] = controller.wanted(now_s)
        share = 1.0 if self._lag_s == 0 else 1.0 - math.exp(-elapsed_s / self._lag_s)
        before, self._at_s = self.positions, now_s
        reach = self._max_speeds * elapsed_s
        self.positions = before + np.clip(share * (wanted - before), -reach, reach)
        self.velocities = (self.positions - before) / elapsed_s

    def _controller(self, output: OutputConfig) -> Controller:
        columns = self._robot.columns(output.joints)
        start = self.positions[columns]
        lower, upper, fastest = (self._robot.joint_values(key)[columns] for key in ("lower", "upper", "max_velocity"))
        if output.kind.is_gripper:
            stop = self._stops.get(output.joints[0], math.nan)
            return Gripper(start, float(fastest[0]), stop, self._rules)
        if output.interface == "velocity":
            return Velocities(start, lower, upper)
        return Positions(start) if output.interface == "forward" else Trajectories(start, self._speed_scaling)


def pictures(camera: CameraConfig, seed: int) -> list[np.ndarray]:
    """RGB uint8 ``[height, width, 3]`` each: a bright square that wanders to the right over a coloured pattern, once
    around in ``NUM_PICTURES``."""
    rng = np.random.default_rng(seed)
    rows, columns = np.ogrid[: camera.height, : camera.width]
    picture = np.empty((camera.height, camera.width, 3), np.uint8)
    for channel, (low, high) in enumerate(rng.integers(0, 128, (3, 2))):
        picture[..., channel] = low + high * (rows / camera.height + columns / camera.width) / 2
    size = min(camera.height, camera.width) // SQUARE_SHARE
    top = (camera.height - size) // 2
    picture[top : top + size, :size] = 255 - picture[top : top + size, :size] // 2
    return [np.roll(picture, i * camera.width // NUM_PICTURES, axis=1) for i in range(NUM_PICTURES)]
