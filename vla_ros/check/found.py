"""What a live graph has for a robot file: topics with pictures and joint states, and who takes trajectories."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import Any

import rclpy
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image, JointState

from vla_ros import topics
from vla_ros.check.draft import Found, FoundCamera, FoundJoints
from vla_ros.check.live import DISCOVERY_S, graph
from vla_ros.check.seen import Picture, Stream
from vla_ros.ros import qos
from vla_ros.topics import TRAJECTORY

PATIENCE_S = DISCOVERY_S
KINDS = {
    "sensor_msgs/msg/Image": Image,
    "sensor_msgs/msg/CompressedImage": CompressedImage,
    "sensor_msgs/msg/JointState": JointState,
}


def find(duration_s: float, namespace: str = "") -> Found:
    """Look for topics, then listen to them for ``duration_s`` seconds.

    Raises ValueError for a namespace that is not valid, KeyboardInterrupt where it is interrupted.
    """
    with graph(namespace):
        node = rclpy.create_node("vla_new", namespace=namespace, start_parameter_services=False, enable_rosout=False)
        try:
            return _find(node, duration_s)
        finally:
            node.destroy_node()


def _find(node: Node, duration_s: float) -> Found:
    _spin(node, DISCOVERY_S)
    patience_s = time.monotonic() + PATIENCE_S
    while not _kinds(node) and time.monotonic() < patience_s:
        _spin(node, DISCOVERY_S)
    streams: dict[str, Stream] = {}
    messages: dict[str, Any] = {}
    joint_names: dict[str, dict[str, None]] = {}  # of all messages: arm and gripper may send their own

    def keep(topic: str, msg: Any, info: dict[str, Any]) -> None:
        streams[topic].add(msg, info["received_timestamp"])
        messages.setdefault(topic, msg)
        joint_names.setdefault(topic, {}).update(dict.fromkeys(getattr(msg, "name", ())))

    kinds = _kinds(node)
    for topic, kind in kinds.items():
        streams[topic] = Stream()
        node.create_subscription(KINDS[kind], topic, partial(keep, topic), qos.WATCH)
    _spin(node, duration_s)
    own = node.get_namespace().rstrip("/") + "/"
    cameras = [topic for topic in kinds if kinds[topic] != "sensor_msgs/msg/JointState"]
    return Found(
        f"{duration_s:g} s of ROS domain {os.environ.get('ROS_DOMAIN_ID', '0')}",
        tuple(_camera(topic.removeprefix(own), messages.get(topic), kinds[topic], streams[topic]) for topic in cameras),
        tuple(
            FoundJoints(topic.removeprefix(own), tuple(joint_names.get(topic, ())))
            for topic in kinds
            if topic not in cameras
        ),
        tuple(
            topic.removeprefix(own)
            for topic, types in node.get_topic_names_and_types()
            if TRAJECTORY in types and node.count_subscribers(topic) and not topic.endswith(f"/{topics.TELEOP}")
        ),
    )


def _kinds(node: Node) -> dict[str, str]:
    """The type of each topic with pictures or joint states that somebody publishes."""
    return {
        topic: types[0]
        for topic, types in node.get_topic_names_and_types()
        if types[0] in KINDS and node.count_publishers(topic)
    }


def _camera(topic: str, msg: Any, kind: str, stream: Stream) -> FoundCamera:
    compressed = kind == "sensor_msgs/msg/CompressedImage"
    if msg is None:
        return FoundCamera(topic, compressed)
    picture = Picture.of(msg)
    return FoundCamera(topic, compressed, picture.width, picture.height, stream.rate_hz)


def _spin(node: Node, duration_s: float) -> None:
    deadline_s = time.monotonic() + duration_s
    while (left_s := deadline_s - time.monotonic()) > 0:
        rclpy.spin_once(node, timeout_sec=min(left_s, 0.1))
