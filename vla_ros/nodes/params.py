"""The parameters of the two nodes. Nothing here needs ROS: launch files read them, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vla_ros.ros.parameters import NodeParameters, parameter, robot_parameter
from vla_ros.ros.statistics import STAGES
from vla_ros.runtime.schedule import STRATEGIES
from vla_ros.runtime.teleop import TAKEOVERS, TeleopSettings
from vla_ros.share import policy_dir, robot_file
from vla_ros.strict import explained
from vla_ros.types import check_task
from vla_ros.wire import read_link_key

CONTROL_PERIOD = "control_period"
NO_POLICY = "none"


@dataclass(frozen=True)
class SharedParams(NodeParameters):
    """What both nodes must agree on."""

    autostart: bool = parameter(False, "Configure and activate without being asked.", is_fixed=True)
    policy: str = parameter(
        "tiny_touch", f"Policy directory, or the name of a packaged one; {NO_POLICY}: the robot's side alone."
    )
    strategy: str = parameter("latest", "How action chunks follow each other.", choices=tuple(STRATEGIES))

    link_key_file: str = parameter("", "File with a key for requests and results: nobody else can answer as the model.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.policy != NO_POLICY:
            policy_dir(self.policy)
        with explained("parameter "):
            read_link_key(self.link_key_file)


@dataclass(frozen=True)
class PolicyNodeParams(SharedParams):
    """Raises ValueError, naming the parameter, for one that cannot be used."""

    robot: str = robot_parameter()
    task: str = parameter("", "Instruction to start with; others come on ~/task.")
    control_rate_hz: float = parameter(
        0.0, "Commands per second; 0 takes the robot file's.", unit="Hz", low=1.0, high=1000.0, or_zero=True
    )
    result_timeout_s: float = parameter(
        1.0, "A model that takes longer to answer is a fault.", unit="s", low=0.0, high=10.0, is_open=True
    )
    model_timeout_s: float = parameter(
        1.0, "A model node that is not heard for longer is a fault.", unit="s", low=0.0, high=10.0, is_open=True
    )
    teleop_takeover: str = parameter(
        "message", "What of a human's input takes over: any message, motion, or only a request.", choices=TAKEOVERS
    )
    teleop_threshold_rad: float = parameter(
        0.02, "Motion of one joint that takes over (by motion).", unit="rad", low=0.0, high=1.0, is_open=True
    )
    teleop_timeout_s: float = parameter(
        0.5, "Go to HOLD when the human is silent for longer.", unit="s", low=0.0, high=5.0, is_open=True
    )
    estop_timeout_s: float = parameter(
        0.0,
        "An emergency stop that is silent for longer is a pressed one; 0: it may be silent.",
        unit="s",
        low=0.02,
        high=60.0,
        or_zero=True,
    )
    takeover_button: int = parameter(
        -1, "Index of the button of 'joy' that takes over; -1: no button.", low=-1, high=99
    )
    handoff_ramp_s: float = parameter(
        0.2, "Over how long a change of driver is blended; 0: at once, within limits.", unit="s", low=0.0, high=5.0
    )
    shadow: bool = parameter(True, "Ask the policy while a human drives, too, so that it can take over again at once.")
    is_followed: bool = parameter(
        True, "An arm follows the commands, and is watched doing so; false where a bag plays the joint states."
    )
    realtime_priority: int = parameter(
        10, "SCHED_FIFO priority of the ticker where permitted; 0: an ordinary thread.", low=0, high=99
    )
    budgets_ms: tuple[str, ...] = parameter(
        ("",),  # an empty list would be one of bytes to rclpy
        f"Time budget of stages at p99, STAGE=MS each; a warning above it. {CONTROL_PERIOD}'s default is 1.5 periods.",
        in_launch=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        robot_file(self.robot)
        with explained("parameter task: "):
            check_task(self.task)
        assert self.stage_budgets_ms is not None  # raises where an entry cannot be used

    @property
    def teleop(self) -> TeleopSettings:
        return TeleopSettings(self.teleop_takeover, self.teleop_threshold_rad, self.teleop_timeout_s)

    @property
    def stage_budgets_ms(self) -> Mapping[str, float]:
        """Milliseconds by stage."""
        budgets_ms = {}
        for entry in filter(None, self.budgets_ms):
            stage, _, value = entry.partition("=")
            try:
                budgets_ms[stage] = float(value)
            except ValueError:
                budgets_ms[stage] = 0.0
            if budgets_ms[stage] <= 0 or stage not in (*STAGES, CONTROL_PERIOD):
                expected = f"STAGE=MS with a stage out of {CONTROL_PERIOD}, {', '.join(STAGES)}"
                raise ValueError(f"parameter budgets_ms has '{entry}'; expected {expected}")
        return budgets_ms


@dataclass(frozen=True)
class ModelNodeParams(SharedParams):
    """Raises ValueError, naming the parameter, for one that cannot be used."""

    device: str = parameter(
        "auto", "Where the model runs; auto: a GPU if there is one.", choices=("auto", "cpu", "cuda")
    )
    dtype: str = parameter(
        "auto", "Weights; auto: bfloat16 on a GPU, else float32.", choices=("auto", "float32", "bfloat16")
    )
    compile: str = parameter(
        "auto",
        "Compile what each step of the policy repeats, which takes a minute at the first configure; auto: on a GPU.",
        choices=("auto", "off"),
    )
    num_threads: int = parameter(
        1, "CPU threads of one operation; more than there are idle cores disturbs the ticker.", low=1, high=1024
    )
    inference_delay_ms: float = parameter(
        0.0, "Wait after each inference, to try out a slower model.", unit="ms", low=0.0, high=1e4, in_launch=False
    )
