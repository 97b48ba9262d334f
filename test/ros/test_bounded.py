"""A message beyond its bound is refused before Python gets it; one within it comes with what the middleware says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import rclpy
from rclpy.serialization import serialize_message
from ros_harness import wait_until
from std_msgs.msg import Bool, String

from vla_ros import topics
from vla_ros.messages.bounds import MAX_BYTES
from vla_ros.ros import bounded
from vla_ros.ros.endpoints import make_publisher
from vla_ros.ros.managed import Role
from vla_ros.ros.qos import ANYBODY

TOO_LONG = serialize_message(String(data="x" * 20_000_000))


@pytest.mark.parametrize("way", ["without the interpreter", "as rclpy does"])
@pytest.mark.parametrize("is_apart", [False, True], ids=["one participant", "its own"])
def test_what_is_too_large_is_refused_and_what_is_not_is_heard_once(ros: None, monkeypatch, way: str, is_apart: bool):
    if way == "as rclpy does":
        monkeypatch.setattr(bounded, "_libraries", lambda: None)
    else:
        assert bounded._libraries() is not None, "rclpy's own libraries are found where it is loaded"
    owner = rclpy.create_node("owner")
    role = Role(owner, "listener", is_apart)
    heard: list[str] = []
    refused: list[str] = []
    numbers: list[int] = []

    def count(msg: Bool, info: Mapping[str, Any]) -> None:
        numbers.append(info["publication_sequence_number"])

    role.hear(topics.TASK, lambda msg: heard.append(msg.data), refused.append)
    role.subscribe(topics.ESTOP, count, None, refused.append)
    role.start()
    tasks, stops = make_publisher(owner, topics.TASK), make_publisher(owner, topics.ESTOP)
    try:
        wait_until(lambda: owner.count_subscribers(topics.TASK.name) == 2, "a subscription for each reliable publisher")
        wait_until(lambda: tasks.publish(TOO_LONG) or len(refused) > 1, "a refusal by each")
        assert set(refused) == {f"message has {len(TOO_LONG)} bytes; expected at most {MAX_BYTES[topics.STRING]}"}
        wait_until(lambda: tasks.publish(String(data="touch")) or heard, "the instruction")
        wait_until(lambda: stops.publish(Bool(data=True)) or len(numbers) > 4, "stops")
        assert all(later > earlier for earlier, later in zip(numbers, numbers[1:], strict=False))
        garbage = serialize_message(String(data="touch"))[:6]
        line = "message is not a valid std_msgs/msg/String"
        wait_until(lambda: tasks.publish(garbage) or any(line in one for one in refused), "garbage refused")
        lossy = owner.create_publisher(String, topics.TASK.name, ANYBODY)
        wait_until(lambda: owner.count_subscribers(topics.TASK.name) == 3, "one for best effort, which somebody needs")
        wait_until(lambda: lossy.publish(String(data="push")) or "push" in heard, "the instruction by best effort")
    finally:
        role.stop()
        owner.destroy_node()
