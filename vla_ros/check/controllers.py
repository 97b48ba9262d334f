"""Asks the nodes that take commands for the parameters of a ros2_control controller."""

from __future__ import annotations

import time
from dataclasses import dataclass

from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import GetParameters
from rclpy.client import Client
from rclpy.node import Node
from rclpy.task import Future

from vla_ros.check.seen import ControllerSettings
from vla_ros.outputs import Interface

JOINTS = "joints"
# An answer is lost where the node hasn't discovered this client yet.
PATIENCE_S = 1.0


@dataclass
class _Question:
    client: Client
    names: tuple[str, ...]
    future: Future | None = None
    asked_s: float = 0.0


class ControllerQuestions:
    """One question for each node and interface, asked again while it seems lost; ``pursue`` is called between two
    spins."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._questions: dict[tuple[str, Interface], _Question] = {}

    def ask(self, node: str, kind: Interface) -> None:
        """Ask ``node``, by its full name, for the settings of a controller of this interface."""
        if (node, kind) not in self._questions:
            client = self._node.create_client(GetParameters, f"{node}/get_parameters")
            names = (JOINTS, *(switch.name for switch in kind.switches))
            self._questions[node, kind] = _Question(client, names)

    def pursue(self) -> None:
        """Send what can be sent by now."""
        now_s = time.monotonic()
        for question in self._questions.values():
            is_open = question.future is None or not question.future.done()
            if is_open and now_s - question.asked_s > PATIENCE_S and question.client.service_is_ready():
                request = GetParameters.Request(names=list(question.names))
                question.future, question.asked_s = question.client.call_async(request), now_s

    def answer(self, node: str, kind: Interface) -> ControllerSettings | None:
        """The settings; None for a node that offers no parameters or isn't a controller."""
        question = self._questions.get((node, kind))
        if question is None or question.future is None or not question.future.done():
            return None
        response = question.future.result()
        # A node that refuses to name undeclared parameters answers with none at all.
        if response is None or len(response.values) != len(question.names):
            return None
        joints = response.values[0]
        if joints.type != ParameterType.PARAMETER_STRING_ARRAY:
            return None
        values = zip(question.names[1:], response.values[1:], strict=True)
        switches = {name: value.bool_value for name, value in values if value.type == ParameterType.PARAMETER_BOOL}
        return ControllerSettings(tuple(joints.string_array_value), switches)
