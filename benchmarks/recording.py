"""Records two cameras of 640x480 at 30 Hz with ``vla_ros record`` beside a live policy node, and counts the frames that
are missing in the bag, by their numbers, and its size.

The pictures' amplitudes fall with frequency as a camera's do, and they have a sensor's noise. Exits 1 where a frame is
lost, or JPEG takes more than ``MAX_MB_PER_MINUTE``.

    python benchmarks/recording.py [--compress jpeg] [--seconds 60] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from itertools import count, cycle
from pathlib import Path

import numpy as np
import yaml

from vla_ros.bags.read import BagReader
from vla_ros.bench.control import camera_policy
from vla_ros.cli.output import write_json
from vla_ros.demo.processes import Processes
from vla_ros.recordings.feed import recorded_cameras
from vla_ros.robot import RobotConfig, load_robot

ROBOT, NUM_CAMERAS, RATE_HZ = "tabletop", 2, 30.0
NUM_PICTURES, CONTRAST, FALL, NOISE = 16, 45.0, 1.5, 2.0
MAX_MB_PER_MINUTE = 250.0
START_TIMEOUT_S = 180.0


def pictures(height: int, width: int, seed: int) -> list[np.ndarray]:
    """RGB uint8 ``[height, width, 3]``, ``NUM_PICTURES`` of them: amplitudes fall as ``1/f**FALL``."""
    rng = np.random.default_rng(seed)
    frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequencies[0, 0] = np.inf

    def field() -> np.ndarray:
        phases = np.exp(2j * np.pi * rng.random(frequencies.shape))
        values = np.fft.irfft2(phases / frequencies**FALL, (height, width))
        return values / values.std()

    made = []
    for _ in range(NUM_PICTURES):
        luma = field()
        scene = np.stack([127.0 + CONTRAST * (luma + 0.3 * field()) for _ in range(3)], axis=-1)
        made.append(np.clip(scene + rng.normal(0.0, NOISE, scene.shape), 0, 255).astype(np.uint8))
    return made


def publish(robot: RobotConfig) -> None:
    """Cameras, their frames numbered in ``frame_id``, and joints at rest, until the process is told to end."""
    import rclpy
    from sensor_msgs.msg import Image, JointState

    from vla_ros.messages.images import encode_image
    from vla_ros.messages.joints import fill_joint_state
    from vla_ros.messages.times import fill_time
    from vla_ros.ros.qos import CAMERA, JOINT_STATES
    from vla_ros.ros.security import start_ros

    start_ros()
    node = rclpy.create_node("recorded_cameras")
    joints = node.create_publisher(JointState, robot.joint_sources[0].topic, JOINT_STATES)
    streams = []
    for seed, camera in enumerate(robot.cameras):
        messages = [Image() for _ in range(NUM_PICTURES)]
        for msg, picture in zip(messages, pictures(camera.height, camera.width, seed), strict=True):
            encode_image(picture, msg, 0)
        streams.append((node.create_publisher(Image, camera.topic, CAMERA), cycle(messages)))
    middle = (robot.joint_values("lower") + robot.joint_values("upper")) / 2
    started_s = time.monotonic()
    for number in count():
        time.sleep(max(0.0, started_s + number / RATE_HZ - time.monotonic()))
        now_ns = node.get_clock().now().nanoseconds
        state = JointState()
        fill_joint_state(state, robot.joint_names, middle, np.zeros_like(middle), now_ns)
        joints.publish(state)
        for publisher, messages in streams:
            msg = next(messages)
            msg.header.frame_id = str(number)
            fill_time(msg.header.stamp, now_ns)
            publisher.publish(msg)


def write_robot(path: Path) -> RobotConfig:
    camera_policy.write_robot(path, ROBOT)
    document = yaml.safe_load(path.read_text())
    document["cameras"] = document["cameras"][:NUM_CAMERAS]
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return load_robot(path)


def record(compress: str, seconds: float, folder: Path) -> dict[str, float]:
    """What a recording comes to."""
    robot = write_robot(folder / "robot.yaml")
    camera_policy.write_policy(folder / "policy", robot)
    bag, report = folder / "bag", folder / "report.json"
    robot_file = str(folder / "robot.yaml")
    with Processes(folder) as processes:
        processes.start("cameras", [sys.executable, __file__, "--publish", robot_file])
        policy = {"robot": robot_file, "policy": str(folder / "policy"), "autostart": True}
        processes.start_node("policy_node", {**policy, "task": camera_policy.TASK})
        log, deadline_s = folder / "policy_node.log", time.monotonic() + START_TIMEOUT_S
        while "]: active" not in log.read_text() and time.monotonic() < deadline_s:
            processes.check()
            time.sleep(0.5)
        command = [sys.executable, "-m", "vla_ros.cli", "record", "--robot", robot_file, "--out", str(bag)]
        command += ["--duration", str(seconds), "--compress", compress, "--json", str(report)]
        processes.start("record", command)
        deadline_s = time.monotonic() + seconds + START_TIMEOUT_S
        while not report.exists() and time.monotonic() < deadline_s:
            time.sleep(0.5)
    size_mb = sum(path.stat().st_size for path in bag.iterdir()) / 1e6
    told = json.loads(report.read_text())
    reader = BagReader(bag)
    found: dict[str, list[int]] = {f"/{camera.topic}": [] for camera in recorded_cameras(reader, robot)}
    for message in reader.messages(tuple(found)):
        found[message.topic].append(int(reader.decode(message).header.frame_id))
    lost = sum(numbers[-1] - numbers[0] + 1 - len(numbers) for numbers in found.values())
    return {
        "frames": sum(map(len, found.values())),
        "lost": lost,
        "lost_by_middleware": sum(topic["num_lost"] for topic in told["topics"]),
        "mb_per_minute": size_mb / sum(map(len, found.values())) * NUM_CAMERAS * RATE_HZ * 60.0,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compress", default="jpeg", help="as vla_ros record has it (default jpeg)")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="how long to record (default 60)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    parser.add_argument("--publish", metavar="ROBOT", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.publish:
        publish(load_robot(args.publish))
        return 0
    os.environ.setdefault("ROS_DOMAIN_ID", str(101 + os.getpid() % 100))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    with tempfile.TemporaryDirectory() as folder:
        figures = record(args.compress, args.seconds, Path(folder))
    print(
        f"{args.compress}: {figures['frames']} frames, {figures['lost']} lost ({figures['lost_by_middleware']} by the "
        f"middleware's word), {figures['mb_per_minute']:.0f} MB a minute"
    )
    write_json(args.json, figures)
    is_small = args.compress != "jpeg" or figures["mb_per_minute"] <= MAX_MB_PER_MINUTE
    return 0 if not figures["lost"] and is_small else 1


if __name__ == "__main__":
    raise SystemExit(main())
