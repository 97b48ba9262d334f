"""Publishers, subscriptions, services and clients of what ``topics`` names, and timers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

from rclpy.client import Client
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription

from vla_ros.ros.qos import HEARD, PROFILES
from vla_ros.topics import Service, Topic

NUM_TAKEN = 64


@cache
def interface_class(name: str) -> Any:
    """The Python class of ``std_msgs/msg/String``, say; its package is imported only now."""
    package, kind, last = name.split("/")
    return getattr(import_module(f"{package}.{kind}"), last)


def make_publisher(node: Node, topic: Topic) -> Publisher:
    """A publisher with the topic's own quality of service."""
    return node.create_publisher(interface_class(topic.type), topic.name, PROFILES[topic.qos])


def subscribe(
    node: Node, topic: Topic, callback: Callable[..., None], profile: QoSProfile | None = None
) -> Subscription:
    """Listen to a topic, with its own quality of service unless ``profile`` is another."""
    profile = PROFILES[topic.qos] if profile is None else profile
    return node.create_subscription(interface_class(topic.type), topic.name, callback, profile)


def hear(node: Node, topic: Topic, callback: Callable[[Any], None]) -> None:
    """Listen to whoever publishes a topic, whatever their quality of service, and to what a latched one said last.

    A subscription that asks for more than a publisher offers hears nothing of it, and one that asks for less misses
    what was latched: there is one for each, and every message is taken once, by when it was sent.
    """
    taken: deque[int] = deque(maxlen=NUM_TAKEN)

    def take_once(msg: Any, info: dict[str, Any]) -> None:
        sent_ns = info["source_timestamp"]
        if sent_ns and sent_ns in taken:
            return
        taken.append(sent_ns)
        callback(msg)

    for profile in HEARD:
        subscribe(node, topic, take_once, profile)


def make_client(node: Node, service: Service) -> Client:
    """A client of a service."""
    return node.create_client(interface_class(service.type), service.name)


def serve(node: Node, service: Service, callback: Callable[[Any, Any], Any]) -> None:
    """Offer a service."""
    node.create_service(interface_class(service.type), service.name, callback)


def make_steady_timer(node: Node, period_s: float, callback: Callable[[], None]) -> None:
    """A timer that runs on where ROS time, which may be simulated, stands still."""
    node.create_timer(period_s, callback, clock=Clock(clock_type=ClockType.STEADY_TIME))
