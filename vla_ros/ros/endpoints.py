"""Publishers, subscriptions, services and clients of what ``topics`` names, and timers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Any

from rclpy.client import Client
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription

from vla_ros.messages.bounds import MAX_BYTES, MAX_POINTS, count_points
from vla_ros.ros.bounded import Bound
from vla_ros.ros.qos import ANYBODY, LATCHED, PROFILES, RELIABLE
from vla_ros.topics import BOOL, TRAJECTORY, Service, Topic

Take = Callable[[Any, Mapping[str, Any]], None]
Refuse = Callable[[str], None]
NUM_TAKEN = 64


@cache
def interface_class(name: str) -> Any:
    """The Python class of ``std_msgs/msg/String``, say; its package is imported only now."""
    package, kind, last = name.split("/")
    return getattr(import_module(f"{package}.{kind}"), last)


def new_message(name: str) -> Any:
    """An empty message, or an empty goal of an action."""
    kind = interface_class(name)
    return kind.Goal() if "/action/" in name else kind()


def make_publisher(node: Node, topic: Topic) -> Publisher:
    """A publisher with the topic's own quality of service."""
    return node.create_publisher(interface_class(topic.type), topic.name, PROFILES[topic.qos])


def subscribe(
    node: Node,
    topic: Topic,
    callback: Callable[..., None],
    profile: QoSProfile | None = None,
    refuse: Refuse | None = None,
) -> Subscription:
    """Listen to a topic, with its own quality of service unless ``profile`` is another.

    Where there is ``refuse``, anybody may send in any size: what is larger than ``MAX_BYTES`` is refused in one line
    before it is taken apart, which in Python takes seconds that no other thread has then; ``callback`` gets the
    middleware's word on each message, too.
    """
    profile = PROFILES[topic.qos] if profile is None else profile
    if refuse is None:
        return node.create_subscription(interface_class(topic.type), topic.name, callback, profile)
    return _subscribe_bounded(node, topic, _opened(topic, callback, refuse), refuse, profile)


def hear(node: Node, topic: Topic, callback: Callable[[Any], None], refuse: Refuse) -> None:
    """Listen to whoever publishes a topic, whatever their quality of service, and to what a latched one said last;
    within bounds, as ``subscribe``.

    A subscription that asks for more than a publisher offers hears nothing of it, and one that asks for less misses
    what was latched: there is one for each, and every message is taken once, by when it was sent. The one for best
    effort comes with the first publisher that needs it where messages may be large: of each whose sender ends in the
    middle it would keep for ever, in Fast DDS, what has come, though it was sent reliably.
    """
    taken: deque[int] = deque(maxlen=NUM_TAKEN)
    take = _opened(topic, lambda msg, _: callback(msg), refuse)

    def take_once(data: bytes, info: Mapping[str, Any]) -> None:
        sent_ns = info["source_timestamp"]
        if sent_ns and sent_ns in taken:
            return
        taken.append(sent_ns)
        take(data, info)

    def hear_as(profile: QoSProfile, unmatched: Callable[[Any], None] | None = None) -> None:
        # By itself rclpy warns that nothing is heard of a publisher, whom another of these subscriptions hears.
        events = SubscriptionEventCallbacks(incompatible_qos=unmatched, use_default_callbacks=False)
        _subscribe_bounded(node, topic, take_once, refuse, profile, events)

    missing = [ANYBODY]

    def hear_anybody(_: Any) -> None:
        if missing:
            hear_as(missing.pop())

    hear_as(RELIABLE, hear_anybody)
    hear_as(LATCHED)
    if topic.type == BOOL:
        hear_anybody(None)


def _subscribe_bounded(
    node: Node,
    topic: Topic,
    take: Take,
    refuse: Refuse,
    profile: QoSProfile,
    events: SubscriptionEventCallbacks | None = None,
) -> Subscription:
    most, kind = MAX_BYTES[topic.type], interface_class(topic.type)
    bound = Bound(most, take, lambda size: refuse(f"message has {size} bytes; expected at most {most}"))
    subscription = node.create_subscription(kind, topic.name, bound.look, profile, event_callbacks=events, raw=True)
    subscription.bound = bound  # type: ignore[attr-defined]  # read by BoundedExecutor
    return subscription


def _opened(topic: Topic, callback: Take, refuse: Refuse) -> Take:
    """``callback`` for serialized messages; what isn't one is refused."""
    kind, has_points = interface_class(topic.type), topic.type == TRAJECTORY

    def take(data: bytes, info: Mapping[str, Any]) -> None:
        if has_points and (num := count_points(data)) > MAX_POINTS:
            return refuse(f"trajectory has {num} points; expected at most {MAX_POINTS}")
        try:
            msg = deserialize_message(data, kind)
        except Exception:  # each middleware raises its own, which tells nobody anything
            return refuse(f"message is not a valid {topic.type}; check its publisher")
        callback(msg, info)

    return take


def make_client(node: Node, service: Service) -> Client:
    """A client of a service."""
    return node.create_client(interface_class(service.type), service.name)


def serve(node: Node, service: Service, callback: Callable[[Any, Any], Any]) -> None:
    """Offer a service."""
    node.create_service(interface_class(service.type), service.name, callback)


def make_steady_timer(node: Node, period_s: float, callback: Callable[[], None]) -> None:
    """A timer that runs on where ROS time, which may be simulated, stands still."""
    node.create_timer(period_s, callback, clock=Clock(clock_type=ClockType.STEADY_TIME))
