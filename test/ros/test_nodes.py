"""Both nodes as users run them: their lifecycle, their commands, and what they do with bad input."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from ros_harness import START_PATIENCE_S, NodeProcess, wait_until
from std_msgs.msg import UInt8MultiArray

from vla_ros.messages.times import time_to_ns

CONTROL = "vla_policy: control"


def values_of(graph) -> dict[str, str]:
    status = graph.probe.diagnostic(CONTROL)
    return {value.key: value.value for value in status.values} if status is not None else {}


def wait_for_hold_because(graph, *named: str) -> None:
    wait_until(lambda: graph.probe.mode() == "HOLD", "HOLD")
    wait_until(lambda: all(name in graph.probe.said(CONTROL) for name in named), f"{named} on /diagnostics")


def test_configure_and_activate_lead_to_hold_at_the_measured_joints(module_graph):
    probe = module_graph.probe
    start = np.linspace(-0.2, 0.2, probe.robot.num_joints)
    probe.positions = start.copy()
    for node in ("vla_model", "vla_policy"):
        assert probe.state(node) == "unconfigured"
        module_graph.bring(node, "active")
    wait_until(lambda: len(probe.commands) > 10 and probe.mode(), "commands and their mode")
    assert set(probe.modes) == {"HOLD"}
    for command in probe.commands:
        np.testing.assert_allclose(command.points[0].positions, start, atol=1e-9)
        assert len(command.points) == 1 and not any(command.points[0].velocities)


def test_without_an_instruction_engage_is_refused(module_graph):
    response = module_graph.probe.trigger("vla_policy/engage")
    assert not response.success
    assert "no instruction" in response.message or "vla_model is not heard" in response.message


def test_the_policy_drives_at_the_control_rate_while_the_model_infers(graph):
    graph.probe.drive(2)
    measured: list[tuple[float, float]] = []

    def is_steady() -> bool:
        """In 2 s in which a busy machine neither ended the drive nor lost commands on the way."""
        if graph.probe.mode() != "POLICY":
            graph.probe.drive(2)
        graph.probe.modes.clear()
        graph.probe.sent_s.clear()
        time.sleep(2.0)  # the length of the measurement
        periods_s = np.diff(graph.probe.sent_s)
        rate_hz, median_s = 1 / periods_s.mean(), np.median(periods_s)
        measured[-1:] = [(rate_hz, median_s)]
        is_at_rate = rate_hz == pytest.approx(50.0, rel=0.03) and median_s == pytest.approx(0.02, abs=0.001)
        return is_at_rate and set(graph.probe.modes) == {"POLICY"}

    try:
        wait_until(is_steady, "the policy's drive at 50 Hz", 60.0)
    except AssertionError as error:
        raise AssertionError(
            f"{error}; the last rate and median period: {measured}; {graph.policy_node.log}"
        ) from error
    stages = (
        "stamp_age",
        "preprocessing",
        "link",
        "queue",
        "copy_in",
        "prefix",
        "suffix",
        "copy_out",
        "inference",
        "switch",
    )
    names = ("control_period", "observation_age", *stages)
    keys = [f"{name}_ms_{share}" for name in names for share in ("p50", "p99", "max")]
    values = wait_until(lambda: set(keys) <= (v := values_of(graph)).keys() and v, f"{keys} on /diagnostics")
    assert all(float(values[key]) > 0 for key in keys)


def test_a_trajectory_is_what_controllers_take(graph):
    graph.probe.drive(2)
    wait_until(lambda: len(graph.probe.commands) > 20, "commands")
    commands = list(graph.probe.commands)
    limits = {joint.name: joint for joint in graph.probe.robot.joints}
    stamps_ns = np.array([time_to_ns(command.header.stamp) for command in commands])
    steps = np.diff(stamps_ns) / 20e6
    assert abs(time.time_ns() - stamps_ns[-1]) < 30e9 and (steps > 0.9).all()
    np.testing.assert_allclose(steps, np.round(steps), atol=0.05)  # whole ticks, however late they were sent
    for command in commands:
        assert tuple(command.joint_names) == graph.probe.robot.joint_names
        times_ns = [p.time_from_start.sec * 10**9 + p.time_from_start.nanosec for p in command.points]
        assert times_ns[0] == 20_000_000 and (np.diff(times_ns) > 0).all()
        assert not any(command.points[-1].velocities)
        for point in command.points:
            for name, position, velocity in zip(command.joint_names, point.positions, point.velocities, strict=True):
                assert limits[name].lower - 1e-9 <= position <= limits[name].upper + 1e-9
                assert abs(velocity) <= limits[name].max_velocity + 1e-9


def test_commands_keep_within_the_acceleration_limit(graph):
    graph.probe.drive(2)
    wait_until(lambda: any(any(command.points[0].velocities) for command in graph.probe.commands), "motion")
    graph.probe.trigger("vla_policy/hold")
    wait_until(lambda: graph.probe.mode() == "HOLD", "HOLD")
    wait_until(graph.probe.is_at_rest, "rest")
    commands = list(graph.probe.commands)
    velocities = np.array([command.points[0].velocities for command in commands])
    assert velocities.any()
    # A busy machine may lose commands on the way.
    num_ticks = np.round(np.diff([time_to_ns(command.header.stamp) for command in commands]) / 20e6)
    limits = graph.probe.robot.joint_values("max_acceleration")
    assert (np.abs(np.diff(velocities, axis=0)) <= 0.02 * limits * num_ticks[:, None] + 1e-6).all()


def test_hold_brings_the_arm_to_rest_at_a_fixed_command(graph):
    graph.probe.drive(2)
    assert graph.probe.trigger("vla_policy/hold").success
    wait_until(lambda: graph.probe.mode() == "HOLD", "HOLD")
    wait_until(graph.probe.is_at_rest, "rest")
    graph.probe.commands.clear()
    wait_until(lambda: len(graph.probe.commands) > 10, "commands")
    positions = np.array([command.points[0].positions for command in graph.probe.commands])
    assert (positions == positions[0]).all()
    wait_until(lambda: values_of(graph).get("why") == "asked to hold", "the reason on /diagnostics")


def test_a_chunk_is_stamped_with_the_time_of_an_image_it_was_made_from(graph):
    graph.probe.drive(3)
    stamps_ns = [c.header.stamp.sec * 10**9 + c.header.stamp.nanosec for c in graph.probe.chunks]
    assert set(stamps_ns) <= set(graph.probe.image_stamps_ns)
    assert (np.diff(stamps_ns) > 0).all()


def test_a_wrong_encoding_is_named_and_ends_policy(graph):
    graph.probe.drive(2)
    graph.probe.encoding = "16UC1"
    wait_for_hold_because(graph, "camera 'front'", "16UC1")
    refused = graph.probe.trigger("vla_policy/engage")
    assert not refused.success and "16UC1" in refused.message


def test_an_image_of_another_size_is_named(graph):
    graph.probe.image_size = (32, 64)
    wait_for_hold_because(graph, "camera 'front'", "64x32", "expected 32x24")


def test_a_camera_that_falls_silent_ends_policy_by_its_name(graph):
    graph.probe.drive(2)
    graph.probe.silent.add("top")
    wait_for_hold_because(graph, "camera 'top'")


def test_a_missing_joint_is_named_and_ends_policy(graph):
    graph.probe.drive(2)
    graph.probe.joint_names = graph.probe.joint_names[:-1]
    wait_for_hold_because(graph, "wrist")


def test_after_an_absence_of_seconds_the_policy_does_not_go_on_by_itself(graph):
    """Though the robot file's default is to recover from an overrun."""
    graph.probe.drive(2)
    graph.policy_node.pause(2.0)
    wait_for_hold_because(graph, "the control thread did not run for")
    wait_until(graph.probe.is_at_rest, "rest")
    graph.probe.commands.clear()
    wait_until(lambda: len(graph.probe.commands) > 100, "commands")
    held = [command.points[0].positions for command in graph.probe.commands]
    assert held == held[:1] * len(held) and graph.probe.mode() == "HOLD"


