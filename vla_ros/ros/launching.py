"""What launch files take of the nodes' parameters: an argument for each, and the values for a node."""

from __future__ import annotations

import os
from typing import Any

from launch import Action, Substitution
from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration, PythonExpression
from launch_ros.parameter_descriptions import ParameterValue

from vla_ros.ros.parameters import Declared, NodeParameters, declared_parameters
from vla_ros.start import PARENT

BOOLEAN = ("true", "false")
DISCOVERY_RANGE = "ROS_AUTOMATIC_DISCOVERY_RANGE"


def argument(
    name: str, default: str | None, description: str, choices: tuple[str, ...] | None = None
) -> DeclareLaunchArgument:
    """One argument of a launch file; it must be given where it has no default."""
    return DeclareLaunchArgument(name, default_value=default, description=description, choices=choices)


def discovery(default: str) -> list[Action]:
    """How far nodes are found, as an argument, and so for everything launched after it."""
    ranges = tuple(dict.fromkeys(("localhost", "subnet", default)))
    text = "Which machines' nodes can be heard, drive and answer: this one's, or the subnet's (docs/security.md)."
    value = PythonExpression(["'", LaunchConfiguration("discovery"), "'.upper()"])
    return [argument("discovery", default, text, ranges), SetEnvironmentVariable(DISCOVERY_RANGE, value)]


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


def with_parent() -> dict[str, str]:
    """The environment of a node that ends when this launch does, even when that is killed."""
    return {PARENT: str(os.getpid())}


def value(name: str, kind: type) -> ParameterValue:
    """One argument as a parameter of that type."""
    configured: Substitution = LaunchConfiguration(name)
    return ParameterValue(configured, value_type=kind)


def _launched(kind: type[NodeParameters]) -> dict[str, Declared]:
    return {name: one for name, one in declared_parameters(kind).items() if one.in_launch}


def _text(default: Any) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)
