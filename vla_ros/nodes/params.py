"""The parameters of the two nodes, declared with unit and description, read into frozen dataclasses at *configure*."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from vla_ros.ros.statistics import STAGES
from vla_ros.runtime.schedule import STRATEGIES
from vla_ros.runtime.teleop import TAKEOVERS, TeleopSettings
from vla_ros.share import policy_dir, robot_file

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "float32", "bfloat16")


class ParameterSource(Protocol):
    """A node, or a node as it would be with other parameters."""

    def get_parameter(self, name: str) -> Parameter: ...


@dataclass(frozen=True)
class PolicyNodeParams:
    """``control_rate_hz`` 0 stands for the robot file's; ``realtime_priority`` 0 for an ordinary thread."""

    robot_file: Path
    policy_dir: Path
    task: str
    control_rate_hz: float
    realtime_priority: int
    strategy: str
    result_timeout_s: float
    model_timeout_s: float
    teleop: TeleopSettings
    takeover_button: int
    handoff_ramp_s: float
    shadow: bool
    budgets_ms: Mapping[str, float]


@dataclass(frozen=True)
class ModelNodeParams:
    """``num_threads`` is torch's within one operation, on CPU; ``inference_delay_ms`` is waited after each
    inference."""

    policy_dir: Path
    strategy: str
    device: str
    dtype: str
    num_threads: int
    inference_delay_ms: float


def declare_policy_params(node: Node) -> None:
    """Declare what ``read_policy_params`` reads; a value that could not be used is refused when it is set."""
    _declare(node, "autostart", False, "Configure and activate without being asked.")
    _declare(node, "robot", "tabletop", "Robot file (path of a YAML), or the name of a packaged one.")
    _declare(node, "policy", "tiny_touch", "Policy directory, or the name of a packaged one.")
    _declare(node, "task", "", "Instruction to start with; others come on ~/task.")
    _declare(node, "control_rate_hz", 0.0, "Commands per second, Hz; 0 takes the robot file's.")
    _declare(node, "strategy", "latest", "How chunks follow each other: latest, ensemble or rtc.")
    _declare(node, "result_timeout_s", 1.0, "A model that takes longer to answer is a fault, s.")
    _declare(node, "model_timeout_s", 1.0, "A model node that is not heard for longer is a fault, s.")
    _declare(
        node, "teleop_takeover", "message", "What takes over: message (any), motion, or request (service, button)."
    )
    _declare(node, "teleop_threshold_rad", 0.02, "Motion of one joint that takes over, rad (takeover by motion).")
    _declare(node, "teleop_timeout_s", 0.5, "HOLD where the human is silent for longer, s.")
    _declare(node, "takeover_button", -1, "Index of the button of 'joy' that takes over; -1: none.")
    _declare(
        node, "handoff_ramp_s", 0.2, "Over how long a change of driver is drawn out, s; 0: at once, within limits."
    )
    _declare(
        node,
        "budgets_ms",
        [""],  # an empty list would be one of bytes to rclpy
        "What a stage may take at p99, STAGE=MS each; warned above. Without one, control_period's is 1.5 periods.",
    )
    _declare(node, "shadow", True, "Ask the policy while a human drives, too, so that it can go on at once.")
    _declare(node, "realtime_priority", 10, "SCHED_FIFO priority (1 to 99) of the ticker where permitted; 0: ordinary.")
    _refuse_unusable(node, read_policy_params)


def declare_model_params(node: Node) -> None:
    """Declare what ``read_model_params`` reads; a value that could not be used is refused when it is set."""
    _declare(node, "autostart", False, "Configure and activate without being asked.")
    _declare(node, "policy", "tiny_touch", "Policy directory, or the name of a packaged one.")
    _declare(node, "strategy", "latest", "The policy node's: for rtc, guided inference is warmed up, too.")
    _declare(node, "inference_delay_ms", 0.0, "Wait so long after each inference, ms: a slower model, for trials.")
    _declare(node, "device", "auto", "auto (a GPU if there is one), cpu, or cuda.")
    _declare(node, "dtype", "auto", "Weights: float32, bfloat16, or auto (bfloat16 on a GPU, else float32).")
    _declare(node, "num_threads", 1, "Threads of one operation on CPU; more than the idle cores disturbs the ticker.")
    _refuse_unusable(node, read_model_params)


