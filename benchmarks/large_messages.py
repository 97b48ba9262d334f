"""Publishes what is far too large, in a process of its own: a teleop trajectory of 60,000 points, an instruction of
50 MB, a joint state of 200,000 names. Serialized once, so that sending costs next to nothing.

    python benchmarks/large_messages.py [task teleop joints] [--robot FILE] [--times N] [--pause-s 0.05]

Waits until it is heard, sends so often (for ever by default), and stays until it is ended.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import rclpy
from rclpy.duration import Duration
from rclpy.serialization import serialize_message
from sensor_msgs.msg import JointState
from sensor_relay import joints_topic
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vla_ros import topics
from vla_ros.robot import RobotConfig, load_robot
from vla_ros.ros.endpoints import make_publisher
from vla_ros.ros.signals import ros_running, stop_on_signals
from vla_ros.share import robot_file
from vla_ros.topics import Qos, Topic

NUM_POINTS, NUM_TASK_BYTES, NUM_NAMES = 60_000, 50_000_000, 200_000
POLL_S = 0.05
ACKED = Duration(seconds=2.0)


def _teleop(robot: RobotConfig) -> JointTrajectory:
    points = [JointTrajectoryPoint(positions=[0.0] * robot.num_joints)] * NUM_POINTS
    return JointTrajectory(joint_names=robot.joint_names, points=points)


MESSAGES: Mapping[str, Callable[[RobotConfig], Any]] = {
    "task": lambda robot: String(data="touch " * (NUM_TASK_BYTES // 6)),
    "teleop": _teleop,
    "joints": lambda robot: JointState(name=[f"joint {i}" for i in range(NUM_NAMES)]),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones, of {', '.join(MESSAGES)} (default all)")
    parser.add_argument(
        "--robot", default="tabletop", help="robot file with the joint states' topic (default tabletop)"
    )
    parser.add_argument("--times", type=int, metavar="N", help="how often (default for ever)")
    parser.add_argument("--pause-s", type=float, default=POLL_S, metavar="S", help="after each message (default 0.05)")
    args = parser.parse_args()
    stopping, robot = stop_on_signals(), load_robot(robot_file(args.robot))
    where = {
        "task": topics.TASK,
        "teleop": topics.TELEOP,
        "joints": Topic(joints_topic(robot), topics.JOINT_STATE, Qos.COMMAND),
    }
    with ros_running():
        node = rclpy.create_node("large_messages")
        sent = []
        for name in args.names or MESSAGES:
            publisher = make_publisher(node, where[name])
            sent.append((publisher, serialize_message(MESSAGES[name](robot))))
            while not publisher.get_subscription_count() and not stopping.is_set():
                time.sleep(POLL_S)
        for _ in count() if args.times is None else range(args.times):
            for publisher, data in sent:
                publisher.publish(data)
                if stopping.wait(args.pause_s):
                    break
            if stopping.is_set():
                break
        stopping.wait()
        # A sender that goes while its message is on its way leaves what has come of it in the readers.
        for publisher, _ in sent:
            publisher.wait_for_all_acked(ACKED)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
