"""The packaged robots, each driven by a policy of random weights in its own space, through its fake driver: drive, hand
over to a human, HOLD. What is commanded is judged from the messages alone. Exits 1 where something is beyond its limit.

    python benchmarks/robots.py [so101 ur5e_robotiq aloha franka_droid] [--seconds 30] [--takeovers 20] [--json FILE]

Grippers by action need control_msgs, which a ROS installation has. Without one, the tests' stand-in will do:
PYTHONPATH=$(python test/ros/interface_package.py control_msgs) python benchmarks/robots.py
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from limit_watch import LimitWatch
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from vla_ros import topics
from vla_ros.bench.control.judge import LimitUse, delays_ms, percentile
from vla_ros.bench.control.operator import PATIENCE_S, Operator
from vla_ros.bench.control.probe import ControlProbe
from vla_ros.bench.control.rows import TELEOP_MARGIN_MS, Row, limit_rows, rows_json, table
from vla_ros.demo.world import WorldConfig, running_world
from vla_ros.messages.joints import positions_by_name
from vla_ros.robot import JointStateConfig, RobotConfig, load_robot
from vla_ros.robot.parts import OutputConfig
from vla_ros.ros.qos import EVERYTHING, JOINT_STATES
from vla_ros.share import robot_file, share_path
from vla_ros.strict import config_to_dict, parse_config, parse_yaml, read_text
from vla_ros.types import Mode, Observation

TASK = "put the red block into the cup"
CHUNK_S = 1.0
NUM_SAMPLES, STEP_SHARE = 400, 0.2
"""Random actions move joints by this share of what their velocity limits allow, most of the time."""
TELEOP_S, NUDGE_SHARE = 0.15, 0.02
TOLERANCE = 1e-6
MAX_UNHEARD_SHARE = 0.01


PRESETS = {"so101": "so101_degrees", "ur5e_robotiq": "ur5e", "aloha": "aloha", "franka_droid": "droid"}
"""Each robot's preset of config/spaces."""


class RobotProbe(ControlProbe):
    """Judges, by subscriptions of its own, commands, velocities and what the joints do: ``broken`` tells of the first
    message outside the robot file."""

    def __init__(self, robot: RobotConfig, check: Callable[[], None]) -> None:
        super().__init__(robot, check)
        self.limits = LimitWatch(self, robot)
        self.broken = ""
        self.num_velocities = 0
        self.measured: dict[str, np.ndarray] = {}
        for output in robot.outputs:
            if output.interface == "velocity":
                take = partial(self._on_velocities, output)
                self.create_subscription(Float64MultiArray, output.command_topic, take, EVERYTHING)
        for source in robot.joint_sources:
            self.create_subscription(JointState, source.topic, partial(self._on_joints, source), JOINT_STATES)

    def _on_velocities(self, output: OutputConfig, msg: Float64MultiArray) -> None:
        self.num_velocities += 1
        limits = self.robot.joint_values("max_velocity")[self.robot.columns(output.joints)]
        self._judge(output.command_topic, np.abs(msg.data) <= limits * (1 + TOLERANCE), msg.data)

    def _on_joints(self, source: JointStateConfig, msg: JointState) -> None:
        positions, _ = positions_by_name(msg, source.message_names)
        columns = self.robot.columns(source.joints)
        lower, upper = (self.robot.joint_values(key)[columns] for key in ("lower", "upper"))
        self._judge(source.topic, (positions >= lower - TOLERANCE) & (positions <= upper + TOLERANCE), positions)
        self.measured[source.topic] = positions

    def _judge(self, topic: str, are_good: np.ndarray, values: Sequence[float]) -> None:
        if not are_good.all() and not self.broken:
            self.broken = f"{topic}: {np.round(values, 4).tolist()}"


@dataclass(frozen=True)
class Driven:
    """What was heard of one robot; ``broken`` and ``unfinished`` are empty where all is well."""

    use: LimitUse
    driven_s: float
    num_chunks: int
    num_drops: int
    takeovers_ms: list[float]
    broken: str
    unfinished: str
    num_refused: int
    moved: float


