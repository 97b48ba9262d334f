"""Publishers, subscriptions, services and clients of what ``topics`` names."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from rclpy.client import Client
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription

from vla_ros.ros.qos import PROFILES
from vla_ros.topics import Service, Topic


def interface_type(topic: Topic | Service) -> Any:
    """The Python class of a topic's messages, or of a service."""
    package, kind, name = topic.type.split("/")
    return getattr(import_module(f"{package}.{kind}"), name)


def make_publisher(node: Node, topic: Topic) -> Publisher:
    """A publisher with the topic's own quality of service."""
    return node.create_publisher(interface_type(topic), topic.name, PROFILES[topic.qos])


def subscribe(
    node: Node, topic: Topic, callback: Callable[..., None], profile: QoSProfile | None = None
) -> Subscription:
    """Listen to a topic, with its own quality of service unless ``profile`` is another."""
    profile = PROFILES[topic.qos] if profile is None else profile
    return node.create_subscription(interface_type(topic), topic.name, callback, profile)


def make_client(node: Node, service: Service) -> Client:
    """A client of a service."""
    return node.create_client(interface_type(service), service.name)


def serve(node: Node, service: Service, callback: Callable[[Any, Any], Any]) -> None:
    """Offer a service."""
    node.create_service(interface_type(service), service.name, callback)