def read_policy_params(node: ParameterSource) -> PolicyNodeParams:
    """The parameters as they are now. Raises ValueError, naming the parameter, for one that cannot be used."""
    params = PolicyNodeParams(
        robot_file=robot_file(_get(node, "robot")),
        policy_dir=policy_dir(_get(node, "policy")),
        task=_get(node, "task").strip(),
        control_rate_hz=_number(node, "control_rate_hz"),
        realtime_priority=_get(node, "realtime_priority"),
        strategy=_get(node, "strategy"),
        result_timeout_s=_number(node, "result_timeout_s"),
        model_timeout_s=_number(node, "model_timeout_s"),
        teleop=TeleopSettings(
            takeover=_get(node, "teleop_takeover"),
            threshold_rad=_number(node, "teleop_threshold_rad"),
            timeout_s=_number(node, "teleop_timeout_s"),
        ),
        takeover_button=_get(node, "takeover_button"),
        handoff_ramp_s=_number(node, "handoff_ramp_s"),
        shadow=_get(node, "shadow"),
        budgets_ms=_budgets(_get(node, "budgets_ms")),
    )
    if params.control_rate_hz != 0.0 and not 1.0 <= params.control_rate_hz <= 1000.0:
        raise ValueError(f"parameter control_rate_hz is {params.control_rate_hz:g}; expected 0 or 1 to 1000 Hz")
    if not 0 <= params.realtime_priority <= 99:
        raise ValueError(f"parameter realtime_priority is {params.realtime_priority}; expected 0 to 99")
    _check_strategy(params.strategy)
    if params.teleop.takeover not in TAKEOVERS:
        got = params.teleop.takeover
        raise ValueError(f"parameter teleop_takeover is '{got}'; expected one of {', '.join(TAKEOVERS)}")
    if params.takeover_button < -1:
        raise ValueError(f"parameter takeover_button is {params.takeover_button}; expected an index, or -1 for none")
    for name, value, limit in (
        ("result_timeout_s", params.result_timeout_s, 10.0),
        ("model_timeout_s", params.model_timeout_s, 10.0),
        ("teleop_threshold_rad", params.teleop.threshold_rad, 1.0),
        ("teleop_timeout_s", params.teleop.timeout_s, 5.0),
    ):
        if not 0 < value <= limit:
            raise ValueError(f"parameter {name} is {value:g}; expected above 0, at most {limit:g}")
    if not 0 <= params.handoff_ramp_s <= 5.0:
        raise ValueError(f"parameter handoff_ramp_s is {params.handoff_ramp_s:g}; expected 0 to 5 s")
    return params


def read_model_params(node: ParameterSource) -> ModelNodeParams:
    """The parameters as they are now. Raises ValueError, naming the parameter, for one that cannot be used."""
    params = ModelNodeParams(
        policy_dir=policy_dir(_get(node, "policy")),
        strategy=_get(node, "strategy"),
        inference_delay_ms=_number(node, "inference_delay_ms"),
        device=_get(node, "device"),
        dtype=_get(node, "dtype"),
        num_threads=_get(node, "num_threads"),
    )
    if params.device not in DEVICES:
        raise ValueError(f"parameter device is '{params.device}'; expected one of {', '.join(DEVICES)}")
    if params.dtype not in DTYPES:
        raise ValueError(f"parameter dtype is '{params.dtype}'; expected one of {', '.join(DTYPES)}")
    _check_strategy(params.strategy)
    if not 0 <= params.inference_delay_ms <= 10_000:
        raise ValueError(f"parameter inference_delay_ms is {params.inference_delay_ms:g}; expected 0 to 10000 ms")
    if params.num_threads < 1:
        raise ValueError(f"parameter num_threads is {params.num_threads}; expected at least 1")
    return params


def _declare(node: Node, name: str, default: Any, description: str) -> None:
    # A number may be given without its decimal point, which ROS takes for another type.
    is_number = isinstance(default, float)
    node.declare_parameter(name, default, ParameterDescriptor(description=description, dynamic_typing=is_number))


def _refuse_unusable(node: Node, read: Callable[[ParameterSource], object]) -> None:
    def check(parameters: list[Parameter]) -> SetParametersResult:
        before, after = _error(read, node), _error(read, _Changed(node, parameters))
        # What was wrong already, as at a start with a wrong robot, is no reason to refuse something else.
        is_worse = bool(after) and after != before
        return SetParametersResult(successful=not is_worse, reason=after if is_worse else "")

    node.add_on_set_parameters_callback(check)


def _error(read: Callable[[ParameterSource], object], node: ParameterSource) -> str:
    try:
        read(node)
    except ValueError as error:
        return str(error)
    return ""


class _Changed:
    """A node's parameters as they would be."""

    def __init__(self, node: Node, parameters: list[Parameter]) -> None:
        self._node = node
        self._parameters = {parameter.name: parameter for parameter in parameters}

    def get_parameter(self, name: str) -> Parameter:
        return self._parameters.get(name) or self._node.get_parameter(name)


def _get(node: ParameterSource, name: str) -> Any:
    return node.get_parameter(name).value


def _number(node: ParameterSource, name: str) -> float:
    value = _get(node, name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"parameter {name} is {value!r}; expected a number")
    return float(value)


def _check_strategy(strategy: str) -> None:
    if strategy not in STRATEGIES:
        raise ValueError(f"parameter strategy is '{strategy}'; expected one of {', '.join(STRATEGIES)}")


def _budgets(entries: list[str]) -> dict[str, float]:
    """Milliseconds by stage."""
    budgets_ms = {}
    for entry in filter(None, entries):
        stage, _, value = entry.partition("=")
        try:
            budgets_ms[stage] = float(value)
        except ValueError:
            budgets_ms[stage] = 0.0
        if budgets_ms[stage] <= 0 or stage not in (*STAGES, "control_period"):
            expected = f"STAGE=MS with a stage out of control_period, {', '.join(STAGES)}"
            raise ValueError(f"parameter budgets_ms has '{entry}'; expected {expected}")
    return budgets_ms
