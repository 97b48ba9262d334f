"""What the package promises to pip, colcon and `ros2 run`; parts that need an installed package run in `make test`."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from xml.etree import ElementTree

import pytest

SOURCE = Path(__file__).parents[2]
PREFIX = Path(sys.prefix)
EXECUTABLES = (
    "fake_driver_node",
    "model_node",
    "policy_node",
    "sim_node",
    "teleop_joystick",
    "teleop_keyboard",
    "view_node",
    "vla_ros",
)
# Imported by another name than the package's, or part of another.
COMES_WITH = {
    "OpenGL": "pyopengl",
    "PIL": "pillow",
    "backports": "rosbags",
    "compression": "rosbags",
    "cv2": "opencv",
    "hydra": "hydra-core",
    "lz4": "rosbags",
    "omegaconf": "hydra-core",
    "pinocchio": "pin",
    "yaml": "pyyaml",
}
PAGES = ("CONTRIBUTING.md", *(str(path.relative_to(SOURCE)) for path in sorted((SOURCE / "docs").rglob("*.md"))))
needs_install = pytest.mark.skipif(
    not (PREFIX / "share" / "vla_ros" / "package.xml").is_file(), reason="vla_ros is not installed by pip: make setup"
)


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_package_xml_setup_and_changelog_say_the_same_version() -> None:
    version = ElementTree.parse(SOURCE / "package.xml").findtext("version")
    assert f'version="{version}"' in (SOURCE / "setup.py").read_text()
    newest = re.search(r"^(\d+\.\d+\.\d+) \(", (SOURCE / "CHANGELOG.rst").read_text(), re.MULTILINE)
    assert newest is not None and newest[1] == version


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page: str) -> None:
    named = set(re.findall(r"`((?:vla_ros|test|docs|config|constraints)/[\w./]*)`", (SOURCE / page).read_text()))
    assert named and {name for name in named if "NAME" not in name and not (SOURCE / name).exists()} == set()


def imported_packages() -> set[str]:
    """The top-level packages that the installed code and its launch files import, lazily too."""
    found = set()
    for folder in ("vla_ros", "launch"):
        for path in (SOURCE / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(), str(path))):
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module is not None:
                    found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"vla_ros"}


def test_every_imported_package_is_declared() -> None:
    """A ROS or Debian package in package.xml, any other in setup.py."""
    depends = {node.text for node in ElementTree.parse(SOURCE / "package.xml").iter("exec_depend")}
    setup = ast.parse((SOURCE / "setup.py").read_text())
    lists = [node.value for node in ast.walk(setup) if isinstance(node, ast.keyword) and "require" in str(node.arg)]
    strings = [node.value for value in lists for node in ast.walk(value) if isinstance(node, ast.Constant)]
    by_pip = {normalised(re.match(r"[\w-]+", text)[0]) for text in strings if re.match(r"[A-Za-z]", text)}
    declared = depends | by_pip | {name.removeprefix("python3-") for name in depends}
    missing = {name for name in imported_packages() - COMES_WITH.keys() if not {name, normalised(name)} & declared} | {
        name for name, package in COMES_WITH.items() if package not in declared
    }
    assert missing == set()


@needs_install
@pytest.mark.parametrize("folder", ["launch", "config", "models"])
def test_every_file_of_a_share_folder_is_installed(folder: str) -> None:
    files = [path for path in (SOURCE / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    source = {path.relative_to(SOURCE) for path in files}
    installed = {path for path in source if (PREFIX / "share" / "vla_ros" / path).is_file()}
    assert source - installed == set()


@needs_install
def test_the_ament_index_knows_the_package() -> None:
    assert (PREFIX / "share" / "ament_index" / "resource_index" / "packages" / "vla_ros").is_file()


@needs_install
@pytest.mark.parametrize("name", EXECUTABLES)
def test_ros2_run_finds_an_executable_that_leads_to_the_installed_one(name: str) -> None:
    wrapper = PREFIX / "lib" / "vla_ros" / name
    assert os.access(wrapper, os.X_OK) and os.access(PREFIX / "bin" / name, os.X_OK)
    assert f"bin/{name}" in wrapper.read_text()


@needs_install
def test_the_command_line_says_its_version() -> None:
    version = ElementTree.parse(SOURCE / "package.xml").findtext("version")
    run = subprocess.run([PREFIX / "bin" / "vla_ros", "--version"], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, f"vla_ros {version}\n")


@needs_install
def test_type_checkers_are_told_that_the_package_has_types() -> None:
    assert "vla_ros/py.typed" in {str(path) for path in distribution("vla_ros").files or []}


@needs_install
def test_the_wrapper_of_the_command_line_passes_arguments_and_the_exit_code_on() -> None:
    run = subprocess.run([PREFIX / "lib" / "vla_ros" / "vla_ros", "no_such_command"], capture_output=True, text=True)
    assert run.returncode == 2
    assert "no_such_command" in run.stderr


@pytest.mark.parametrize("ros", ["kilted", "jazzy"])
def test_every_requirement_is_pinned(ros: str) -> None:
    try:
        requirements = distribution("vla_ros").requires or []
    except PackageNotFoundError:
        pytest.skip("vla_ros is not installed: make setup")
    # LeRobot has an environment of its own: another Python, an older torch.
    requirements = [requirement for requirement in requirements if 'extra == "lerobot"' not in requirement]
    lines = (SOURCE / "constraints" / f"{ros}.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[a-z0-9-]+==[A-Za-z0-9.]+", line)] == []
    pinned = {line.partition("==")[0] for line in pins}
    names = {normalised(re.match(r"[A-Za-z0-9._-]+", requirement)[0]) for requirement in requirements}
    other = "ros-jazzy-" if ros == "kilted" else "ros-kilted-"
    assert {name for name in names if not name.startswith(other)} - pinned == set()
