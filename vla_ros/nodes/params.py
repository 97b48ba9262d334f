"""The parameters of the two nodes, declared with unit and description, read into frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node

from vla_ros.share import policy_dir, robot_file

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class PolicyNodeParams:
    """``control_rate_hz`` 0 stands for the robot file's; ``realtime_priority`` 0 for an ordinary thread."""

    robot_file: Path
    policy_dir: Path
    control_rate_hz: float
    result_timeout_s: float
    realtime_priority: int


@dataclass(frozen=True)
class ModelNodeParams:
    """``num_threads`` is torch's within one operation, on CPU."""

    policy_dir: Path
    device: str
    dtype: str
    num_threads: int


def declare_policy_params(node: Node) -> None:
    """Declare what ``read_policy_params`` reads."""
    _declare(node, "autostart", False, "Configure and activate without being asked.")
    _declare(node, "robot", "tabletop", "Robot file (path of a YAML), or the name of a packaged one.")
    _declare(node, "policy", "tiny_touch", "Policy directory, or the name of a packaged one.")
    _declare(node, "control_rate_hz", 0.0, "Commands per second, Hz; 0 takes the robot file's.")
    _declare(node, "result_timeout_s", 1.0, "HOLD where the model takes longer to answer, s.")
    _declare(node, "realtime_priority", 10, "SCHED_FIFO priority (1 to 99) of the ticker where permitted; 0: ordinary.")


def declare_model_params(node: Node) -> None:
    """Declare what ``read_model_params`` reads."""
    _declare(node, "autostart", False, "Configure and activate without being asked.")
    _declare(node, "policy", "tiny_touch", "Policy directory, or the name of a packaged one.")
    _declare(node, "device", "auto", "auto (a GPU if there is one), cpu, or cuda.")
    _declare(node, "dtype", "auto", "Weights: float32, bfloat16, or auto (bfloat16 on a GPU, else float32).")
    _declare(node, "num_threads", 1, "Threads of one operation on CPU; more than the idle cores disturbs the ticker.")


def read_policy_params(node: Node) -> PolicyNodeParams:
    """The parameters as they are now. Raises ValueError, naming the parameter, for one that cannot be used."""
    params = PolicyNodeParams(
        robot_file=robot_file(_get(node, "robot")),
        policy_dir=policy_dir(_get(node, "policy")),
        control_rate_hz=_number(node, "control_rate_hz"),
        result_timeout_s=_number(node, "result_timeout_s"),
        realtime_priority=_get(node, "realtime_priority"),
    )
    if params.control_rate_hz != 0.0 and not 1.0 <= params.control_rate_hz <= 1000.0:
        raise ValueError(f"parameter control_rate_hz is {params.control_rate_hz:g}; expected 0 or 1 to 1000 Hz")
    if not 0 < params.result_timeout_s <= 10.0:
        raise ValueError(f"parameter result_timeout_s is {params.result_timeout_s:g}; expected above 0, at most 10 s")
    if not 0 <= params.realtime_priority <= 99:
        raise ValueError(f"parameter realtime_priority is {params.realtime_priority}; expected 0 to 99")
    return params


def read_model_params(node: Node) -> ModelNodeParams:
    """The parameters as they are now. Raises ValueError, naming the parameter, for one that cannot be used."""
    params = ModelNodeParams(
        policy_dir=policy_dir(_get(node, "policy")),
        device=_get(node, "device"),
        dtype=_get(node, "dtype"),
        num_threads=_get(node, "num_threads"),
    )
    if params.device not in DEVICES:
        raise ValueError(f"parameter device is '{params.device}'; expected one of {', '.join(DEVICES)}")
    if params.dtype not in DTYPES:
        raise ValueError(f"parameter dtype is '{params.dtype}'; expected one of {', '.join(DTYPES)}")
    if params.num_threads < 1:
        raise ValueError(f"parameter num_threads is {params.num_threads}; expected at least 1")
    return params


def _declare(node: Node, name: str, default: Any, description: str) -> None:
    # A number may be given without its decimal point, which ROS takes for another type.
    is_number = isinstance(default, float)
    node.declare_parameter(name, default, ParameterDescriptor(description=description, dynamic_typing=is_number))


def _get(node: Node, name: str) -> Any:
    return node.get_parameter(name).value


def _number(node: Node, name: str) -> float:
    value = _get(node, name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"parameter {name} is {value!r}; expected a number")
    return float(value)
