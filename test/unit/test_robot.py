"""Robot files: what is read, and what is refused in one line."""

from pathlib import Path

import pytest
import yaml

from vla_ros.robot import load_robot
from vla_ros.share import robot_file


def document() -> dict:
    return yaml.safe_load(robot_file("tabletop").read_text())


def written(tmp_path: Path, changed: dict) -> Path:
    path = tmp_path / "robot.yaml"
    path.write_text(yaml.safe_dump(changed))
    return path


def test_the_packaged_robot_is_read_in_the_order_of_its_file():
    robot = load_robot(robot_file("tabletop"))
    assert robot.joint_names[0] == "base_yaw" and robot.num_joints == 6
    assert robot.camera_names == ("front", "top")
    assert robot.outputs[0].command_topic == "joint_trajectory_controller/joint_trajectory"
    assert robot.joint_values("max_velocity").shape == (6,)


def test_an_output_without_a_topic_gets_its_controllers_usual_one(tmp_path):
    changed = document()
    changed["outputs"][0] = {"name": "arm", "interface": "forward", "joints": changed["outputs"][0]["joints"]}
    assert load_robot(written(tmp_path, changed)).outputs[0].command_topic == "forward_position_controller/commands"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda d: d.update(contol_rate_hz=50.0), "unknown key 'contol_rate_hz'"),
        (lambda d: d["joints"][0].pop("upper"), "'upper' is missing"),
        (lambda d: d["joints"][0].update(lower=2.0), "lower 2.0 is not below upper"),
        (lambda d: d["joints"][0].update(max_velocity=0), "max_velocity is 0; expected a number above 0"),
        (lambda d: d["joints"][0].update(max_velocity="fast"), "expected a finite number"),
        (lambda d: d["joints"][1].update(name="base_yaw"), "'base_yaw' is named twice"),
        (lambda d: d["outputs"][0]["joints"].append("elbow"), "unknown joint 'elbow'"),
        (lambda d: d["outputs"][0]["joints"].remove("gripper"), "'gripper' is in no output"),
        (lambda d: d["outputs"][0].update(interface="effort"), "interface is 'effort'"),
        (lambda d: d["outputs"][0].update(stamp="now"), "stamp is 'now'; expected one of tick, zero"),
        (lambda d: d["outputs"][0].update(lead_periods=3), "lead_periods is '3'; expected one of 1, 2"),
        (
            lambda d: d["outputs"][0].update(interface="forward", lead_periods=2),
            "lead_periods is given for",
        ),
        (
            lambda d: d["outputs"][0].update(interface="velocity", stamp="zero"),
            "stamp is given for",
        ),
        (lambda d: d["outputs"][0].update(min_change=0.1), "min_change is given for interface 'trajectory'"),
        (lambda d: d["outputs"][0].update(interface="gripper_command"), "expected one joint"),
        (lambda d: d["outputs"][0].update(rename={"a": "grip"}), "output 'arm': rename: unknown joint 'grip'"),
        (lambda d: d["outputs"][0].update(rename={"gripper": "wrist_roll"}), "after rename, joint 'gripper' is named"),
        (lambda d: d["outputs"][0].update(interface="forward", rename={"a": "gripper"}), "rename is given for"),
        (lambda d: d["outputs"].append({"name": "hand", "joints": []}), "output 'hand': joints is empty"),
        (lambda d: d["joints"][5].update(fixed=True), "output 'arm' drives joint 'gripper', which is fixed"),
        (lambda d: d["cameras"][0].update(rate_hz=0), "camera 'front': rate_hz is 0; expected a number above 0"),
        (
            lambda d: d["outputs"].append({"name": "hand", "joints": [d["outputs"][0]["joints"].pop()]}),
            "outputs 'arm' and 'hand' both command 'joint_trajectory_controller/joint_trajectory'",
        ),
        (lambda d: d.update(control_rate_hz=0.0), "expected 1 to 1000"),
        (lambda d: d.update(cameras=[]), "at least one entry"),
        (lambda d: d["cameras"][0].update(width=0), "camera 'front': width is 0; expected a number above 0"),
        (lambda d: d["joints"][0].update(max_jerk=15.9), "max_jerk is 15.9; expected at least 2 times"),
        (lambda d: d["joints"][0].update(max_jerk="little"), "expected a finite number"),
        (lambda d: d.update(urdf=3), "robot.urdf is 3; expected a string"),
        (lambda d: d.update(urdf="nowhere.urdf"), "nowhere.urdf: No such file"),
    ],
)
def test_a_contradictory_robot_file_is_refused_by_file_and_key(tmp_path, change, named):
    changed = document()
    change(changed)
    path = written(tmp_path, changed)
    with pytest.raises(ValueError) as refused:
        load_robot(path)
    assert named in str(refused.value) and str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_every_missing_key_is_listed_in_one_line(tmp_path):
    changed = document()
    del changed["name"], changed["control_rate_hz"], changed["joints"][1]["upper"], changed["cameras"][0]["topic"]
    with pytest.raises(ValueError) as refused:
        load_robot(written(tmp_path, changed))
    assert str(refused.value).endswith(
        "robot: keys 'name', 'control_rate_hz' are missing; robot.joints[1]: key 'upper' is missing; "
        "robot.cameras[0]: key 'topic' is missing"
    )


