"""How evenly a robot follows a leader's hand that moves at constant speed, in simulated time: no ROS, no clock.

The leader is heard at 10 to 200 Hz with 30 % jitter, of the moments at which it is read or of its messages' way (these
are stamped). A command's speed may differ from the hand's by 5 %, at 10 Hz by 15 %, once the hand has moved for
``SETTLING_S``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vla_ros.cli.output import write_json
from vla_ros.robot import RobotConfig
from vla_ros.robot.parts import CameraConfig, JointConfig, OutputConfig
from vla_ros.runtime.loop import ControlLoop, LoopSettings
from vla_ros.runtime.teleop import TeleopTrajectory
from vla_ros.types import JointSample
from vla_ros.units import NS_PER_S

ROBOT = RobotConfig(
    name="one_joint",
    control_rate_hz=100.0,
    joints=(JointConfig("joint", -10.0, 10.0, 1.5, 8.0),),
    cameras=(CameraConfig("front", "front/image", 4, 3, 0.3),),
    outputs=(OutputConfig("arm", ("joint",)),),
)
SPEED = 0.4  # rad/s
SECONDS, SETTLING_S = 12.0, 2.0
JITTER = 0.3
RATES_HZ = (10.0, 30.0, 50.0, 100.0, 200.0)


@dataclass(frozen=True)
class Message:
    """A leader's position, rad, read at ``read_s`` and heard at ``heard_s``."""

    read_s: float
    heard_s: float

    @property
    def position(self) -> float:
        return SPEED * self.read_s


@dataclass(frozen=True)
class Row:
    """The worst deviation of a command's speed, of the hand's, and how far behind it commands are."""

    jitter_of: str
    leader_hz: float
    control_hz: float
    worst_share: float
    lag_s: float

    @property
    def wanted_share(self) -> float:
        return 0.05 if self.leader_hz >= 30.0 else 0.15

    @property
    def is_good(self) -> bool:
        return self.worst_share <= self.wanted_share

    @property
    def line(self) -> str:
        about = f"{self.leader_hz:3.0f} Hz, jitter of the {self.jitter_of:7}, control {self.control_hz:3.0f} Hz"
        within = f"within {self.worst_share:6.1%} (wanted {self.wanted_share:.0%}), {self.lag_s * 1e3:3.0f} ms behind"
        return f"{'good' if self.is_good else 'BAD '}  {about}: {within}"


def messages(jitter_of: str, rate_hz: float, seed: int) -> Iterator[Message]:
    """What is heard, in the order of hearing; ``jitter_of`` the ``reading`` or the ``way``."""
    rng, period_s, read_s = np.random.default_rng(seed), 1.0 / rate_hz, 0.0
    while read_s < SECONDS:
        late_s = period_s * JITTER * rng.uniform(-1.0, 1.0)
        if jitter_of == "reading":
            read_s += period_s + late_s
            yield Message(read_s, read_s)
        else:
            read_s += period_s
            yield Message(read_s, read_s + period_s * JITTER + late_s)


def follow(jitter_of: str, rate_hz: float, control_hz: float, seed: int) -> Row:
    """One row: the loop's commands while it hears ``messages``."""
    loop = ControlLoop(ROBOT, LoopSettings(control_hz))
    period_ns, start_ns = round(NS_PER_S / control_hz), 100 * NS_PER_S
    heard = messages(jitter_of, rate_hz, seed)
    message = next(heard)
    speeds, lags_s, position = [], [], 0.0
    for now_ns in range(start_ns, start_ns + round(SECONDS * NS_PER_S), period_ns):
        while message is not None and start_ns + round(message.heard_s * NS_PER_S) <= now_ns:
            read_ns, heard_ns = (start_ns + round(t * NS_PER_S) for t in (message.read_s, message.heard_s))
            trajectory = TeleopTrajectory((read_ns,), np.array([[message.position]]))
            refusal = loop.offer_teleop(trajectory, heard_ns)
            assert not refusal, refusal
            message = next(heard, None)
        loop.sensors.joints.add(JointSample(now_ns, np.array([position]), np.zeros(1)))
        command = loop.tick(now_ns).command
        assert command is not None
        step, position = command.positions[0] - position, float(command.positions[0])
        if now_ns > start_ns + SETTLING_S * NS_PER_S:
            speeds.append(step * control_hz)
            due_s = (now_ns + period_ns - start_ns) / NS_PER_S
            lags_s.append(due_s - position / SPEED)
    worst = float(np.abs(np.array(speeds) / SPEED - 1.0).max())
    return Row(jitter_of, rate_hz, control_hz, worst, float(np.mean(lags_s)))


def main() -> int:
    """Print the rows; 1 where one misses what is wanted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each row, of which the worst counts")
    parser.add_argument("--json", help="write the rows there")
    args = parser.parse_args()
    rows = []
    for jitter_of in ("reading", "way"):
        for control_hz in (50.0, 100.0):
            for rate_hz in RATES_HZ:
                runs = [follow(jitter_of, rate_hz, control_hz, seed) for seed in range(args.seeds)]
                row = max(runs, key=lambda run: run.worst_share)
                rows.append(row)
                print(row.line, flush=True)
    if args.json:
        write_json(args.json, [vars(row) for row in rows])
    return 0 if all(row.is_good for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