def write_policy(folder: Path, robot: RobotConfig, preset: str) -> None:
    """A policy directory for ``robot``: tiny_touch's network with random weights, whose numbers are those of ``preset``
    and mostly move the joints a little."""
    import torch

    from vla_ros.policies.config import DataConfig
    from vla_ros.policies.directory import save_policy
    from vla_ros.policies.files import open_policy
    from vla_ros.policies.fill import build_policy
    from vla_ros.share import policy_dir
    from vla_ros.transforms.normalize import compute_stats

    tiny = open_policy(policy_dir("tiny_touch")).processor
    declared = parse_yaml(read_text(share_path(f"config/spaces/{preset}.yaml")))
    horizon = round(CHUNK_S / declared["chunk_dt_s"])
    document = {
        **config_to_dict(tiny.data),
        "joint_names": robot.joint_names,
        "camera_names": () if "cameras" in declared else robot.camera_names,
        "action_horizon": horizon,
        "action_mode": None,
        **declared,
    }
    data = parse_config(DataConfig, document, preset).bind(robot)
    sizes = {"state_dim": data.state_space.size, "action_dim": data.action_space.size, "action_horizon": horizon}
    config = replace(tiny.config, num_steps=4, **sizes)
    camera = robot.cameras[0]
    images = replace(tiny.settings, camera_height=camera.height, camera_width=camera.width)
    measured, targets = _motions(robot, horizon, data.chunk_dt_s)
    stats = {
        "state": compute_stats(data.state_space.encode(measured[:, None], measured)),
        "action": compute_stats(data.action_space.encode(targets, measured)),
    }
    processor = type(tiny)(config, data, images, tiny.tokenizer, stats)
    torch.manual_seed(0)
    save_policy(folder, build_policy(config), processor, _observation(robot, measured[0]))


