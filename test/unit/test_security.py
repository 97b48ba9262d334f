"""Security that the environment demands is had or named: ROS itself ends in a traceback, or in silence without it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from vla_ros.ros.security import keystore_problem

SOURCE = Path(__file__).parents[2]
ON = {"ROS_SECURITY_ENABLE": "true"}
ENFORCED = ON | {"ROS_SECURITY_STRATEGY": "Enforce"}


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({}, ""),
        ({"ROS_SECURITY_ENABLE": "false"}, ""),
        (ON, "ROS_SECURITY_ENABLE is true (Permissive) and ROS_SECURITY_KEYSTORE is not set"),
        (ENFORCED, "ROS_SECURITY_ENABLE is true (Enforce) and ROS_SECURITY_KEYSTORE is not set"),
        (ENFORCED | {"ROS_SECURITY_KEYSTORE": "/nowhere"}, "'/nowhere', which has no folder 'enclaves'"),
    ],
)
def test_a_keystore_that_is_missing_where_security_is_on_is_named(environment: dict[str, str], line: str) -> None:
    problem = keystore_problem(environment)
    assert line in problem and bool(problem) == bool(line)


def test_a_keystore_with_enclaves_is_taken(tmp_path: Path) -> None:
    (tmp_path / "enclaves").mkdir()
    assert not keystore_problem(ENFORCED | {"ROS_SECURITY_KEYSTORE": str(tmp_path)})


@pytest.mark.parametrize(
    ("environment", "code", "words"),
    [
        (ENFORCED, 2, "ROS security is required and not available: ROS_SECURITY_ENABLE is true (Enforce)"),
        (ENFORCED | {"ROS_SECURITY_KEYSTORE": "."}, 2, "ROS security is required and not available: "),
        (ON, 0, "nothing is protected: ROS_SECURITY_ENABLE is true (Permissive)"),
    ],
    ids=["no keystore", "a keystore without keys", "nothing to protect with"],
)
def test_a_program_says_in_one_line_what_security_is_missing(
    tmp_path: Path, environment: dict[str, str], code: int, words: str
) -> None:
    (tmp_path / "enclaves").mkdir()
    program = (
        "import sys\nfrom vla_ros.ros.security import start_ros\n"
        "try:\n    start_ros()\nexcept ValueError as error:\n    sys.exit(print(error, file=sys.stderr) or 2)"
    )
    ours = {key: value for key, value in os.environ.items() if key != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
    env = {**ours, "PYTHONPATH": str(SOURCE), "ROS_DOMAIN_ID": "99"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env | environment, cwd=tmp_path, capture_output=True, text=True
    )
    lines = [line for line in done.stderr.splitlines() if "[INFO]" not in line]
    assert done.returncode == code and len(lines) == 1 and words in lines[0], done.stderr
    assert "docs/security.md" in lines[0]
