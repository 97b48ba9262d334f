"""Times how soon a human who says something ends the policy's drive, on the demo's live nodes, by the senders' own
stamps: from a teleop message to the first command that isn't the policy's. Messages are of each way in which one cannot
be used, which end in HOLD, and of those that can, which end in TELEOP.

    python benchmarks/human_messages.py [--times 30] [--json FILE]

Exits 1 where one was not heeded, or above ``--max-ms`` at p99: a control period and 5 ms; of messages of 60,000 points,
which take a while on their way, above ``--max-large-ms``: two periods and 10 ms.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import human_ways
import numpy as np
from human_ways import LARGE, UNUSABLE, Make
from rclpy.serialization import serialize_message
from reaction import Reaction, summary, use_own_domain

from vla_ros import topics
from vla_ros.demo.client import DemoClient
from vla_ros.demo.world import DemoWorld, WorldConfig, running_world
from vla_ros.robot import RobotConfig
from vla_ros.ros.endpoints import make_publisher
from vla_ros.types import Mode

ROBOT, POLICY = "tabletop", "tiny_touch"
USABLE: Mapping[str, Make] = {
    "whole": human_ways.whole,
    "in part": human_ways.in_part,
    "in another order": human_ways.in_another_order,
    "beyond limits": human_ways.beyond_limits,
}
WAYS: Mapping[str, Make] = {**USABLE, **{name: way.make for name, way in UNUSABLE.items()}}
ALL = f"all but {LARGE}"
NUDGE_RAD = 0.02
DRIVE_S = (0.1, 0.14)
"""How long a chunk of the policy's has been followed when the message comes: anywhere in a control period."""
PATIENCE_S = 5.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=30, metavar="N", help="messages of each way (default 30)")
    parser.add_argument("--max-ms", type=float, default=25.0, metavar="MS", help="exit 1 above it (default 25)")
    parser.add_argument(
        "--max-large-ms", type=float, default=50.0, metavar="MS", help="the same of the largest (default 50)"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    args = parser.parse_args()
    use_own_domain()
    with tempfile.TemporaryDirectory() as folder:
        config = WorldConfig(ROBOT, POLICY, "latest", 0.0, Path(folder))
        with running_world(config, Human) as world:
            world.start()
            delays_s = measure(world, args.times)
    heeded = {name: [delay for delay in found if delay is not None] for name, found in delays_s.items()}
    num_ignored = sum(found.count(None) for found in delays_s.values())
    figures = {name: summary(found) for name, found in heeded.items() if found}
    figures[ALL] = summary([delay for name, found in heeded.items() for delay in found if name != LARGE])
    for name, values in figures.items():
        print(f"{name:<28} {values['num']:>4} messages, ms to another's command: ", end="")
        print(f"{values['p50_ms']} p50, {values['p99_ms']} p99, {values['max_ms']} max")
    print(f"{num_ignored} were not heeded in {PATIENCE_S:g} s")
    if args.json:
        Path(args.json).write_text(json.dumps({**figures, "num_ignored": num_ignored}, indent=1) + "\n")
    is_late = figures[ALL]["p99_ms"] > args.max_ms or figures[LARGE]["p99_ms"] > args.max_large_ms
    return 1 if num_ignored or is_late else 0


class Human(DemoClient):
    """Leads the demo's nodes, and has a hand."""

    def __init__(self, robot: RobotConfig, check: Callable[[], None]) -> None:
        self.reaction = Reaction()
        super().__init__(robot, check)
        self._teleop = make_publisher(self, topics.TELEOP)

    def say(self, make: Make) -> Callable[[], None]:
        """What sends a message of this way, its set point a little from the last command."""
        assert self.commanded is not None
        positions = self.commanded.positions[0]
        middle = (self.robot.joint_values("lower") + self.robot.joint_values("upper")) / 2
        msg = make(self.robot, positions + NUDGE_RAD * np.sign(middle - positions))
        # To serialize 60,000 points takes the sender longer than anything else.
        return partial(self._teleop.publish, msg if isinstance(msg, bytes) else serialize_message(msg))

    def _on_mode(self, msg: Any, info: dict[str, Any]) -> None:
        super()._on_mode(msg, info)
        self.reaction.heard_mode(msg.data, info["source_timestamp"])

    def _on_command(self, trajectory: Any, info: dict[str, Any]) -> None:
        super()._on_command(trajectory, info)
        self.reaction.heard_command(info["source_timestamp"])


def measure(world: DemoWorld[Human], num_times: int) -> dict[str, list[float | None]]:
    """The delays of each way, s, None where a message was not heeded; the ways come in turn."""
    delays_s: dict[str, list[float | None]] = {name: [] for name in WAYS}
    chance = np.random.default_rng(0)
    client, reaction = world.client, world.client.reaction
    for seed in range(num_times):
        world.new_scene(seed)
        client.end_recording()
        for name, make in WAYS.items():
            num_before = client.num_chunks
            world.engage()
            client.wait_until(lambda: client.num_chunks > num_before + 1 and client.mode == Mode.POLICY, PATIENCE_S)
            send = client.say(make)
            time.sleep(chance.uniform(*DRIVE_S))
            mode = Mode.TELEOP if name in USABLE else Mode.HOLD
            delays_s[name].append(reaction.time_s(send, (mode,), PATIENCE_S))
            client.trigger(topics.HOLD.name)
    return delays_s


if __name__ == "__main__":
    raise SystemExit(main())
