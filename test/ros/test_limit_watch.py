"""The judge that listens to every ROS test is heard when a limit is broken, and silent when none is."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from limit_watch import BATCH_SIZE
from ros_harness import ROBOT_FILE, Probe, assert_within_limits, wait_until
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vla_ros.bench.control.judge import LimitUse
from vla_ros.messages.trajectories import Trajectory, fill_trajectory
from vla_ros.robot import load_robot
from vla_ros.ros import qos

PERIOD_S = 0.02
REST = [0.0, 0.0, 0.0]


class Sender:
    """Commands of one point each, in a policy node's place."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        topic = probe.robot.outputs[0].command_topic
        self._publisher = probe.do(probe.node.create_publisher, JointTrajectory, topic, qos.REPORT)
        wait_until(lambda: self._publisher.get_subscription_count() == 2, "the probe and its judge")

    def send(self, positions: Sequence[float], velocities: Sequence[float] = REST) -> None:
        """And wait until it was heard."""
        num_before = len(self.probe.commands)
        self.publish(positions, velocities)
        # Both subscriptions are served by one thread, the judge's after this one's.
        wait_until(lambda: len(self.probe.commands) > num_before, "the command")

    def publish(self, positions: Sequence[float], velocities: Sequence[float] = REST) -> None:
        msg = JointTrajectory()
        point = Trajectory(0, np.array([PERIOD_S]), np.array([positions]), np.array([velocities]))
        fill_trajectory(msg, point, self.probe.robot.joint_names, JointTrajectoryPoint)
        self._publisher.publish(msg)


@pytest.fixture
def sender(ros: None) -> Iterator[Sender]:
    probe = Probe(load_robot(ROBOT_FILE), namespace="planted")
    yield Sender(probe)
    probe.close()


BROKEN = {
    "a position outside": [([0.0, 1.3, 0.0], REST)],
    "a velocity above its limit": [(REST, [0.0, 1.1, 0.0])],
    "a jump of the position": [(REST, REST), ([0.0, 0.0, 0.05], REST)],
    "a jump of the velocity": [(REST, REST), ([0.005, 0.0, 0.0], [0.5, 0.0, 0.0])],
}


@pytest.mark.parametrize("commands", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("num_before", [0, BATCH_SIZE - 1], ids=["at once", "over the edge of a batch"])
def test_a_broken_limit_fails_the_test_in_which_it_was_heard(sender, commands, num_before):
    for _ in range(num_before):
        sender.send(REST)
    for positions, velocities in commands:
        sender.send(positions, velocities)
    with pytest.raises(AssertionError, match="outside the robot file.*num_violations=1,"):
        wait_until(lambda: assert_within_limits(sender.probe), "the judge's word")
    assert_within_limits(sender.probe)  # it is told once


def test_a_command_that_cannot_be_read_fails_it_too(sender):
    sender.send([float("nan"), 0.0, 0.0])
    with pytest.raises(ValueError, match="not finite"):
        wait_until(lambda: assert_within_limits(sender.probe), "the judge's word")


def test_commands_within_the_limits_are_counted_and_pass(sender):
    for step in range(60):
        sender.send([0.001 * step, 0.0, 0.0], [0.05, 0.0, 0.0])
    uses: list[LimitUse] = []
    take = sender.probe.limits.take
    wait_until(lambda: uses.append(take()) or sum(use.num_commands for use in uses) == 60, "all of them")
    assert not any(use.num_violations for use in uses)
    assert 0.03 < max(use.velocity for use in uses) < 0.04, "50 mrad/s of 1.5 rad/s"


def test_a_robot_that_something_else_has_moved_starts_anew_however_late_that_is_heard(sender):
    may_hear = threading.Event()
    timer = sender.probe.do(sender.probe.node.create_timer, 0.0, may_hear.wait)
    for place in (0.0, 0.5, -0.5):
        sender.probe.limits.new_segment()
        sender.publish([place] * 3)
    may_hear.set()
    timer.cancel()
    wait_until(lambda: len(sender.probe.commands) == 3, "the commands")
    sender.send([-0.5] * 3)
    assert_within_limits(sender.probe)