def test_a_policy_other_than_the_models_refuses_engage(graph, tmp_path):
    other = tmp_path / "other_policy"
    shutil.copytree(graph.policy_dir, other)
    config = other / "policy.yaml"
    config.write_text(config.read_text() + "\n# another policy\n")
    reconfigure(graph, other)
    try:
        graph.bring("vla_policy", "active")
        wait_until(lambda: graph.probe.commands, "commands")

        def is_refused_for_the_policy() -> bool:
            # Before the first status has come it is refused for that; it must never be granted.
            response = graph.probe.trigger("vla_policy/engage")
            assert not response.success
            return "give both nodes the same policy directory" in response.message

        wait_until(is_refused_for_the_policy, "a refusal that names the policy directory")
        assert graph.probe.mode() == "HOLD"
    finally:
        reconfigure(graph, graph.policy_dir)


@pytest.mark.parametrize(("node", "status"), [("vla_policy", CONTROL), ("vla_model", "vla_model: inference")])
def test_a_policy_directory_with_a_missing_file_fails_configure_in_one_line(graph, tmp_path, node, status):
    damaged = tmp_path / "damaged"
    shutil.copytree(graph.policy_dir, damaged)
    (damaged / "norm_stats.json").unlink()
    bring_to_unconfigured(graph, node)
    graph.probe.set_text(node, "policy", str(damaged))
    try:
        assert not graph.probe.change_state(node, "configure")
        assert graph.probe.state(node) == "unconfigured"
        wait_until(lambda: "norm_stats.json" in graph.probe.said(status), "the reason")
        assert "\n" not in graph.probe.said(status)
    finally:
        graph.probe.set_text(node, "policy", str(graph.policy_dir))


