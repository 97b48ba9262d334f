"""Diagnostic messages: one status with values, from what a node knows of itself."""

from __future__ import annotations

from collections.abc import Mapping

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from vla_ros.ros.statistics import Distribution


def make_status(node: Node, part: str, level: bytes, message: str, values: Mapping[str, str]) -> DiagnosticStatus:
    """The status of a node's ``part``, named with the namespace, which tells robots apart; ``values`` keep their
    order."""
    name = f"{node.get_fully_qualified_name().lstrip('/')}: {part}"
    pairs = [KeyValue(key=key, value=value) for key, value in values.items()]
    return DiagnosticStatus(level=level, name=name, message=message, hardware_id="", values=pairs)


def diagnostics(node: Node, status: DiagnosticStatus) -> DiagnosticArray:
    """A status as ``/diagnostics`` carries it."""
    msg = DiagnosticArray(status=[status])
    msg.header.stamp = node.get_clock().now().to_msg()
    return msg


def distribution_values(name: str, distribution: Distribution) -> dict[str, str]:
    """``<name>_p50``, ``_p99`` and ``_max``; nothing before the first value."""
    summary = distribution.summary()
    if summary is None:
        return {}
    values = {"p50": summary.p50, "p99": summary.p99, "max": summary.maximum}
    return {f"{name}_{key}": f"{value:.3f}" for key, value in values.items()}


def over_budget(distributions: Mapping[str, Distribution], budgets_ms: Mapping[str, float]) -> list[str]:
    """A line for each stage whose p99 is above its budget."""
    lines = []
    for stage, budget_ms in budgets_ms.items():
        summary = distributions[stage].summary() if stage in distributions else None
        if summary is not None and summary.p99 > budget_ms:
            lines.append(f"{stage} took {summary.p99:.1f} ms p99; its budget is {budget_ms:g} ms")
    return lines
