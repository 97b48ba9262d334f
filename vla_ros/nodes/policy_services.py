"""What users ask of the policy node by services: who drives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rclpy.node import Node
from std_srvs.srv import Trigger

from vla_ros import topics
from vla_ros.nodes.control import Control
from vla_ros.ros.endpoints import serve
from vla_ros.types import Mode


def offer_services(node: Node, control: Control) -> None:
    """Engage, takeover, hold and reset_estop: each is done, or refused with the reason, which is logged, too."""
    for service, act, done in (
        (topics.ENGAGE, control.engage, "the policy drives"),
        (topics.TAKEOVER, control.takeover, "the human drives"),
        (topics.HOLD, control.hold, Mode.HOLD.value),
        (topics.RESET_ESTOP, control.reset_estop, Mode.HOLD.value),
    ):
        serve(node, service.private, partial(_answer, node, service.name.rpartition("/")[2], act, done))


def _answer(
    node: Node, name: str, act: Callable[[], str], done: str, request: Trigger.Request, response: Trigger.Response
) -> Trigger.Response:
    refusal = act()
    response.success, response.message = not refusal, refusal or done
    if refusal:
        node.get_logger().warning(f"{name} refused: {refusal}")
    return response