def _motions(robot: RobotConfig, horizon: int, dt_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Measured joints ``[num, num_joints]`` and targets ``[num, horizon, num_joints]`` of random walks about the middle
    of their ranges."""
    rng = np.random.default_rng(0)
    lower, upper = robot.joint_values("lower"), robot.joint_values("upper")
    spread = 0.1 * (upper - lower)
    measured = (lower + upper) / 2 + rng.uniform(-spread, spread, (NUM_SAMPLES, robot.num_joints))
    steps = rng.normal(0.0, STEP_SHARE * dt_s * robot.joint_values("max_velocity"), (NUM_SAMPLES, horizon, len(lower)))
    return measured, np.clip(measured[:, None] + np.cumsum(steps, axis=1), lower, upper)


def _observation(robot: RobotConfig, positions: np.ndarray) -> Observation:
    rng = np.random.default_rng(0)
    images = {c.name: rng.integers(0, 256, (c.height, c.width, 3), np.uint8) for c in robot.cameras}
    return Observation(0, dict.fromkeys(robot.camera_names, 0), images, positions, TASK)


def drive(name: str, folder: Path, seconds: float, num_takeovers: int) -> Driven:
    """Start the robot's fake driver and both nodes; let the policy drive, a human take over again and again, and end in
    HOLD. Raises ValueError where a node ends, cannot start or does not answer."""
    robot = load_robot(robot_file(name))
    write_policy(folder / "policy", robot, PRESETS[name])
    config = WorldConfig(
        robot=name,
        policy=str(folder / "policy"),
        strategy="latest",
        inference_delay_ms=0.0,
        log_dir=folder,
        task=TASK,
        robot_node="fake_driver_node",
    )
    with running_world(config, RobotProbe) as world:
        world.start()
        operator, probe = Operator(world), world.client
        start = dict(probe.measured)
        drives = operator.drive_for(seconds, lambda: None)
        moved = max(float(np.abs(probe.measured[topic] - start[topic]).max()) for topic in start)
        hands_ns = _take_over(operator, probe, num_takeovers)
        probe.trigger(topics.HOLD.name)
        has_stopped = probe.wait_until(lambda: probe.mode == Mode.HOLD and probe.has_stopped, PATIENCE_S)
        return Driven(
            use=probe.limits.take(),
            driven_s=sum(drive.span.end_ns - drive.span.start_ns for drive in drives) * 1e-9,
            num_chunks=probe.num_chunks,
            num_drops=operator.num_drops,
            takeovers_ms=delays_ms(probe.commands(), Mode.TELEOP, hands_ns),
            broken=probe.broken,
            unfinished="" if has_stopped else f"the end is {probe.mode}, not HOLD at rest",
            num_refused=(folder / "fake_driver_node.log").read_text(errors="replace").count("refused"),
            moved=moved,
        )


def _take_over(operator: Operator, probe: RobotProbe, count: int) -> list[int]:
    """A human takes over so often while the policy drives; when, ns."""
    lower, upper = probe.robot.joint_values("lower"), probe.robot.joint_values("upper")
    hands_ns = []
    for _ in range(count):
        operator.engage()
        operator.drive_a_little()
        # Towards the middle of every joint's range: never outside.
        positions = probe.commanded.positions[0]
        nudge = NUDGE_SHARE * (upper - lower) * np.sign((lower + upper) / 2 - positions)
        hands_ns.append(probe.teleop(positions + nudge))
        probe.wait_until(lambda: probe.mode == Mode.TELEOP, PATIENCE_S)
        time.sleep(TELEOP_S)
    return hands_ns


def rows_of(robot: RobotConfig, driven: Driven) -> list[Row]:
    """What was measured beside what is allowed."""
    times, most_ms = driven.takeovers_ms, 1e3 / robot.control_rate_hz + TELEOP_MARGIN_MS
    unheard = driven.use.num_unheard / max(driven.use.num_commands, 1)
    return [
        *limit_rows(driven.use),
        Row("  share of commands that were not heard", unheard, MAX_UNHEARD_SHARE, ""),
        Row("messages outside the robot file", float(bool(driven.broken)), 0, "", True),
        Row("times the fake driver told of refused commands, late ones", driven.num_refused, None, ""),
        Row("end that is not HOLD at rest", float(bool(driven.unfinished)), 0, ""),
        Row("takeovers that no command followed", float(np.isinf(times).sum()), 0, ""),
        Row(f"teleop message to the command that follows, {len(times)} times, p50", percentile(times, 50), None, "ms"),
        Row(
            f"teleop message to the command that follows, {len(times)} times, p99", percentile(times, 99), most_ms, "ms"
        ),
        Row("seconds that the policy drove", driven.driven_s, None, "s"),
        Row("  chunks", driven.num_chunks, None, ""),
        Row("  times it fell to HOLD by itself", driven.num_drops, None, ""),
        Row("  largest way of a joint", driven.moved, None, "rad or m"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("robots", nargs="*", metavar="ROBOT", help=f"of {', '.join(PRESETS)} (default: all)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of driving (default 30)")
    parser.add_argument("--takeovers", type=int, default=20, help="(default 20)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    args = parser.parse_args()
    figures: dict[str, Any] = {}
    is_good = True
    for name in args.robots or PRESETS:
        if name not in PRESETS:
            parser.error(f"robot is '{name}'; expected one of {', '.join(PRESETS)}")
        with tempfile.TemporaryDirectory() as folder:
            driven = drive(name, Path(folder), args.seconds, args.takeovers)
        rows = rows_of(load_robot(robot_file(name)), driven)
        print(f"\n{name}, spaces preset {PRESETS[name]}\n{table(rows)}", flush=True)
        print("".join(f"  {problem}\n" for problem in (driven.broken, driven.unfinished) if problem), end="")
        figures[name] = rows_json(rows)
        is_good &= all(row.ok is not False for row in rows)
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
