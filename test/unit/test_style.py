"""Every file is laid out alike, and a linter finds nothing in it."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ruff")
SOURCE = Path(__file__).parents[2]


@pytest.mark.parametrize("arguments", [["check", "--quiet"], ["format", "--check", "--quiet"]], ids=["lint", "format"])
def test_ruff_has_nothing_to_say(arguments: list[str]) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "ruff", *arguments, "--no-cache", SOURCE], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
