"""A callback that fails takes no other with it."""

from __future__ import annotations

import rclpy
from ros_harness import wait_until
from std_msgs.msg import Bool

from vla_ros.ros.managed import Spinner


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
