"""The gamepad's node, before a node that answers as the policy node does."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np
import pytest
from fake_policy_node import HERE, FakePolicyNode
from ros_harness import ROBOT_FILE, START_PATIENCE_S, NodeProcess, wait_until
from sensor_msgs.msg import Joy

from vla_ros.ros import qos

DEADMAN = 4


class Gamepad:
    """Publishes what ``axes`` and ``down`` say, 20 times a second."""

    def __init__(self, fake: FakePolicyNode) -> None:
        self.axes, self.down = [0.0] * 8, set[int]()
        self._publisher = fake.do(fake.node.create_publisher, Joy, "joy", qos.JOINT_STATES)
        fake.do(fake.node.create_timer, 0.05, self._publish)

    def _publish(self) -> None:
        self._publisher.publish(Joy(axes=array("f", self.axes), buttons=[int(i in self.down) for i in range(11)]))


@pytest.fixture
def fake(ros: None) -> Iterator[FakePolicyNode]:
    fake = FakePolicyNode()
    yield fake
    fake.close()


def test_it_drives_while_the_dead_man_button_is_held_and_says_what_it_moves(fake, tmp_path):
    gamepad = Gamepad(fake)
    node = NodeProcess("teleop.joystick", tmp_path / "log", {"robot": ROBOT_FILE, "next_button": 5})
    try:
        wait_until(lambda: "the axes move base, shoulder, wrist" in node.log, "its first line", START_PATIENCE_S)
        wait_until(lambda: fake.node.count_publishers("/vla_policy/teleop"), "its publisher")
        gamepad.axes[0] = 1.0
        wait_until(lambda: fake.node.count_subscribers("/joy"), "its subscription")
        gamepad.down = {DEADMAN}
        wait_until(lambda: len(fake.trajectories) > 20 and "takeover" in fake.calls, "targets")
        positions = np.array([msg.points[0].positions for msg in fake.trajectories])
        assert (np.diff(positions[:, 0]) >= 0).all() and positions[-1, 0] > positions[0, 0]
        np.testing.assert_allclose(positions[:, 1:], np.tile(HERE[1:], (len(positions), 1)))
        gamepad.down = set()
        wait_until(lambda: fake.mode == "HOLD", "HOLD, after silence")
        gamepad.axes = [0.0] * 2
        wait_until(
            lambda: "'joy': it has 2 axes and 11 buttons; expected more than axis 7" in node.log, "what it lacks"
        )
    finally:
        code = node.stop()
    assert code == 0, node.log


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"axes": "['1', 'x']"}, "parameter axes has 'x'; expected the index of an axis"),
        ({"tip_axes": "['1']"}, "parameter tip_axes has 1 axes; expected 6"),
        ({"robot": "/no/such.yaml"}, "/no/such.yaml"),
    ],
)
def test_it_says_in_one_line_why_it_cannot_start(ros, tmp_path, parameters, said):
    node = NodeProcess("teleop.joystick", tmp_path / "log", {"robot": ROBOT_FILE, **parameters})
    wait_until(lambda: not node.is_running, "its end", START_PATIENCE_S)
    lines = [line for line in node.log.splitlines() if line.startswith("teleop_joystick: ")]
    assert node.stop() == 2 and len(lines) == 1 and said in lines[0], node.log
