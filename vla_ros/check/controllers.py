"""Asks the nodes that take commands for the parameters of a ros2_control controller."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import GetParameters
from rclpy.client import Client
from rclpy.node import Node
from rclpy.task import Future

from vla_ros.check.seen import ControllerSettings

JOINTS = "joints"
SWITCHES = ("interpolate_from_desired_state", "allow_nonzero_velocity_at_trajectory_end")
# An answer is lost where the node hasn't discovered this client yet.
PATIENCE_S = 1.0


@dataclass
class _Question:
    client: Client
    future: Future | None = None
    asked_s: float = 0.0


class ControllerQuestions:
    """One question for each node, asked again while it seems lost; ``pursue`` is called between two spins."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._questions: dict[str, _Question] = {}

    def ask(self, node: str) -> None:
        """Ask ``node``, by its full name, for its settings."""
        if node not in self._questions:
            self._questions[node] = _Question(self._node.create_client(GetParameters, f"{node}/get_parameters"))

    def pursue(self) -> None:
        """Send what can be sent by now."""
        now_s = time.monotonic()
        for question in self._questions.values():
            is_open = question.future is None or not question.future.done()
            if is_open and now_s - question.asked_s > PATIENCE_S and question.client.service_is_ready():
                request = GetParameters.Request(names=[JOINTS, *SWITCHES])
                question.future, question.asked_s = question.client.call_async(request), now_s

    def answer(self, node: str) -> ControllerSettings | None:
        """The settings; None for a node that offers no parameters or is no controller."""
        question = self._questions.get(node)
        if question is None or question.future is None or not question.future.done():
            return None
        response = question.future.result()
        # A node that refuses to name undeclared parameters answers with none at all.
        if response is None or len(response.values) != 1 + len(SWITCHES):
            return None
        joints = response.values[0]
        if joints.type != ParameterType.PARAMETER_STRING_ARRAY:
            return None
        return ControllerSettings(tuple(joints.string_array_value), *map(_switch, response.values[1:]))


def _switch(value: ParameterValue) -> Any:
    return value.bool_value if value.type == ParameterType.PARAMETER_BOOL else None
