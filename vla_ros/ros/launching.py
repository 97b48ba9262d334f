"""What launch files take of the nodes' parameters: an argument for each, and the values for a node."""

from __future__ import annotations

from typing import Any

from launch import Substitution
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.parameter_descriptions import ParameterValue

from vla_ros.ros.parameters import Declared, NodeParameters, declared_parameters

BOOLEAN = ("true", "false")


def argument(
    name: str, default: str | None, description: str, choices: tuple[str, ...] | None = None
) -> DeclareLaunchArgument:
    """One argument of a launch file; it must be given where it has no default."""
    return DeclareLaunchArgument(name, default_value=default, description=description, choices=choices)


def arguments(
    *kinds: type[NodeParameters], without: tuple[str, ...] = (), **defaults: str
) -> list[DeclareLaunchArgument]:
    """One for each parameter of the nodes, each once; ``defaults`` are the launch file's own."""
    declared = {name: one for kind in kinds for name, one in _launched(kind).items() if name not in without}
    return [
        argument(
            name,
            defaults.get(name, None if one.is_required else _text(one.default)),
            one.text,
            BOOLEAN if isinstance(one.default, bool) else one.choices or None,
        )
        for name, one in declared.items()
    ]


def values(kind: type[NodeParameters]) -> dict[str, ParameterValue]:
    """What a node gets of the launch file's arguments."""
    return {name: value(name, type(one.default)) for name, one in _launched(kind).items()}


def value(name: str, kind: type) -> ParameterValue:
    """One argument as a parameter of that type."""
    configured: Substitution = LaunchConfiguration(name)
    return ParameterValue(configured, value_type=kind)


def _launched(kind: type[NodeParameters]) -> dict[str, Declared]:
    return {name: one for name, one in declared_parameters(kind).items() if one.in_launch}


def _text(default: Any) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)