def test_a_misspelled_key_is_named_and_not_the_one_it_leaves_out(tmp_path):
    changed = document()
    changed["joints"][0]["uper"] = changed["joints"][0].pop("upper")
    with pytest.raises(ValueError, match=r"robot.joints\[0\]: unknown key 'uper'"):
        load_robot(written(tmp_path, changed))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"watchdogs": {"camera": "stop"}}, "watchdogs.camera is 'stop'; expected one of hold, recover"),
        ({"watchdogs": {"max_recovery_s": 0}}, "watchdogs.max_recovery_s is 0; expected a number above 0"),
        ({"joint_states": {"max_age_s": -1}}, "joint_states.max_age_s is -1; expected a number above 0"),
        ({"max_camera_skew_s": 0}, "max_camera_skew_s is 0; expected a number above 0"),
    ],
)
def test_a_value_that_cannot_work_is_refused_with_what_it_is(tmp_path, change, named):
    with pytest.raises(ValueError, match=named):
        load_robot(written(tmp_path, document() | change))


ARM = ["base_yaw", "shoulder_pitch", "elbow_pitch", "wrist_pitch", "wrist_roll"]
HAND = {"topic": "hand/joint_states", "joints": ["gripper"], "rename": {"finger": "gripper"}, "max_age_s": 0.5}
TWO_SOURCES = [{"topic": "arm/joint_states", "joints": ARM}, HAND]


def test_joint_states_come_from_several_sources_each_with_its_age(tmp_path):
    robot = load_robot(written(tmp_path, document() | {"joint_states": TWO_SOURCES}))
    assert [source.max_age_s for source in robot.joint_sources] == [0.2, 0.5]
    assert robot.joint_sources[1].message_names == ("finger",)


def test_one_source_holds_every_joint_whether_it_is_given_as_a_list_or_not(tmp_path):
    alone = {"topic": "joint_states", "rename": {"jaw": "gripper"}}
    for given in (alone, [alone]):
        (source,) = load_robot(written(tmp_path, document() | {"joint_states": given})).joint_sources
        assert source.joints == (*ARM, "gripper") and source.message_names == (*ARM, "jaw")


@pytest.mark.parametrize(
    ("sources", "named"),
    [
        ([], "joint_states is empty"),
        ([{}, HAND], "joint_states on 'joint_states': joints are missing"),
        ([{"joints": [*ARM, "gripper"]}, HAND], "'gripper' comes from joint_states on 'joint_states' and from"),
        ([{"joints": ARM}], "joint 'gripper' comes from no source"),
        ([{"joints": [*ARM, "grip"]}, HAND], "unknown joint 'grip'"),
        ([{"joints": ARM, "rename": {"a": "gripper"}}, HAND], "rename: unknown joint 'gripper'"),
        ({"rename": {"a": "gripper", "b": "gripper"}}, "in rename, joint 'gripper' is named twice"),
        ({"rename": {"gripper": "wrist_roll"}}, "'gripper' of a message is both 'wrist_roll' and 'gripper'"),
        ({"rename": {"a": 3}}, r"joint_states[0].rename.a is 3; expected a string"),
        ({"rename": ["a"]}, "expected a mapping"),
    ],
)
def test_sources_of_joint_states_that_contradict_are_refused(tmp_path, sources, named):
    with pytest.raises(ValueError) as refused:
        load_robot(written(tmp_path, document() | {"joint_states": sources}))
    assert named in str(refused.value) and "\n" not in str(refused.value)


def test_names_of_messages_may_be_each_others(tmp_path):
    swapped = {"rename": {"gripper": "wrist_roll", "wrist_roll": "gripper"}}
    (source,) = load_robot(written(tmp_path, document() | {"joint_states": swapped})).joint_sources
    assert source.message_names[-2:] == ("gripper", "wrist_roll")


def test_a_controller_may_have_names_of_its_own(tmp_path):
    changed = document()
    changed["outputs"][0]["rename"] = {"finger": "gripper"}
    (arm,) = load_robot(written(tmp_path, changed)).outputs
    assert arm.joints[-1] == "gripper" and arm.message_names == (*ARM, "finger")


def test_a_fixed_joint_is_measured_and_in_no_output(tmp_path):
    changed = document()
    changed["joints"][5]["fixed"] = True
    changed["outputs"][0]["joints"].remove("gripper")
    robot = load_robot(written(tmp_path, changed))
    assert robot.joint_names == (*ARM, "gripper") and robot.driven_names == tuple(ARM)


def test_a_gripper_has_an_action_and_set_points_beside_it(tmp_path):
    changed = document()
    changed["outputs"][0]["joints"].remove("gripper")
    changed["outputs"].append({"name": "hand", "interface": "parallel_gripper", "joints": ["gripper"], "max_effort": 5})
    hand = load_robot(written(tmp_path, changed)).outputs[1]
    assert hand.command_topic == "gripper_controller/gripper_cmd"
    assert hand.set_point_topic == "gripper_controller/gripper_cmd/set_points"
    changed["outputs"][1]["min_change"] = 50
    with pytest.raises(ValueError, match="output 'hand': min_change is 50, joint 'gripper' moves by .*; expected less"):
        load_robot(written(tmp_path, changed))


