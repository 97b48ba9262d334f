"""Limits from a URDF: what fills a robot file, what contradicts it, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vla_ros.robot import load_robot, read_robot_file
from vla_ros.robot.parts import JointConfig
from vla_ros.strict import MAX_LINE
from vla_ros.urdf import UrdfJoint, parse_urdf

URDF = """<?xml version="1.0" encoding="utf-8"?>
<robot name="arm" xmlns:xacro="http://www.ros.org/wiki/xacro">
  <link name="base"/>
  <joint name="shoulder" type="revolute">
    <axis xyz="0 0 1"/>
    <limit lower="-1.5" upper="2" velocity="1.2" effort="10"/>
    <safety_controller soft_lower_limit="-1" soft_upper_limit="1" k_velocity="1"/>
  </joint>
  <joint name="wrist" type="continuous"><limit velocity="3" effort="1"/></joint>
  <joint name="gripper" type="prismatic"><limit upper="0.04" velocity="0.1" effort="1"/></joint>
  <joint name="exported" type="revolute"><limit lower="0" upper="0" velocity="0" effort="0"/></joint>
  <joint name="bare" type="revolute"/>
  <joint name="mount" type="fixed"/>
  <transmission name="t"><joint name="shoulder"><hardwareInterface>position</hardwareInterface></joint></transmission>
  <ros2_control name="c" type="system"><joint name="elsewhere"/></ros2_control>
