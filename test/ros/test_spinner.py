"""A callback that fails takes no other with it, and one that has run leaves nothing behind."""

from __future__ import annotations

import gc
from types import FunctionType

import rclpy
from ros_harness import wait_until
from std_msgs.msg import Bool

from vla_ros.ros.managed import Spinner, spinning

NUM_CALLS = 500


def test_callbacks_go_on_after_one_that_failed(ros: None) -> None:
    heard: list[bool] = []

    def fail_once(msg: Bool) -> None:
        heard.append(msg.data)
        if len(heard) == 1:
            raise RuntimeError("a bug")

    node, sender = rclpy.create_node("listener"), rclpy.create_node("sender")
    node.create_subscription(Bool, "said", fail_once, 10)
    publisher = sender.create_publisher(Bool, "said", 10)
    spinner = Spinner(node)
    spinner.start()
    try:
        wait_until(publisher.get_subscription_count, "the listener")
        publisher.publish(Bool(data=True))
        wait_until(lambda: heard == [True], "the first message")
        publisher.publish(Bool(data=False))
        wait_until(lambda: heard == [True, False], "the second message")
    finally:
        spinner.stop()
        node.destroy_node()
        sender.destroy_node()


def test_a_spinner_keeps_nothing_of_the_callbacks_that_it_has_run(ros: None) -> None:
    node, calls = rclpy.create_node("busy"), []
    node.create_timer(0.001, lambda: calls.append(None))

    def num_functions() -> int:
        gc.collect()
        return sum(isinstance(thing, FunctionType) for thing in gc.get_objects())

    with spinning(node):
        wait_until(lambda: len(calls) > 100, "the first callbacks")
        before, num_before = num_functions(), len(calls)
        wait_until(lambda: len(calls) > num_before + NUM_CALLS, "many more")
        grown = num_functions() - before
    node.destroy_node()
    assert grown < NUM_CALLS / 10
