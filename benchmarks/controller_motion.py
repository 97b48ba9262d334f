"""What a joint_trajectory_controller makes of the commands: the demo's policy drives, and an emulated controller at
1 kHz follows what it gets when it gets it.

    python benchmarks/controller_motion.py [--seconds 60]

Commands keep the limits by themselves; the motion they cause does so only as far as they arrive in time. What is judged
(exit code 1) is a sine through the velocity limit whose commands are as late as the node's were: the policy's own
motion, also shown, accelerates at the limit much of the time, where the least lateness goes beyond it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from vla_ros.bench.control.judge import HeardCommand
from vla_ros.bench.control.operator import Operator
from vla_ros.bench.control.probe import ControlProbe
from vla_ros.demo.world import WorldConfig, running_world
from vla_ros.messages.trajectories import Trajectory, parse_trajectory
from vla_ros.robot import RobotConfig, load_robot
from vla_ros.robot.parts import STAMPS
from vla_ros.ros.outputs import CommandOutputs
from vla_ros.runtime.limits import Limiter
from vla_ros.runtime.path import Target
from vla_ros.share import robot_file
from vla_ros.sim.controller import TrajectoryController
from vla_ros.units import NS_PER_S

CYCLE_S = 1e-3
MAX_VELOCITY, MAX_ACCELERATION, MAX_SHARE_ABOVE = 1.02, 1.3, 0.02
"""Of the limits, and of the cycles in motion, those above the limits."""
ROUNDING = 1.001
START_NS = 10**18
PAUSE_S = 0.1
"""How long the last command of a scene is followed."""


@dataclass(frozen=True)
class MotionUse:
    """The largest velocity and acceleration of any joint as shares of its limits, and the share of the cycles in motion
    that were above one of them; ``num_refused`` commands the controller would not take."""

    velocity: float
    acceleration: float
    acceleration_p99: float
    above: float
    num_cycles: int
    num_commands: int
    num_refused: int

    @property
    def is_good(self) -> bool:
        """Whether the motion keeps near enough to the limits."""
        within = self.velocity <= MAX_VELOCITY and self.acceleration <= MAX_ACCELERATION
        return within and self.above <= MAX_SHARE_ABOVE


def motion_use(scenes: Sequence[Sequence[HeardCommand]], robot: RobotConfig) -> MotionUse:
    """Follow the commands of each scene, in order of arrival, as a controller does; it starts at the first, at rest."""
    velocities, accelerations, num_refused = [], [], 0
    for scene in scenes:
        controller = TrajectoryController(scene[0].positions[0])
        ends_ns = [later.arrived_ns for later in scene[1:]] + [scene[-1].arrived_ns + round(PAUSE_S * NS_PER_S)]
        for command, end_ns in zip(scene, ends_ns, strict=True):
            now_s = (command.arrived_ns - scene[0].arrived_ns) / NS_PER_S
            start_s = ((command.stamp_ns or command.arrived_ns) - scene[0].arrived_ns) / NS_PER_S
            try:
                controller.accept(Trajectory(0, command.times_s, command.positions, command.velocities), now_s, start_s)
            except ValueError:
                num_refused += 1
            span_s = (end_ns - command.arrived_ns) / NS_PER_S
            times_s = np.linspace(now_s, now_s + span_s, max(round(span_s / CYCLE_S), 1) + 1)
            sampled = np.array([controller.sample(time_s)[1] for time_s in times_s])
            velocities.append(sampled[:-1])
            accelerations.append(np.diff(sampled, axis=0) * ((len(times_s) - 1) / max(span_s, CYCLE_S)))
    speeds = np.abs(np.concatenate(velocities)) / robot.joint_values("max_velocity")
    pulls = np.abs(np.concatenate(accelerations)) / robot.joint_values("max_acceleration")
    worst_speed, worst_pull = speeds.max(axis=1), pulls.max(axis=1)
    moving = (worst_speed > 0) | (worst_pull > 0)
    above = (np.maximum(worst_speed, worst_pull)[moving] > ROUNDING).mean() if moving.any() else 0.0
    quantile = np.quantile(worst_pull[moving], 0.99) if moving.any() else 0.0
    figures = (float(worst_speed.max()), float(worst_pull.max()), float(quantile), float(above))
    return MotionUse(*figures, int(moving.sum()), sum(map(len, scenes)), num_refused)


def sine_scene(robot: RobotConfig, lateness_s: np.ndarray, **options: Any) -> list[HeardCommand]:
    """From rest, commands of a sine that just reaches the first joint's velocity limit, each late by its ``lateness_s``
    ``[num_commands]``; ``options`` are those of the outputs."""
    period_s = 1.0 / robot.control_rate_hz
    robot = replace(robot, outputs=tuple(replace(output, **options) for output in robot.outputs))
    limiter, outputs = Limiter(robot, period_s), _Taken(robot, period_s)
    middle = (robot.joint_values("lower") + robot.joint_values("upper")) / 2
    limiter.start_at(middle)
    amplitude = 0.35 * (robot.joints[0].upper - robot.joints[0].lower)
    pace = robot.joints[0].max_velocity / amplitude
    for k in range(len(lateness_s)):
        due_s, position, velocity = k * period_s, middle.copy(), np.zeros(robot.num_joints)
        position[0] += amplitude * np.sin(pace * due_s)
        velocity[0] = amplitude * pace * np.cos(pace * due_s)
        command = limiter.follow(Target(position, velocity), 0) if k else limiter.brake(0)
        outputs.publish(limiter.braking_ramp(command), START_NS + round(k * period_s * NS_PER_S))
    late_ns = np.minimum(lateness_s, 0.95 * period_s) * NS_PER_S
    infos = []
    for k, late in enumerate(late_ns):
        tick_ns = START_NS + round(k * period_s * NS_PER_S)
        infos.append({"source_timestamp": tick_ns, "received_timestamp": tick_ns + round(late)})
    return [HeardCommand.of(*heard) for heard in zip(outputs.taken, infos, strict=True)]


class _Taken:
    """In a node's place: what the outputs publish is kept."""

    def __init__(self, robot: RobotConfig, period_s: float) -> None:
        self.taken: list[Trajectory] = []
        self._robot = robot
        self.publish = CommandOutputs(self, robot, period_s).publish

    def create_publisher(self, kind: type, topic: str, profile: Any) -> Any:
        """As of a node; whatever is published is of all joints."""
        joints = self._robot.joint_names
        return SimpleNamespace(publish=lambda msg: self.taken.append(parse_trajectory(msg, joints)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the policy drives (default 60)")
    parser.add_argument("--robot", default="tabletop", help="robot file of the simulation (default tabletop)")
    parser.add_argument("--policy", default="tiny_touch", metavar="DIR", help="policy directory (default tiny_touch)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    args = parser.parse_args()
    robot = load_robot(robot_file(args.robot))
    with tempfile.TemporaryDirectory() as folder:
        config = WorldConfig(args.robot, args.policy, "latest", 0.0, Path(folder))
        with running_world(config, ControlProbe) as world:
            world.start()
            operator = Operator(world)
            operator.drive_for(args.seconds, operator.new_scene)
            commands, starts_ns = world.client.commands(), operator.scenes_ns
    ends_ns = [*starts_ns[1:], commands[-1].arrived_ns + 1]
    scenes = [
        [command for command in commands if start_ns <= command.arrived_ns < end_ns]
        for start_ns, end_ns in zip(starts_ns, ends_ns, strict=True)
    ]
    late_s = np.array([command.arrived_ns - command.stamp_ns for scene in scenes for command in scene]) / NS_PER_S
    judged = f"sine, stamped {STAMPS[0]}"
    uses = {
        "policy": motion_use(scenes, robot),
        "sine, stamped zero": motion_use([sine_scene(robot, late_s, stamp="zero")], robot),
        judged: motion_use([sine_scene(robot, late_s)], robot),
        "sine, 2 lead_periods": motion_use([sine_scene(robot, late_s, lead_periods=2)], robot),
    }
    late_ms = [round(float(value) * 1e3, 2) for value in np.quantile(late_s, (0.5, 0.99))]
    print(f"commands arrive {late_ms[0]} ms after their tick (p50), {late_ms[1]} ms (p99)")
    for name, use in uses.items():
        print(
            f"{name:>20}: velocity {use.velocity:.3f} x the limit, acceleration {use.acceleration:.2f} x "
            f"(p99 {use.acceleration_p99:.2f}), above in {use.above:.2%} of {use.num_cycles} cycles in motion; "
            f"{use.num_commands} commands, {use.num_refused} refused"
        )
    print(f"wanted of '{judged}': {MAX_VELOCITY} x, {MAX_ACCELERATION} x, {MAX_SHARE_ABOVE:.0%}")
    if args.json:
        figures = {"late_ms": late_ms, **{name: asdict(use) for name, use in uses.items()}}
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if uses[judged].is_good else 1


if __name__ == "__main__":
    raise SystemExit(main())
