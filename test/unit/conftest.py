"""What is made once for the tests of several files."""

from __future__ import annotations

from pathlib import Path

import pytest

from vla_ros.robot import RobotConfig, load_robot
from vla_ros.share import robot_file


@pytest.fixture(scope="session")
def robot() -> RobotConfig:
    """The demo's."""
    return load_robot(robot_file("tabletop"))


@pytest.fixture(scope="session")
def bags(tmp_path_factory: pytest.TempPathFactory, robot: RobotConfig) -> list[Path]:
    """A few demonstrations."""
    from training_helpers import EPISODES

    from vla_ros.sim.demonstrations import write_demonstrations

    return list(write_demonstrations(tmp_path_factory.mktemp("bags"), robot, EPISODES))