def test_an_impossible_transition_is_answered_and_the_node_lives(graph):
    assert not graph.probe.change_state("vla_policy", "configure")
    assert graph.probe.state("vla_policy") == "active"
    assert not graph.probe.change_state("vla_model", "cleanup")
    assert graph.probe.state("vla_model") == "active"


def test_garbage_on_the_link_is_refused_and_both_nodes_live(graph):
    graph.probe.drive(2)
    graph.probe.modes.clear()
    header = b'{"__metadata__":{"kind":"vla_ros request 1"}}'
    truncated = len(header).to_bytes(8, "little") + header
    with (
        graph.probe.publishing(UInt8MultiArray, "vla_model/request", 1) as requests,
        graph.probe.publishing(UInt8MultiArray, "vla_model/result", 1) as results,
    ):
        for payload in (b"", b"\x80\x04K\x01.", bytes(range(256)) * 4, truncated):
            for publisher in (requests, results):
                publisher.publish(UInt8MultiArray(data=payload))
            time.sleep(0.1)  # each topic keeps one message: real ones get through in between
        graph.probe.chunks.clear()
        wait_until(lambda: len(graph.probe.chunks) >= 2 and graph.probe.modes, "chunks and modes")
        assert set(graph.probe.modes) == {"POLICY"}, "the mode stays what it was"
        graph.probe.drive(2)
        assert graph.policy_node.is_running and graph.model_node.is_running


def test_a_model_that_stops_answering_ends_policy_and_can_come_back(graph):
    graph.probe.drive(2)
    assert graph.probe.change_state("vla_model", "deactivate")
    wait_for_hold_because(graph, "vla_model")
    refused = graph.probe.trigger("vla_policy/engage")
    assert not refused.success and "not active" in refused.message
    graph.bring("vla_model", "active")
    graph.probe.drive(2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_node_with_an_unusable_robot_says_so_and_ends_cleanly_on_a_signal(ros, tmp_path, policy_dir, number):
    parameters = {"autostart": "true", "robot": "no_such_robot", "policy": policy_dir}
    node = NodeProcess("nodes.policy_node", tmp_path / "node.log", {**parameters})
    try:
        wait_until(lambda: "robot 'no_such_robot'" in node.log, "the reason in the log", START_PATIENCE_S)
        assert node.is_running
    finally:
        code = node.stop(number)
    assert code == 0 and "Traceback" not in node.log


def reconfigure(graph, policy: Path) -> None:
    bring_to_unconfigured(graph, "vla_policy")
    graph.probe.set_text("vla_policy", "policy", str(policy))
    graph.probe.commands.clear()


def bring_to_unconfigured(graph, node: str) -> None:
    graph.bring(node, "inactive")
    if graph.probe.state(node) == "inactive":
        assert graph.probe.change_state(node, "cleanup")
