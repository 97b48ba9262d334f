"""The nodes' parameters by the parameter services: described, bounded, and refused where a change would not count."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from ros_harness import START_PATIENCE_S, NodeProcess, wait_until

from vla_ros.nodes.params import ModelNodeParams, PolicyNodeParams
from vla_ros.ros.parameters import declared_parameters


@contextmanager
def unconfigured(graph, node: str):
    graph.bring(node, "inactive")
    if graph.probe.state(node) == "inactive":
        assert graph.probe.change_state(node, "cleanup")
    yield
    graph.bring(node, "active")


@pytest.mark.parametrize(("node", "kind"), [("vla_policy", PolicyNodeParams), ("vla_model", ModelNodeParams)])
def test_every_parameter_describes_itself(module_graph, node, kind):
    for name, declared in declared_parameters(kind).items():
        described = module_graph.probe.describe_parameter(node, name)
        assert described.description == declared.text
        assert described.read_only is (name == "autostart")
        if declared.choices:
            assert described.additional_constraints == f"one of {', '.join(declared.choices)}"
        if declared.high is not None:
            ranges = [*described.floating_point_range, *described.integer_range]
            assert [found.to_value for found in ranges] == [declared.high]


@pytest.mark.parametrize(
    ("node", "name", "value"),
    [
        ("vla_policy", "control_rate_hz", 30.0),
        ("vla_policy", "strategy", "ensemble"),
        ("vla_policy", "handoff_ramp_s", 0.0),
        ("vla_policy", "budgets_ms", ["link=1"]),
        ("vla_model", "num_threads", 2),
    ],
)
def test_what_counts_at_configure_is_refused_afterwards_and_says_so(graph, node, name, value):
    for state in ("active", "inactive"):
        graph.bring(node, state)
        result = graph.probe.set_parameter(node, name, value)
        assert not result.successful
        assert f"parameter {name} takes effect at configure only" in result.reason and "\n" not in result.reason
    graph.bring(node, "active")


def test_the_value_it_has_may_be_set_again_at_any_time(graph):
    assert graph.probe.set_parameter("vla_policy", "control_rate_hz", 0.0).successful


def test_autostart_counts_at_the_start_of_the_process_only(graph):
    result = graph.probe.set_parameter("vla_policy", "autostart", True)
    assert not result.successful and "read-only" in result.reason


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("control_rate_hz", 0.5, "expected 0 or 1 to 1000 Hz"),
        ("control_rate_hz", 2000.0, "1000"),
        ("teleop_timeout_s", 0.0, "expected above 0, at most 5 s"),
        ("strategy", "best", "expected one of latest, ensemble, rtc"),
        ("robot", "nobody", "robot 'nobody'"),
        ("budgets_ms", ["link=fast"], "budgets_ms has 'link=fast'"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_with_what_was_expected(graph, name, value, words):
    with unconfigured(graph, "vla_policy"):
        result = graph.probe.set_parameter("vla_policy", name, value)
        assert not result.successful and words in result.reason


def test_a_rate_set_before_configure_is_the_rate_of_the_commands(graph):
    with unconfigured(graph, "vla_policy"):
        assert graph.probe.set_parameter("vla_policy", "control_rate_hz", 25).successful, "without a decimal point"
    try:
        graph.probe.commands.clear()
        wait_until(lambda: graph.probe.commands, "commands")
        time = graph.probe.commands[-1].points[0].time_from_start
        assert (time.sec, time.nanosec) == (0, 40_000_000)
    finally:
        with unconfigured(graph, "vla_policy"):
            assert graph.probe.set_parameter("vla_policy", "control_rate_hz", 0.0).successful


def test_a_node_started_with_a_value_out_of_bounds_lives_and_says_so(ros, tmp_path, policy_dir):
    parameters = {"autostart": "true", "policy": policy_dir, "control_rate_hz": "5000.0"}
    node = NodeProcess("nodes.policy_node", tmp_path / "node.log", parameters)
    try:
        line = "parameter control_rate_hz is 5000; expected 0 or 1 to 1000 Hz"
        wait_until(lambda: line in node.log, "the reason in the log", START_PATIENCE_S)
        assert node.is_running
    finally:
        assert node.stop() == 0
