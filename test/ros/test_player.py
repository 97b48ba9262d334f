"""The player lets ``ros2 bag play`` play where it is to, once the nodes listen."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rclpy
from bag_samples import START_NS, at, image, joint_state, jpeg, string, write_bag
from rclpy.node import Node
from ros_harness import START_PATIENCE_S, NodeProcess, wait_until
from sensor_msgs.msg import Image, JointState

from vla_ros.ros import qos

DEMO_BAG = Path(__file__).parents[1] / "data" / "tabletop_touch"


@pytest.fixture
def listener(ros: None) -> Iterator[Node]:
    """In a namespace, as the nodes may be."""
    node = rclpy.create_node("listener", namespace="left")
    yield node
    node.destroy_node()


def fake_ros2(folder: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> Path:
    """A ``ros2`` that notes how it was called; returns where."""
    noted, program = folder / "noted.txt", folder / "ros2"
    program.write_text(f'#!/bin/sh\necho "$@" > {noted}.new && mv {noted}.new {noted}\nexit {code}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return noted


@pytest.mark.parametrize(("code", "exit_code", "said"), [(0, 0, "played by ros2 bag play"), (3, 2, "ended with 3")])
def test_rosbag2_plays_when_all_sensors_are_listened_to(
    listener: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, exit_code: int, said: str
) -> None:
    noted = fake_ros2(tmp_path, monkeypatch, code)
    parameters = {"bag": DEMO_BAG, "player": "rosbag2", "engage": False, "rate": 2.0}
    player = NodeProcess("record.player", tmp_path / "player.log", parameters, namespace="left")
    listener.create_subscription(JointState, "joint_states", lambda msg: None, qos.JOINT_STATES)
    wait_until(
        lambda: ("vla_player", "/left") in listener.get_node_names_and_namespaces(), "the player", START_PATIENCE_S
    )
    assert not noted.exists() and player.is_running
    listener.create_subscription(Image, "front_camera/image_raw", lambda msg: None, qos.CAMERA)
    listener.create_subscription(Image, "top_camera/image_raw", lambda msg: None, qos.CAMERA)
    wait_until(lambda: not player.is_running, "the end of the player", START_PATIENCE_S)
    assert player.stop() == exit_code and said in player.log, player.log
    words = noted.read_text().split()
    assert words[:4] == ["bag", "play", str(DEMO_BAG), "--clock=500"] and "--rate=2" in words
    topics = words[words.index("--topics") + 1 :]
    assert {"/left/joint_states", "/left/vla_policy/task", "/left/vla_policy/teleop"} < set(topics)
    assert "/left/vla_policy/chunk" not in topics


@pytest.mark.parametrize("player", ["rosbag2", "own"])
def test_a_topic_of_another_type_is_refused_in_one_line(
    listener: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, player: str
) -> None:
    noted = fake_ros2(tmp_path, monkeypatch, 0)
    pixels = np.zeros((2, 2, 3), np.uint8)
    messages = [("/left/front_camera/image_raw", image(at(0), pixels), at(0))]
    bag = write_bag(tmp_path / "bag", [*messages, ("/left/joint_states", string("rest"), at(0.1))])
    listener.create_subscription(JointState, "joint_states", lambda msg: None, qos.JOINT_STATES)
    for camera in ("front", "top"):
        listener.create_subscription(Image, f"{camera}_camera/image_raw", lambda msg: None, qos.CAMERA)
    parameters = {"bag": bag, "player": player, "engage": False}
    node = NodeProcess("record.player", tmp_path / "player.log", parameters, namespace="left")
    wait_until(lambda: not node.is_running, "the end of the player", START_PATIENCE_S)
    assert node.stop() == 2 and not noted.exists()
    expected = "'/left/joint_states' holds std_msgs/msg/String; expected sensor_msgs/msg/JointState"
    assert [line for line in node.log.splitlines() if expected in line] == [
        f"player: bag {bag}: {expected}: check the robot file"
    ], node.log


@pytest.mark.parametrize("player", ["auto", "rosbag2"])
def test_images_recorded_as_jpeg_reach_the_nodes_as_images(
    listener: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, player: str
) -> None:
    noted = fake_ros2(tmp_path, monkeypatch, 0)
    pixels = np.full((128, 128, 3), (200, 100, 50), np.uint8)
    topic = "/left/front_camera/image_raw/compressed"
    bag = write_bag(
        tmp_path / "bag",
        [
            ("/left/joint_states", joint_state(at(0), ["base_yaw"], [0.0]), at(0)),
            *((topic, jpeg(at(i / 10), pixels), at(i / 10)) for i in range(20)),
        ],
    )
    heard: list[Image] = []
    listener.create_subscription(JointState, "joint_states", lambda msg: None, qos.JOINT_STATES)
    listener.create_subscription(Image, "front_camera/image_raw", heard.append, 100)
    listener.create_subscription(Image, "top_camera/image_raw", lambda msg: None, qos.CAMERA)
    parameters = {"bag": bag, "player": player, "engage": False}
    node = NodeProcess("record.player", tmp_path / "player.log", parameters, namespace="left")

    def spin() -> bool:
        rclpy.spin_once(listener, timeout_sec=0.01)
        return not node.is_running

    wait_until(spin, "the end of the player", START_PATIENCE_S)
    assert not noted.exists()
    if player == "rosbag2":
        assert node.stop() == 2 and f"'{topic}' holds JPEGs" in node.log and "player:=own" in node.log
        return
    assert node.stop() == 0, node.log
    assert len(heard) >= 10 and {(msg.width, msg.height, msg.encoding) for msg in heard} == {(128, 128, "rgb8")}
    assert np.abs(np.frombuffer(heard[0].data, np.uint8).reshape(pixels.shape).astype(int) - pixels).max() < 4
    assert (heard[0].header.stamp.sec, heard[0].header.frame_id) == (START_NS // 1_000_000_000, "base")
