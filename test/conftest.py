"""A time limit for every test: one that hangs fails by its name, and the others still run. What several files' tests
share is made once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from vla_ros.robot import RobotConfig

TESTS = Path(__file__).parent
LIMITS_S = {"unit": 300, "ros": 600}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.pluginmanager.hasplugin("timeout"):
        return
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        # A limit of a test's own comes first.
        item.add_marker(pytest.mark.timeout(LIMITS_S[folder]))


@pytest.fixture(scope="session")
def robot() -> RobotConfig:
    """The demo's."""
    from vla_ros.robot import load_robot
    from vla_ros.share import robot_file

    return load_robot(robot_file("tabletop"))


@pytest.fixture(scope="session")
def bags(tmp_path_factory: pytest.TempPathFactory, robot: RobotConfig) -> list[Path]:
    """A few demonstrations."""
    from training_helpers import EPISODES

    from vla_ros.sim.demonstrations import write_demonstrations

    return list(write_demonstrations(tmp_path_factory.mktemp("bags"), robot, EPISODES))