LEFT = {"type": "joint_states", "topic": "a", "joints": ["base_yaw"]}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kinematics": {"urdf": "no.urdf", "base": "a", "tip": "b"}}, "no.urdf: No such file"),
        ({"kinematics": {"urdf": "no.urdf", "base": "a", "tip": "a"}}, "base and tip are both 'a'"),
        ({"teleop": {"type": "spacemouse"}}, "teleop.type is 'spacemouse'; expected one of"),
        ({"teleop": {"rename": {"a": "gripper"}}}, "teleop.rename is given for type 'joint_trajectory'"),
        ({"teleop": {"type": "joint_states", "sign": {"grip": -1}}}, "teleop.sign: unknown joint 'grip'"),
        ({"teleop": {"type": "joint_states", "rename": {"a": "grip"}}}, "teleop: rename: unknown joint 'grip'"),
        (
            {"teleop": {"type": "joint_states", "rename": {"base_yaw": "gripper"}}},
            "teleop: after rename, joint 'base_yaw' is named twice",
        ),
        (
            {"teleop": {"type": "joint_states", "rename": {"a": "gripper", "b": "gripper"}}},
            "teleop: rename: joint 'gripper' is named twice",
        ),
        ({"teleop": {"type": "joint_states", "sign": {"gripper": 2}}}, "teleop.sign of 'gripper' is 2; expected 1 or"),
        ({"teleop": {"type": "joint_states", "scale": {"gripper": 0}}}, "teleop.scale of 'gripper' is 0; expected"),
        ({"teleop": {"type": "joint_states", "max_distance": 0}}, "teleop.max_distance is 0; expected a number above"),
        ({"teleop": [LEFT, {"topic": "b"}]}, "teleop: one of 2 has type 'joint_trajectory', topic 'b' and 0 joints"),
        ({"teleop": [LEFT, LEFT | {"joints": ["gripper"]}]}, "teleop: topic 'a' is named twice"),
        ({"teleop": [LEFT, LEFT | {"topic": "b"}]}, "teleop: joint 'base_yaw' is named twice"),
        ({"teleop": [LEFT | {"sign": {"gripper": 1}}]}, "teleop.sign: unknown joint 'gripper'; joints are base_yaw"),
        ({"teleop": []}, "teleop is empty"),
    ],
)
def test_kinematics_and_teleoperation_that_cannot_work_are_refused(tmp_path, change, named):
    with pytest.raises(ValueError) as refused:
        load_robot(written(tmp_path, document() | change))
    assert named in str(refused.value) and "\n" not in str(refused.value)


def test_the_urdf_of_kinematics_is_beside_the_robot_file_and_has_its_links(tmp_path):
    joint = "<joint name='gripper' type='{}'><parent link='base'/><child link='hand'/></joint>"
    links = "<link name='base'/><link name='hand'/><link name='table'/>"
    urdf, kinematics = tmp_path / "arm.urdf", {"urdf": "arm.urdf", "base": "base", "tip": "hand"}
    urdf.write_text(f"<robot name='arm'>{links}{joint.format('revolute')}</robot>")
    loaded = load_robot(written(tmp_path, document() | {"kinematics": kinematics})).kinematics
    assert loaded is not None and loaded.urdf == str(urdf)
    for change, named in (
        (
            {"tip": "finger"},
            "kinematics: tip is 'finger', which the URDF doesn't have; expected one of base, hand, table",
        ),
        ({"base": "table"}, "kinematics: base 'table' does not carry tip 'hand'"),
    ):
        with pytest.raises(ValueError, match=named):
            load_robot(written(tmp_path, document() | {"kinematics": kinematics | change}))
    urdf.write_text(urdf.read_text().replace("gripper", "mast"))
    with pytest.raises(ValueError, match="kinematics: the chain from 'base' to 'hand' goes through joint 'mast'; add"):
        load_robot(written(tmp_path, document() | {"kinematics": kinematics}))
    urdf.write_text(f"<robot name='arm'>{links}{joint.format('floating')}</robot>")
    with pytest.raises(ValueError, match="kinematics: joint 'gripper' is floating; expected one that turns or slides"):
        load_robot(written(tmp_path, document() | {"kinematics": kinematics}))


def test_jerk_is_limited_where_the_robot_file_says_so(tmp_path):
    changed = document()
    changed["joints"][0]["max_jerk"] = 80
    first, second = load_robot(written(tmp_path, changed)).joints[:2]
    assert first.max_jerk == 80.0 and second.max_jerk is None


@pytest.mark.parametrize("content", [b"joints: [", b"\xff\xfe\x00", b"", b"- 1"])
def test_a_file_that_is_no_robot_file_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "robot.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError) as refused:
        load_robot(path)
    assert "\n" not in str(refused.value)


def test_a_missing_robot_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere.yaml"):
        load_robot(tmp_path / "nowhere.yaml")
