"""Every packaged robot file is whole: its URDF, its controllers' settings, its page, its preset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from vla_ros.robot import load_robot

SOURCE = Path(__file__).parents[2]
ROBOTS = sorted(path.stem for path in (SOURCE / "config" / "robots").glob("*.yaml") if path.stem != "tabletop")


def settings(robot: str) -> dict[str, Any]:
    """The parameters of each node in the robot's controller file, by the node's name with its namespace."""

    def flat(document: dict[str, Any], where: str) -> dict[str, Any]:
        found = {}
        for key, value in document.items():
            name = f"{where}/{key}".strip("/")
            found |= {name: value["ros__parameters"]} if "ros__parameters" in value else flat(value, name)
        return found

    return flat(yaml.safe_load((SOURCE / "config" / "controllers" / f"{robot}.yaml").read_text()), "")


def test_there_are_four_and_each_has_a_page() -> None:
    assert ROBOTS == ["aloha", "franka_droid", "so101", "ur5e_robotiq"]
    for name in ROBOTS:
        page = " ".join((SOURCE / "docs" / "robots" / f"{name}.md").read_text().split())
        assert f"config/robots/{name}.yaml" in page and "Nothing here was tried on" in page
        assert f"robot:={name}" in page


@pytest.mark.parametrize("name", ROBOTS)
def test_its_controllers_have_the_joints_and_settings_that_check_expects(name: str) -> None:
    robot, controllers = load_robot(SOURCE / "config" / "robots" / f"{name}.yaml"), settings(name)
    for output in robot.outputs:
        controller = controllers[output.command_topic.rpartition("/")[0]]
        names = controller["joints"] if "joints" in controller else [controller["joint"]]
        assert tuple(names) == output.message_names
        for switch in output.kind.switches:
            assert controller[switch.name] is switch.expected, switch.name


@pytest.mark.parametrize("name", ROBOTS)
def test_ros_can_read_its_controllers_settings(name: str) -> None:
    rclpy = pytest.importorskip("rclpy")
    context = rclpy.Context()
    file = SOURCE / "config" / "controllers" / f"{name}.yaml"
    context.init(args=["--ros-args", "--params-file", str(file)])
    context.shutdown()


@pytest.mark.parametrize("name", ROBOTS)
def test_its_joints_are_within_the_urdf_and_slower_than_it_allows(name: str) -> None:
    robot = load_robot(SOURCE / "config" / "robots" / f"{name}.yaml")
    assert robot.urdf == f"{name}.urdf", "limits beyond the URDF's are refused at loading"
    assert all(camera.rate_hz for camera in robot.cameras)
    assert (robot.joint_values("upper") - robot.joint_values("lower") > 0.03).all()


def test_the_configuration_of_a_first_policy_fits_the_so101_and_its_preset() -> None:
    pytest.importorskip("torch")
    from vla_ros.training.config import load_train_config

    config = load_train_config(SOURCE / "config", "so101", [])
    robot = load_robot(SOURCE / "config" / "robots" / "so101.yaml")
    preset = yaml.safe_load((SOURCE / "config" / "spaces" / "so101_degrees.yaml").read_text())
    assert (config.data.joint_names, config.data.camera_names) == (robot.joint_names, robot.camera_names)
    assert [list(config.data.state), list(config.data.action)] == [preset["state"], preset["action"]]
    assert config.data.chunk_dt_s == preset["chunk_dt_s"]
    sizes = {(camera.height, camera.width) for camera in robot.cameras}
    assert sizes == {(config.processor.camera_height, config.processor.camera_width)}
