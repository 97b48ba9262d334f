"""``vla_ros new robot``: a file that loads, whose comments say what nobody but its owner can know."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vla_ros.check.draft import TODO, Found, FoundCamera, FoundJoints, draft
from vla_ros.cli import main
from vla_ros.robot import RobotConfig, load_robot
from vla_ros.share import share_path

URDF = """<robot name="pair">
  <link name="base"/><link name="arm"/><link name="hand"/><link name="finger"/>
  <joint name="turn" type="continuous"><parent link="base"/><child link="arm"/></joint>
  <joint name="lift" type="revolute"><parent link="arm"/><child link="hand"/>
    <limit lower="-1" upper="2" velocity="3" effort="1"/></joint>
  <joint name="grip" type="prismatic"><parent link="hand"/><child link="finger"/>
    <limit lower="0" upper="0.04" velocity="0.1" effort="1"/></joint>
  <joint name="other grip" type="prismatic"><limit lower="0" upper="0.04" velocity="0.1" effort="1"/>
    <mimic joint="grip"/></joint>
  <joint name="bolt" type="fixed"/>
</robot>"""
NOTHING = Found("nothing")


def loaded(folder: Path, text: str, urdf: str = URDF) -> RobotConfig:
    (folder / "pair.urdf").write_text(urdf)
    (folder / "pair.yaml").write_text(text)
    return load_robot(folder / "pair.yaml")


def lines_about(text: str, what: str) -> str:
    return "\n".join(line for line in text.splitlines() if what in line)


def test_a_draft_without_a_graph_loads_and_marks_what_nobody_knows(tmp_path: Path) -> None:
    text = draft(URDF, "pair.urdf", NOTHING)
    robot = loaded(tmp_path, text)
    assert robot.name == "pair" and robot.joint_names == ("turn", "lift", "grip")
    assert robot.joint_limits["lift"] == (-1.0, 2.0) and robot.joint_limits["grip"] == (0.0, 0.04)
    assert f"{TODO} lower and upper and max_velocity: the URDF says nothing" in lines_about(text, "name: turn")
    assert "-1 to 2 rad, 3 rad/s" in lines_about(text, "name: lift") and TODO not in lines_about(text, "name: lift")
    slide = URDF.replace('type="continuous"', 'type="prismatic"')
    assert slide != URDF and loaded(tmp_path, draft(slide, "pair.urdf", NOTHING)).joint_limits["turn"] == (-0.05, 0.05)
    for what in (
        "control_rate_hz",
        "cameras that",
        "topic; no message",
        "nobody takes trajectories",
        "max_acceleration",
    ):
        assert TODO in lines_about(text, what), what
    assert "base: base, tip: finger" in lines_about(text, "# kinematics:")


def test_what_the_graph_has_stands_in_it(tmp_path: Path) -> None:
    found = Found(
        "3 s",
        (FoundCamera("front/image", False, 320, 240, 29.7), FoundCamera("wrist/compressed", True)),
        (FoundJoints("wheels", ("left", "right")), FoundJoints("arm/joint_states", ("lift", "turn"))),
        ("arm_controller/joint_trajectory",),
    )
    text = draft(URDF, "pair.urdf", found)
    robot = loaded(tmp_path, text)
    front, wrist = robot.cameras
    assert (front.topic, front.width, front.height, front.rate_hz) == ("front/image", 320, 240, 30.0)
    assert wrist.compressed and f"{TODO} its size: none came" in lines_about(text, "wrist/compressed")
    assert [source.topic for source in robot.joint_states] == ["arm/joint_states"], "wheels are of nobody's concern"
    assert f"{TODO} no message named grip" in text
    assert robot.outputs[0].command_topic == "arm_controller/joint_trajectory"


@pytest.mark.parametrize("name", ["so101", "ur5e_robotiq", "aloha", "franka_droid"])
def test_a_draft_of_each_packaged_urdf_loads(tmp_path: Path, name: str) -> None:
    urdf = share_path(f"config/robots/{name}.urdf").read_text()
    drafted = loaded(tmp_path, draft(urdf, "pair.urdf", NOTHING), urdf)
    packaged = load_robot(share_path(f"config/robots/{name}.yaml"))
    assert set(drafted.joint_names) == set(packaged.joint_names)
    assert {name: drafted.joint_limits[name] for name in packaged.joint_names} == packaged.joint_limits


@pytest.mark.parametrize("name", ["true", "1e5", "it's: one", "- {a}", "#", "no\nline"])
def test_a_joint_of_any_name_is_text_in_it(name: str) -> None:
    escaped = name.replace("'", "&apos;").replace("\n", "&#10;")
    urdf = f'<robot name="{escaped}"><joint name="{escaped}" type="continuous"/></robot>'
    document = yaml.safe_load(draft(urdf, "a b.urdf", NOTHING))
    assert document["joints"][0]["name"].split() == name.split() == document["name"].split()


@pytest.mark.parametrize(
    ("urdf", "line"),
    [
        ("<robot/>", "has no joint that moves"),
        ("joints: []", "is not readable as XML"),
        ("<robot xmlns:xacro='http://www.ros.org/wiki/xacro'><xacro:arm/></robot>", "expand it"),
    ],
)
def test_a_urdf_that_cannot_be_used_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], urdf: str, line: str
) -> None:
    (tmp_path / "arm.urdf").write_text(urdf)
    command = ["new", "robot", "--from-urdf", str(tmp_path / "arm.urdf"), "--out", str(tmp_path / "new.yaml")]
    assert main(command) == 2
    assert line in capsys.readouterr().err and not (tmp_path / "new.yaml").exists()


def test_a_file_that_is_there_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "arm.urdf").write_text(URDF)
    (tmp_path / "mine.yaml").write_text("mine")
    command = ["new", "robot", "--from-urdf", str(tmp_path / "arm.urdf"), "--out", str(tmp_path / "mine.yaml")]
    assert main(command) == 2 and "mine.yaml exists; give --out another name" in capsys.readouterr().err
    assert (tmp_path / "mine.yaml").read_text() == "mine"
