"""What SROS 2 lets the two nodes do is what the topics table and the packaged robot file have."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from vla_ros import topics
from vla_ros.robot import load_robot
from vla_ros.robot.parts import OutputConfig
from vla_ros.share import robot_file, share_path

ROBOT = load_robot(robot_file("tabletop"))
SENSORS = {camera.topic for camera in ROBOT.cameras} | {ROBOT.joint_sources[0].topic, "robot_description"}
LINK_IN, LINK_OUT = {topics.REQUEST}, {topics.RESULT, topics.STATUS}
HEARD = {topics.TASK, topics.TELEOP, topics.ESTOP, topics.JOY, topics.CLOCK}
SAID = {topics.MODE, topics.CHUNK, topics.TRACE, topics.TASK, topics.DIAGNOSTICS}
# Of a robot with a gripper that is an action server, by the name that both interfaces have where the file gives none.
GRIPPER = OutputConfig("gripper", ("gripper",), "gripper_command")
SET_POINTS = {output.set_point_topic for output in (*ROBOT.outputs, GRIPPER)}
OF_ROS = {"parameter_events", "rosout", "vla_policy/transition_event", "vla_model/transition_event"}
# Of other programs: a recording's or the simulation's.
NOT_THE_NODES = {
    topics.EPISODE_MARKER,
    topics.GENERATION,
    topics.SIM_VIEW,
    topics.SIM_EPISODE,
    topics.SIM_BLOCKS,
    topics.SIM_RESET,
}
SERVICES = {topics.ENGAGE, topics.TAKEOVER, topics.HOLD, topics.RESET_ESTOP}


def names(of: set[topics.Topic] | set[topics.Service]) -> set[str]:
    return {one.name.lstrip("/") for one in of}


def allowed(node: str, what: str, how: str) -> set[str]:
    """The topics that a node may publish or subscribe to, or the services that it may offer."""
    document = ElementTree.parse(share_path("config/security/permissions.xml"))
    return {
        entry.text or ""
        for profile in document.iter("profile")
        if profile.get("node") == node
        for group in profile.iter(f"{what}s")
        if group.get(how) == "ALLOW"
        for entry in group.iter(what)
    }


def test_no_topic_or_service_of_the_table_is_left_out() -> None:
    topics_known = HEARD | SAID | LINK_IN | LINK_OUT | NOT_THE_NODES
    named = {value for value in vars(topics).values() if isinstance(value, topics.Topic | topics.Service)}
    assert named - topics_known - {topics.RUN_TASK} == SERVICES, "the action is another node's"


@pytest.mark.parametrize(
    ("node", "how", "expected"),
    [
        (topics.POLICY_NODE, "subscribe", names(HEARD | LINK_OUT) | SENSORS),
        (topics.POLICY_NODE, "publish", names(SAID | LINK_IN) | SET_POINTS),
        (topics.MODEL_NODE, "subscribe", names(LINK_IN | {topics.CLOCK})),
        (topics.MODEL_NODE, "publish", names(LINK_OUT | {topics.DIAGNOSTICS})),
    ],
)
def test_each_node_says_and_hears_what_the_table_has_and_nothing_else(node: str, how: str, expected: set[str]) -> None:
    assert allowed(node, "topic", how) - OF_ROS == expected


def test_only_the_policy_node_sends_goals_and_only_to_a_grippers_server() -> None:
    called = {node: allowed(node, "action", "call") for node in (topics.POLICY_NODE, topics.MODEL_NODE)}
    assert called == {topics.POLICY_NODE: {GRIPPER.command_topic}, topics.MODEL_NODE: set()}
    assert not allowed(topics.POLICY_NODE, "action", "execute")


def test_only_the_policy_node_offers_what_lets_somebody_drive() -> None:
    offered = {node: allowed(node, "service", "reply") for node in (topics.POLICY_NODE, topics.MODEL_NODE)}
    of_ros = {name for name in offered[topics.MODEL_NODE] if name.startswith("~/")}
    assert offered == {topics.POLICY_NODE: of_ros | names(SERVICES), topics.MODEL_NODE: of_ros}
