"""Every file is laid out alike, a linter finds nothing in it, nor a type checker in what moves the robot."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ruff")
SOURCE = Path(__file__).parents[2]
TYPED = ("types.py", "robot", "wire.py", "spaces", "observing", "runtime", "transforms", "messages")


@pytest.mark.parametrize("arguments", [["check", "--quiet"], ["format", "--check", "--quiet"]], ids=["lint", "format"])
def test_ruff_has_nothing_to_say(arguments: list[str]) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "ruff", *arguments, "--no-cache", SOURCE], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_mypy_has_nothing_to_say_of_what_moves_the_robot() -> None:
    pytest.importorskip("mypy")
    paths = [SOURCE / "vla_ros" / name for name in TYPED]
    run = subprocess.run(
        [sys.executable, "-m", "mypy", *(path for path in paths if path.exists())],
        capture_output=True,
        text=True,
        cwd=SOURCE,
    )
    assert run.returncode == 0, run.stdout + run.stderr