</robot>
"""
ALL = {"lower": -1.0, "upper": 1.0, "max_velocity": 0.5}


def robot_with(tmp_path: Path, *joints: dict, urdf: str | bytes = URDF) -> Path:
    """A robot file and, in the folder beside it, its URDF."""
    (tmp_path / "urdf").mkdir(exist_ok=True)
    (tmp_path / "urdf" / "arm.urdf").write_bytes(urdf.encode() if isinstance(urdf, str) else urdf)
    entries = [{"max_acceleration": 5.0, **joint} for joint in joints]
    document = {
        "name": "arm",
        "urdf": "urdf/arm.urdf",
        "control_rate_hz": 50.0,
        "joints": entries,
        "cameras": [{"name": "front", "topic": "front", "width": 4, "height": 3, "max_age_s": 0.3}],
        "outputs": [{"name": "arm", "joints": [entry["name"] for entry in entries if "name" in entry]}],
    }
    path = tmp_path / "robot.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ValueError) as refused:
        load_robot(path)
    line = str(refused.value)
    assert "\n" not in line and str(path) in line
    return line


def test_limits_left_out_come_from_the_urdf(tmp_path):
    joint = load_robot(robot_with(tmp_path, {"name": "shoulder"})).joints[0]
    assert (joint.lower, joint.upper, joint.max_velocity, joint.max_acceleration) == (-1.5, 2.0, 1.2, 5.0)


@pytest.mark.parametrize("declared", ["utf-8", "ISO-8859-1"])
def test_a_comment_in_another_encoding_costs_nothing(tmp_path, declared):
    urdf = URDF.replace("utf-8", declared).replace('<link name="base"/>', '<link name="Fuß"/><!-- Größe -->')
    path = robot_with(tmp_path, {"name": "shoulder"}, urdf=urdf.encode("latin-1"))
    assert load_robot(path).joints[0].upper == 2.0


def test_limits_in_the_robot_file_come_first_each_by_itself(tmp_path):
    joint = load_robot(robot_with(tmp_path, {"name": "shoulder", "upper": 1.5})).joints[0]
    assert (joint.lower, joint.upper, joint.max_velocity) == (-1.5, 1.5, 1.2)


def test_a_robot_file_that_repeats_the_urdf_is_read(tmp_path):
    path = robot_with(tmp_path, {"name": "shoulder", "lower": -1.5, "upper": 2, "max_velocity": 1.2})
    assert load_robot(path).joints[0].upper == 2.0


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("lower", -1.6, "joint 'shoulder': lower is -1.6; expected at least -1.5"),
        ("upper", 2.000001, "joint 'shoulder': upper is 2.000001; expected at most 2.0"),
        ("max_velocity", 1.3, "joint 'shoulder': max_velocity is 1.3; expected at most 1.2"),
        ("upper", -1.7, "lower -1.5 is not below upper -1.7"),
        ("upper", "far", "robot.joints[0].upper is 'far'; expected a finite number"),
        ("upper", None, "robot.joints[0].upper is None; expected a finite number"),
    ],
)
def test_a_robot_file_that_contradicts_its_urdf_is_refused_by_both_values(tmp_path, key, value, named):
    assert named in refusal(robot_with(tmp_path, {"name": "shoulder", key: value}))


def test_a_continuous_joint_needs_its_positions_in_the_robot_file(tmp_path):
    line = refusal(robot_with(tmp_path, {"name": "wrist", "lower": -3.0}))
    assert "joint 'wrist', continuous, has no upper" in line and "give upper, max_velocity in the robot file" in line
    joint = load_robot(robot_with(tmp_path, {"name": "wrist", "lower": -9.0, "upper": 9.0})).joints[0]
    assert (joint.lower, joint.upper, joint.max_velocity) == (-9.0, 9.0, 3.0)


def test_of_two_position_limits_the_one_left_out_is_0(tmp_path):
    joint = load_robot(robot_with(tmp_path, {"name": "gripper"})).joints[0]
    assert (joint.lower, joint.upper) == (0.0, 0.04)


@pytest.mark.parametrize("name", ["exported", "bare"])
def test_limits_that_an_exporter_left_at_0_or_out_are_to_be_given(tmp_path, name):
    assert f"joint '{name}', revolute, has no lower" in refusal(robot_with(tmp_path, {"name": name}))
    assert load_robot(robot_with(tmp_path, {"name": name, **ALL})).joints[0].upper == 1.0


def test_a_joint_with_all_its_limits_may_be_missing_in_the_urdf(tmp_path):
    assert load_robot(robot_with(tmp_path, {"name": "hand", **ALL})).joints[0].max_velocity == 0.5
    line = refusal(robot_with(tmp_path, {"name": "hand", "lower": 0.0}))
    assert "joint 'hand' is not in URDF" in line and "shoulder, wrist, gripper" in line


def test_a_joint_that_does_not_move_is_refused(tmp_path):
    assert "joint 'mount' is fixed in URDF" in refusal(robot_with(tmp_path, {"name": "mount", **ALL}))


def test_only_joints_of_the_robot_itself_count():
    assert "elsewhere" not in parse_urdf(URDF, "URDF").joints
    assert parse_urdf(URDF, "URDF").joints["shoulder"] == UrdfJoint("revolute", -1.5, 2.0, 1.2)


BOMB = '<?xml version="1.0"?><!DOCTYPE r [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><robot name="&b;"/>'


@pytest.mark.parametrize(
    ("urdf", "named"),
    [
        (BOMB, "contains <!DOCTYPE"),
        (URDF.replace("<link", "<!ENTITY a 'b'><link"), "contains <!ENTITY"),
        ("", "not readable as XML"),
        ("joints: []", "not readable as XML"),
        (URDF[:-20], "not readable as XML"),
        (BOMB.encode("utf-16"), "not readable as XML"),
        (b"<robot>\0</robot>", "not readable as XML"),
        ("<sdf/>", "begins with <sdf>; expected <robot>"),
        (URDF.replace("<link", '<xacro:arm side="left"/><link'), "contains <xacro:arm>; expand it"),
        (URDF.replace('"2"', '"${pi / 2}"'), "joint 'shoulder' has upper '${pi / 2}'; expand it"),
        (URDF.replace('"2"', '"inf"'), "joint 'shoulder' has upper 'inf'; expected a finite number"),
        (URDF.replace('"2"', '"2 rad"'), "joint 'shoulder' has upper '2 rad'; expected a finite number"),
        (URDF.replace('"wrist"', '"shoulder"'), "has joint 'shoulder' twice"),
    ],
)
def test_a_file_that_is_no_expanded_urdf_is_refused_in_one_line(tmp_path, urdf, named):
    line = refusal(robot_with(tmp_path, {"name": "shoulder"}, urdf=urdf))
    assert named in line and "arm.urdf" in line


def test_a_urdf_with_a_byte_order_mark_is_read(tmp_path):
    path = robot_with(tmp_path, {"name": "shoulder"}, urdf=b"\xef\xbb\xbf" + URDF.encode())
    assert load_robot(path).joints[0].upper == 2.0


@pytest.mark.parametrize("place", ["urdf", "nowhere.urdf", "package://arm/urdf/arm.urdf", "arm\0.urdf"])
def test_a_place_without_a_urdf_is_refused(tmp_path, place):
    path = robot_with(tmp_path, {"name": "shoulder"})
    document = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**document, "urdf": place}))
    assert "URDF" in refusal(path)


def test_a_joint_without_a_name_is_refused_as_ever(tmp_path):
    missing = "robot.joints[1]: keys 'name', 'lower', 'upper', 'max_velocity' are missing"
    assert missing in refusal(robot_with(tmp_path, {"name": "shoulder"}, {}))


TOPIC = {"urdf_topic": "robot_description"}


def topic_file(tmp_path: Path, *joints: dict, **changes: object) -> Path:
    """A robot file whose limits come from a topic."""
    path = robot_with(tmp_path, *joints)
    document = yaml.safe_load(path.read_text())
    del document["urdf"]
    path.write_text(yaml.safe_dump(document | TOPIC | changes))
    return path


def test_limits_left_out_come_from_the_urdf_of_a_topic(tmp_path):
    file = read_robot_file(topic_file(tmp_path, {"name": "shoulder", "upper": 1.5}))
    assert file.urdf_topic == "robot_description"
    robot = file.robot(URDF)
    assert robot.joints[0] == JointConfig("shoulder", -1.5, 1.5, 1.2, 5.0)
    assert (robot.urdf, robot.urdf_topic) == ("", "robot_description")


def test_a_robot_file_without_a_topic_needs_none(tmp_path):
    assert read_robot_file(robot_with(tmp_path, {"name": "shoulder"})).urdf_topic == ""


def test_what_reads_no_topics_refuses_a_robot_file_whose_limits_come_from_one(tmp_path):
    line = refusal(topic_file(tmp_path, {"name": "shoulder", **ALL}))
    assert "urdf_topic is 'robot_description'" in line and "give urdf: FILE instead" in line


@pytest.mark.parametrize(
    ("text", "changes", "named"),
    [
        ("<sdf/>", {}, "the URDF on topic 'robot_description' begins with <sdf>; expected <robot>"),
        (BOMB, {}, "the URDF on topic 'robot_description' contains <!DOCTYPE"),
        (URDF.replace('name="shoulder"', 'name="elbow"'), {}, "joint 'shoulder' is not in the URDF on topic"),
        (URDF.replace('"2"', '"0.5"'), {}, "upper is 1.0; expected at most 0.5, as in the URDF on topic"),
        (URDF, {"urdf": "arm.urdf"}, "urdf is 'arm.urdf' and urdf_topic is 'robot_description'; expected one of them"),
        (URDF, {"urdf_topic": 3}, "keys 'lower', 'max_velocity' are missing"),
        (URDF, {"urdf_topics": "robot_description"}, "unknown key 'urdf_topics'"),
    ],
)
def test_a_topic_that_does_not_fit_its_robot_file_is_refused_in_one_line(tmp_path, text, changes, named):
    path = topic_file(tmp_path, {"name": "shoulder", "upper": 1.0}, **changes)
    with pytest.raises(ValueError) as refused:
        read_robot_file(path).robot(text)
    line = str(refused.value)
    assert named in line and str(path) in line and "\n" not in line


@pytest.mark.parametrize("long", ["name", "kind"])
def test_a_refusal_fits_one_line_however_long_a_joints_name_or_kind_is(long: str) -> None:
    name, kind = ("x" * 10_000, "floating") if long == "name" else ("lift", "x" * 10_000)
    joint = f'<joint name="{name}" type="{kind}"><parent link="base"/><child link="tip"/></joint>'
    urdf = parse_urdf(f'<robot name="arm"><link name="base"/><link name="tip"/>{joint}</robot>', "the URDF")
    for refused in (
        lambda: urdf.path("base", "tip"),
        lambda: urdf.check(name, 0.0, 1.0, 1.0),
        lambda: urdf.fill({"name": name}),
        lambda: urdf.fill({"name": "other"}),
    ):
        with pytest.raises(ValueError, match="joint") as error:
            refused()
        assert len(str(error.value)) <= MAX_LINE
