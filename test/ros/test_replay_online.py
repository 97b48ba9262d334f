"""A bag played into live nodes under simulated time, recorded, and replayed without them: the same observations and chunks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ros_harness import SOURCE_ROOT, START_PATIENCE_S, NodeProcess, wait_until

from vla_ros.bags.read import BagReader
from vla_ros.bags.types import message_type
from vla_ros.bags.write import BagWriter
from vla_ros.replay.events import ChunkEvent
from vla_ros.replay.feed import Feed
from vla_ros.replay.policy import load_replay_policy
from vla_ros.replay.run import replay_bag
from vla_ros.replay.settings import ReplaySettings
from vla_ros.robot import RobotConfig, load_robot

ROBOT_FILE = Path(__file__).parents[1] / "data" / "three_joints.yaml"
START_NS = 1_700_000_000_000_000_000
S = 1_000_000_000
SECONDS = 5
MAX_CHUNK_DIFFERENCE = 1e-5
MAX_COMMAND_DIFFERENCE = 1e-4


def write_sensors(path: Path, robot: RobotConfig) -> Path:
    """Cameras that show noise, joints that swing, one instruction."""
    rng = np.random.default_rng(0)
    header, time = message_type("std_msgs/msg/Header"), message_type("builtin_interfaces/msg/Time")
    image, state = message_type("sensor_msgs/msg/Image"), message_type("sensor_msgs/msg/JointState")
    with BagWriter(path) as bag:
        bag.add_topic("/vla_policy/task", "std_msgs/msg/String", latched=True)
        bag.add_topic("/joint_states", "sensor_msgs/msg/JointState")
        for camera in robot.cameras:
            bag.add_topic(f"/{camera.topic}", "sensor_msgs/msg/Image")
        bag.write("/vla_policy/task", message_type("std_msgs/msg/String")("touch the red block"), START_NS)
        for i in range(SECONDS * 100):
            stamp_ns = START_NS + i * S // 100
            stamp = header(time(*divmod(stamp_ns, S)), "")
            positions = 0.2 * np.sin(i / 40 + np.arange(3))
            none = np.zeros(0)
            bag.write("/joint_states", state(stamp, list(robot.joint_names), positions, none, none), stamp_ns)
            for camera in robot.cameras if i % 5 == 0 else ():
                pixels = rng.integers(0, 256, camera.height * camera.width * 3, np.uint8)
                message = image(stamp, camera.height, camera.width, "rgb8", 0, 3 * camera.width, pixels)
                bag.write(f"/{camera.topic}", message, stamp_ns)
    return path


@pytest.fixture(scope="module")
def online_bag(ros: None, policy_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the live nodes made of the sensors' bag."""
    folder = tmp_path_factory.mktemp("online")
    sensors = write_sensors(folder / "sensors", load_robot(ROBOT_FILE))
    common = {"use_sim_time": True, "autostart": True, "policy": policy_dir}
    command = [sys.executable, "-m", "vla_ros.cli", "record", "--robot", str(ROBOT_FILE), "--out", str(folder / "online")]
    env = {key: value for key, value in os.environ.items() if key != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
    env["PYTHONPATH"] = str(SOURCE_ROOT)
    with (folder / "record.log").open("wb") as log:
        recorder = subprocess.Popen(
            [*command, "--ros-args", "-p", "use_sim_time:=true"], stdout=log, stderr=log, env=env, cwd=SOURCE_ROOT
        )
    nodes = [
        NodeProcess("model_node", folder / "model_node.log", common),
        NodeProcess("policy_node", folder / "policy_node.log", {**common, "robot": ROBOT_FILE}),
    ]
    player = NodeProcess("player", folder / "player.log", {"bag": sensors, "robot": ROBOT_FILE})
    try:
        wait_until(lambda: not player.is_running, "the end of the bag", START_PATIENCE_S)
    finally:
        code = player.stop()
        recorder.send_signal(signal.SIGINT)
        recorder.wait(30)
        for node in nodes:
            node.stop()
    assert code == 0, player.log
    return folder / "online"


def test_a_replay_of_what_the_live_nodes_did_gives_the_same_chunks(online_bag: Path, policy_dir: Path) -> None:
    robot = load_robot(ROBOT_FILE)
    recorded = {e.stamp_ns: e.trajectory for e in Feed(BagReader(online_bag), robot) if isinstance(e, ChunkEvent)}
    policy = load_replay_policy(policy_dir, torch.device("cpu"))
    found = replay_bag(online_bag, robot, policy, ReplaySettings(latency_ms=None))
    assert len(found.chunks) >= 5
    for chunk in found.chunks:
        assert np.abs(chunk.positions - recorded[chunk.header_ns].positions).max() <= MAX_CHUNK_DIFFERENCE


def test_its_commands_are_those_of_the_live_nodes_but_for_one_period(online_bag: Path, policy_dir: Path) -> None:
    robot = load_robot(ROBOT_FILE)
    policy = load_replay_policy(policy_dir, torch.device("cpu"))
    found = replay_bag(online_bag, robot, policy, ReplaySettings(latency_ms=None))
    is_policys = found.command_drivers == "POLICY"
    times_ns, ours = found.commands.times_ns[is_policys], found.commands.values[is_policys]
    period_ns = round(S / robot.control_rate_hz)
    shifted = [found.recorded_commands.at(times_ns + shift, 0.5) for shift in range(-period_ns, period_ns + 1, S // 1000)]
    nearest = np.nanmin(np.abs(np.stack(shifted) - ours).max(axis=2), axis=0)
    assert len(times_ns) > 100 and np.percentile(nearest, 99) < MAX_COMMAND_DIFFERENCE
