"""Publishers, subscriptions, services and clients of what ``topics`` names."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

from rclpy.client import Client
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription

from vla_ros.ros.qos import PROFILES
from vla_ros.topics import Service, Topic


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


def make_client(node: Node, service: Service) -> Client:
    """A client of a service."""
    return node.create_client(interface_class(service.type), service.name)


def serve(node: Node, service: Service, callback: Callable[[Any, Any], Any]) -> None:
    """Offer a service."""
    node.create_service(interface_class(service.type), service.name, callback)
