"""A node's parameters as ROS has them: declared with description and bounds, read, and refused where a change would
have no effect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from vla_ros.ros.parameters import Declared, NodeParameters, declared_parameters

Params = TypeVar("Params", bound=NodeParameters)


def declare(node: Node, kind: type[NodeParameters], are_fixed: bool = False) -> None:
    """Declare every parameter of ``kind``; ``are_fixed``: none of them can be set once the node runs."""
    for name, declared in declared_parameters(kind).items():
        default = list(declared.default) if isinstance(declared.default, tuple) else declared.default
        descriptor = _descriptor(declared, are_fixed)
        try:
            node.declare_parameter(name, default, descriptor)
        except InvalidParameterValueException:  # the node lives, and whoever reads its parameters says what is wrong
            descriptor.floating_point_range, descriptor.integer_range = [], []
            node.declare_parameter(name, default, descriptor)


def read(node: Node, kind: type[Params]) -> Params:
    """The parameters as they are now. Raises ValueError, naming the parameter, for one that cannot be used."""
    return kind(**_values(node, kind))


def declare_and_read(node: Node, kind: type[Params]) -> Params:
    """Parameters that take effect at the start of the process only. Raises as ``read`` does."""
    declare(node, kind, are_fixed=True)
    return read(node, kind)


def guard(node: Node, kind: type[NodeParameters], is_in_use: Callable[[], bool]) -> None:
    """Refuse, when it is set, a value that cannot be used, and any change while the present ones are in use."""

    def check(parameters: list[Parameter]) -> SetParametersResult:
        before = _values(node, kind)
        after = before | {parameter.name: parameter.value for parameter in parameters if parameter.name in before}
        changed = [name for name in before if after[name] != before[name]]
        # What was wrong already, as at a start with a wrong robot, refuses nothing else.
        problem = _problem(kind, after)
        refusal = problem if changed and problem != _problem(kind, before) else ""
        if changed and not refusal and is_in_use():
            refusal = (
                f"parameter {changed[0]} takes effect at configure only, and the node is configured: "
                f"deactivate and clean it up (ros2 lifecycle set {node.get_fully_qualified_name()}), then set it"
            )
        return SetParametersResult(successful=not refusal, reason=refusal)

    node.add_on_set_parameters_callback(check)


def _descriptor(declared: Declared, is_fixed: bool) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        description=declared.text,
        additional_constraints=declared.expected if declared.choices else "",
        read_only=is_fixed or declared.is_fixed,
        # A number may be given without its decimal point, which ROS takes for another type.
        dynamic_typing=isinstance(declared.default, float),
    )
    if declared.low is not None and declared.high is not None:
        low = 0.0 if declared.or_zero else declared.low
        if isinstance(declared.default, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=declared.high)]
        else:
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(declared.high), step=1)]
    return descriptor


def _values(node: Node, kind: type[NodeParameters]) -> dict[str, Any]:
    return {name: node.get_parameter(name).value for name in declared_parameters(kind)}


def _problem(kind: type[NodeParameters], values: Mapping[str, Any]) -> str:
    try:
        kind(**values)
    except ValueError as error:
        return str(error)
    return ""
