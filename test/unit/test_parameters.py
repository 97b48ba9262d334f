"""A node's parameters: declared once, checked by the declaration, and what launch files make of them."""

from __future__ import annotations

import os
import runpy
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from vla_ros.nodes.params import ModelNodeParams, PolicyNodeParams
from vla_ros.ros.parameters import NodeParameters, declared_parameters, parameter
from vla_ros.view.params import ViewParams

LAUNCH = Path(__file__).parents[2] / "launch"


@dataclass(frozen=True)
class Params(NodeParameters):
    bag: str = parameter("", "What is played.", is_required=True)
    rate_hz: float = parameter(0.0, "Commands per second.", unit="Hz", low=1.0, high=100.0, or_zero=True)
    timeout_s: float = parameter(1.0, "How long to wait.", unit="s", low=0.0, high=5.0, is_open=True)
    button: int = parameter(-1, "Which button.", low=-1, high=9)
    strategy: str = parameter("latest", "How.", choices=("latest", "rtc"))


def test_a_number_may_be_given_without_its_decimal_point():
    params = Params(bag="monday", rate_hz=50)
    assert params.rate_hz == 50.0 and isinstance(params.rate_hz, float)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("bag", "", "parameter bag is ''; expected a value"),
        ("rate_hz", 0.5, "parameter rate_hz is 0.5; expected 0 or 1 to 100 Hz"),
        ("rate_hz", "fast", "parameter rate_hz is 'fast'; expected 0 or 1 to 100 Hz"),
        ("rate_hz", True, "parameter rate_hz is True; expected 0 or 1 to 100 Hz"),
        ("timeout_s", 0.0, "parameter timeout_s is 0; expected above 0, at most 5 s"),
        ("button", 10, "parameter button is 10; expected -1 to 9"),
        ("strategy", "best", "parameter strategy is 'best'; expected one of latest, rtc"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_what_was_expected(name: str, value: object, line: str):
    with pytest.raises(ValueError) as refused:
        Params(**{"bag": "monday", name: value})
    assert str(refused.value) == line


@pytest.mark.parametrize("value", [0.0, 1.0, 100.0])
def test_bounds_may_be_reached_and_zero_stands_beside_them(value: float):
    assert Params(bag="monday", rate_hz=value).rate_hz == value


@pytest.mark.parametrize("entry", ["no_such_stage=5", "link=fast", "link=-1", "link"])
def test_a_budget_that_is_not_of_a_stage_is_refused(entry: str):
    with pytest.raises(ValueError, match="parameter budgets_ms has .*expected STAGE=MS with a stage out of"):
        PolicyNodeParams(budgets_ms=("link=5", entry))


def test_budgets_are_read_by_stage():
    assert PolicyNodeParams(budgets_ms=["link=5", "control_period=20.5"]).stage_budgets_ms == {
        "link": 5.0,
        "control_period": 20.5,
    }


@pytest.mark.parametrize(
    ("name", "what"),
    [("robot", "robot 'nobody' does not exist.*: .*tabletop"), ("policy", "policy 'nobody' .*: tiny")],
)
def test_a_robot_or_a_policy_that_is_not_there_is_named_and_so_are_those_that_are(name: str, what: str):
    with pytest.raises(ValueError, match=what):
        PolicyNodeParams(**{name: "nobody"})


@dataclass
class Action:
    """Any action of a launch file, as it was made."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)


class Stubs:
    """Stands for the packages ``launch`` and ``launch_ros``, which only a ROS installation has."""

    MODULES = {
        "launch": ("Action", "LaunchDescription", "Substitution"),
        "launch.actions": (
            "DeclareLaunchArgument", "IncludeLaunchDescription", "SetEnvironmentVariable", "SetLaunchConfiguration",
            "Shutdown",
        ),
        "launch.conditions": ("IfCondition",),
        "launch.substitutions": ("LaunchConfiguration", "PythonExpression"),
        "launch_ros": (),
        "launch_ros.actions": ("Node",),
        "launch_ros.parameter_descriptions": ("ParameterValue",),
    }  # fmt: skip

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, kinds in self.MODULES.items():
            module = ModuleType(name)
            for kind in kinds:
                setattr(module, kind, type(kind, (Action,), {"__init__": _keep}))
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.delitem(sys.modules, "vla_ros.ros.launching", raising=False)

    def run(self, name: str) -> SimpleNamespace:
        """The arguments that a launch file declares, by name, and what each node gets, by executable."""
        (actions,) = runpy.run_path(str(LAUNCH / name))["generate_launch_description"]().args
        by_kind = [(type(action).__name__, action) for action in actions]
        return SimpleNamespace(
            arguments={action.args[0]: action.kwargs for kind, action in by_kind if kind == "DeclareLaunchArgument"},
            nodes={
                action.kwargs["executable"]: action.kwargs["parameters"][0]
                for kind, action in by_kind
                if kind == "Node"
            },
            conditions={
                action.kwargs["executable"]: action.kwargs["condition"]
                for kind, action in by_kind
                if kind == "Node" and "condition" in action.kwargs
            },
            environments=[action.kwargs.get("additional_env") for kind, action in by_kind if kind == "Node"],
        )


def _keep(self: Action, *args: Any, **kwargs: Any) -> None:
    self.args, self.kwargs = args, kwargs


@pytest.fixture
def launched(monkeypatch):
    pytest.importorskip("rclpy")
    yield Stubs(monkeypatch)
    sys.modules.pop("vla_ros.ros.launching", None)


@pytest.mark.parametrize(
    ("executable", "kind"),
    [("policy_node", PolicyNodeParams), ("model_node", ModelNodeParams), ("view_node", ViewParams)],
)
def test_launch_passes_a_node_its_very_parameters_and_declares_each(launched, executable: str, kind: type):
    found = launched.run("policy.launch.py")
    in_launch = {name: one for name, one in declared_parameters(kind).items() if one.in_launch}
    assert set(found.nodes[executable]) == {*in_launch, "use_sim_time"}
    for name, one in in_launch.items():
        value = found.nodes[executable][name]
        assert value.args[0].args == (name,) and value.kwargs["value_type"] is type(one.default)
        assert found.arguments[name]["description"] == one.text
    # For trials and for fine tuning: a parameter file is the place for these.
    assert {item.name for item in fields(kind)} - set(in_launch) <= {"budgets_ms", "inference_delay_ms"}


def test_an_argument_says_what_may_be_given_and_what_is_taken_without_it(launched):
    arguments = launched.run("policy.launch.py").arguments
    assert arguments["strategy"]["choices"] == ("latest", "ensemble", "rtc")
    assert arguments["shadow"] == {
        "default_value": "true",
        "description": "Ask the policy while a human drives, too, so that it can take over again at once.",
        "choices": ("true", "false"),
    }
    assert arguments["control_rate_hz"]["default_value"] == "0.0"
    assert arguments["control_rate_hz"]["description"].endswith("0 or 1 to 1000 Hz.")
    assert arguments["autostart"]["default_value"] == "true", "a launched policy starts by itself"


def test_a_launch_without_a_policy_has_no_model_node(launched):
    found = launched.run("policy.launch.py").conditions
    assert set(found) == {"model_node", "task_node", "vla_ros", "view_node"}
    words = "".join(word if isinstance(word, str) else word.args[0] for word in found["model_node"].args[0].args[0])
    assert words == "'model' == 'true' and 'policy' != 'none'"
    assert PolicyNodeParams(policy="none").policy == "none"


@pytest.mark.parametrize(("in_force", "default"), [("", "subnet"), ("LOCALHOST", "localhost"), ("OFF", "off")])
def test_a_demo_is_found_on_this_machine_only_and_a_policy_as_far_as_ros_says(
    launched, monkeypatch, in_force: str, default: str
):
    monkeypatch.delenv("ROS_AUTOMATIC_DISCOVERY_RANGE", raising=False)
    if in_force:
        monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", in_force)
    assert launched.run("demo.launch.py").arguments["discovery"]["default_value"] == "localhost"
    argument = launched.run("policy.launch.py").arguments["discovery"]
    assert argument["default_value"] == default and {"localhost", "subnet", default} == set(argument["choices"])


@pytest.mark.parametrize("name", ["policy.launch.py", "demo.launch.py", "replay.launch.py", "robot.launch.py"])
def test_every_launched_node_is_told_whom_it_ends_with(launched, name: str):
    environments = launched.run(name).environments
    assert environments and all(one == {"VLA_ROS_PARENT": str(os.getpid())} for one in environments)


def test_a_replay_needs_a_bag_and_shares_the_robot_with_the_policy(launched):
    found = launched.run("replay.launch.py")
    assert found.arguments["bag"]["default_value"] is None
    assert set(found.nodes["player"]) == {"bag", "robot", "player", "clock_hz", "rate", "engage"}
    assert "robot" not in found.arguments and "robot" in launched.run("policy.launch.py").arguments


def test_a_launched_demo_has_a_scene_to_start_with(launched):
    found = launched.run("demo.launch.py")
    assert set(found.arguments) == {"seed", "discovery"} and set(found.nodes["sim_node"]) == {"robot", "seed"}


def test_a_launched_robot_is_played_by_a_fake_driver_and_needs_no_policy(launched):
    found = launched.run("robot.launch.py")
    assert set(found.nodes["fake_driver_node"]) == {"robot", "joint_states_rate_hz", "lag_s"}
    assert found.arguments["robot"]["default_value"] == "so101"
    assert (found.arguments["fake"]["default_value"], found.arguments["policy"]["default_value"]) == ("true", "none")
