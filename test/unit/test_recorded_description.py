"""A robot file with ``urdf_topic`` beside bags: the URDF is the one that they have."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from fleet_helpers import SETTINGS
from replay_helpers import Said, commands, says, sensors, swing_policy, task, write_bag
from runtime_helpers import ROBOT

from vla_ros.cli import main
from vla_ros.recordings.description import describe_robot
from vla_ros.replay.fleet import plan as plan_module
from vla_ros.replay.fleet.plan import Plan, PlannedPolicy
from vla_ros.replay.fleet.run import replay_here
from vla_ros.replay.fleet.task import Task
from vla_ros.replay.session import SessionConfig
from vla_ros.strict import config_to_dict


def urdf(upper: float = 1.0) -> str:
    """Of the two joints."""
    joints = "".join(
        f'<joint name="{name}" type="revolute"><parent link="{parent}"/><child link="{child}"/>'
        f'<limit lower="{lower}" upper="{upper}" velocity="{velocity}" effort="1"/></joint>'
        for name, parent, child, lower, velocity in (("shoulder", "a", "b", -1.0, 1.5), ("elbow", "b", "c", -2.0, 1.0))
    )
    return f'<robot name="two">{"".join(f"<link name={link!r}/>" for link in "abc")}{joints}</robot>'


def described(text: str) -> Said:
    return says("/robot_description", 0.0, text)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    document = config_to_dict(ROBOT) | {"urdf_topic": "robot_description"}
    document["joints"] = [{"name": joint.name, "max_acceleration": 5.0} for joint in ROBOT.joints]
    path = tmp_path / "robot.yaml"
    path.write_text(
        yaml.safe_dump({key: value for key, value in document.items() if key not in ("urdf", "kinematics")})
    )
    return path


def test_the_limits_are_those_of_the_first_bag_that_has_them(tmp_path: Path, file: Path) -> None:
    silent = write_bag(tmp_path / "a", sensors(0.2))
    telling = write_bag(tmp_path / "b", sensors(0.2), described(urdf()))
    found = describe_robot(file, [silent, tmp_path / "nowhere", telling])
    assert found.bag == telling and found.robot.joint_limits == {"shoulder": (-1.0, 1.0), "elbow": (-2.0, 1.0)}
    left = write_bag(tmp_path / "c", [replace(described(urdf()), topic="/left/robot_description")])
    assert describe_robot(file, [left], "left").robot == found.robot
    again = write_bag(tmp_path / "d", described(urdf() + "<!-- renewed -->"))
    assert describe_robot(file, [tmp_path]).robot == describe_robot(file, [telling, again]).robot == found.robot


def test_where_no_bag_has_it_or_two_have_others_one_line_says_so(tmp_path: Path, file: Path) -> None:
    silent = write_bag(tmp_path / "a", sensors(0.2))
    expected = "expected one that vla_ros record recorded; else give urdf: FILE instead"
    with pytest.raises(ValueError, match=f"no bag here has a URDF on '/robot_description'; {expected}"):
        describe_robot(file, [silent])
    one, other = (write_bag(tmp_path / f"arm{upper}", described(urdf(upper))) for upper in (1.0, 2.0))
    with pytest.raises(
        ValueError, match=re.escape(f"bags {one} and {other} have other limits on '/robot_description'")
    ):
        describe_robot(file, [one, silent, other])
    broken = write_bag(tmp_path / "broken", described("<sdf/>"))
    with pytest.raises(ValueError, match="the URDF on topic 'robot_description' begins with <sdf>; expected <robot>"):
        describe_robot(file, [broken])


def test_recordings_are_checked_with_it(tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = (sensors(3.0), commands(3.0), task())
    bag = write_bag(tmp_path / "bag", *parts, described(urdf(0.5)))
    assert main(["check", str(bag), "--robot", str(file)]) == 0
    assert "limits -1.00 to 0.50" in capsys.readouterr().out
    silent = write_bag(tmp_path / "silent", *parts)
    for command in (["check", str(silent)], ["train", "--bags", str(silent), "--out", str(tmp_path / "out")]):
        assert main([*command, "--robot", str(file)]) == 2
        error = capsys.readouterr().err
        assert "no bag here has a URDF" in error and error.count("\n") == 1


def test_a_fleets_workers_have_it_too(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = PlannedPolicy("0.1", "0.1", "d1ce57", False, ROBOT.camera_names, {})
    monkeypatch.setattr(plan_module, "_look_at", lambda name, folder: planned)
    monkeypatch.setattr("vla_ros.replay.fleet.worker.load_replay_policy", lambda *_: swing_policy(0.1))
    bags = tuple(
        write_bag(tmp_path / name, sensors(1.5), commands(1.5), task(), *more)
        for name, more in (("silent", ()), ("telling", (described(urdf()),)))
    )
    robot = describe_robot(file, bags).robot
    plan = Plan.of(SessionConfig(bags, (Path("0.1"),), robot, SETTINGS), file)
    assert plan.described_by == str(bags[1]) and plan.robot() == robot
    (done,) = replay_here(plan, [Task(str(bags[0]), (0,))])
    assert done.results and not done.is_refused
