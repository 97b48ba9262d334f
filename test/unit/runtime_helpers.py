"""A robot and sensor samples for the tests of the runtime."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from vla_ros.observing.buffers import SensorBuffers
from vla_ros.robot import RobotConfig
from vla_ros.robot.parts import CameraConfig, JointConfig, JointStateConfig, OutputConfig, WatchdogConfig
from vla_ros.runtime.loop import ControlLoop, LoopSettings, Tick
from vla_ros.types import ActionChunk, Frame, JointSample, Observation

MS = 1_000_000
S = 1_000_000_000
PERIOD_NS = 20 * MS
HORIZON = 5
CHUNK_DT_S = 0.1

ROBOT = RobotConfig(
    name="two_joints",
    control_rate_hz=50.0,
    joints=(JointConfig("shoulder", -1.0, 1.0, 1.5, 8.0), JointConfig("elbow", -2.0, 0.5, 1.0, 5.0)),
    cameras=(CameraConfig("front", "front/image", 4, 3, 0.3), CameraConfig("wrist", "wrist/image", 4, 3, 0.3)),
    outputs=(OutputConfig("arm", ("shoulder", "elbow")),),
)

APART = replace(
    ROBOT,
    joint_states=(
        JointStateConfig("arm/joint_states", ("shoulder",), max_age_s=0.2),
        JointStateConfig("hand/joint_states", ("elbow",), {"shoulder": "elbow"}, max_age_s=0.5),
    ),
)
"""The same, of whose two joints each comes on a topic of its own under one name."""


def frame(camera: str, stamp_ns: int) -> Frame:
    return Frame(camera, stamp_ns, stamp_ns, np.full((3, 4, 3), stamp_ns // MS % 256, np.uint8))


def joints(stamp_ns: int, *positions: float) -> JointSample:
    """Of a message; NaN for a joint that it doesn't name."""
    return JointSample(stamp_ns, np.array(positions), np.zeros(len(positions)))


def fill_sensors(sensors: SensorBuffers, now_ns: int, positions: tuple[float, float] = (0.0, 0.0)) -> None:
    """Fresh samples of everything at ``now_ns``, and joints well before it."""
    for camera in sensors.cameras:
        sensors.cameras[camera].add(frame(camera, now_ns))
    for stamp_ns in (now_ns - 100 * MS, now_ns):
        sensors.joints.add(joints(stamp_ns, *positions))
    sensors.task = "touch the red block"


class Rig:
    """A loop with a clock of its own, an arm that is where it was last commanded unless somebody holds it at ``arm``,
    and sensors that stay fresh unless told otherwise."""

    def __init__(self, settings: LoopSettings | None = None, robot: RobotConfig = ROBOT) -> None:
        self.loop = ControlLoop(robot, settings or LoopSettings(50.0, 0.5, handoff_ramp_s=0.0))
        self.now_ns = 100 * S
        self.fresh = {"front", "wrist", "joints"}
        self.frozen: set[str] = set()
        self.arm: tuple[float, ...] | None = None
        self.measured: tuple[float, ...] = (0.0, 0.0)
        self.ticks: list[Tick] = []
        fill_sensors(self.loop.sensors, self.now_ns)

    @staticmethod
    def robot_with(**watchdogs: Any) -> RobotConfig:
        return replace(ROBOT, watchdogs=WatchdogConfig(**watchdogs))

    def tick(self, num: int = 1) -> Tick:
        for _ in range(num):
            self.now_ns += PERIOD_NS
            for camera in self.fresh - {"joints"}:
                taken = frame(camera, self.now_ns - 5 * MS)
                if camera in self.frozen:
                    taken = replace(taken, content=np.zeros_like(taken.content))
                self.loop.sensors.cameras[camera].add(taken)
            if "joints" in self.fresh:
                self.loop.sensors.joints.add(joints(self.now_ns - 2 * MS, *self.measured))
            self.ticks.append(self.loop.tick(self.now_ns))
            command = self.ticks[-1].command
            follows = self.measured if command is None else tuple(command.positions.tolist())
            self.measured = follows if self.arm is None else self.arm
        return self.ticks[-1]

    def engage(self) -> None:
        self.tick()
        assert self.loop.engage(self.now_ns) == ""

    def ask(self) -> Observation:
        observation = self.loop.begin_request(self.now_ns)
        assert observation is not None
        return observation

    def ask_later(self) -> Observation:
        self.tick()
        return self.ask()

    def answer(self, observation: Observation, goal: tuple[float, float] = (0.3, -0.3)) -> bool:
        rows = np.linspace(0, 1, HORIZON + 1)[1:, None] * np.array([goal])
        return self.loop.accept(ActionChunk(observation.stamp_ns, CHUNK_DT_S, 1.0, rows), self.now_ns)

    def assert_within_limits(self) -> None:
        """Every command so far keeps position, velocity and acceleration."""
        commands = [tick.command for tick in self.ticks if tick.command is not None]
        for before, after in pairwise(commands):
            acceleration = np.abs(after.velocities - before.velocities) / 0.02
            assert (acceleration <= ROBOT.joint_values("max_acceleration") + 1e-6).all()
            assert (np.abs(after.velocities) <= ROBOT.joint_values("max_velocity") + 1e-9).all()
            assert (after.positions <= ROBOT.joint_values("upper") + 1e-9).all()
            assert (after.positions >= ROBOT.joint_values("lower") - 1e-9).all()
