"""Two runs are never in one folder, and a run that was killed keeps nobody out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from training_helpers import run, small_config

from vla_ros.training.lock import LOCK, locked

# A run with a child that outlives it.
HOLDER = """
import subprocess, sys
from pathlib import Path
from vla_ros.training.lock import locked
with locked(Path(sys.argv[1])):
    child = subprocess.Popen(["sleep", "600"], close_fds=False, stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    sys.stdin.read()
    child.kill()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that trains in ``tmp_path/run``."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        yield process
        process.kill()
        subprocess.run(["kill", "-9", str(child)], stderr=subprocess.DEVNULL, check=False)


def test_a_second_run_in_a_folder_is_refused_with_the_others_pid_before_bags_are_read(
    bags: list[Path], tmp_path: Path, other: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vla_ros.training.run.load_bags", lambda *args: pytest.fail("bags were read"))
    with pytest.raises(ValueError, match=rf"run: process {other.pid} on \S+ trains in it; expected one run") as refused:
        run(small_config(tmp_path, bags))
    assert "\n" not in str(refused.value) and [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]


def test_a_killed_run_leaves_no_lock_even_where_a_child_of_it_lives_on(
    tmp_path: Path, other: subprocess.Popen[str]
) -> None:
    other.kill()
    other.wait()
    with locked(tmp_path / "run"):
        pass
    with locked(tmp_path / "run"):
        pass


def test_a_folder_that_cannot_be_locked_is_named(tmp_path: Path) -> None:
    (tmp_path / "run" / LOCK).mkdir(parents=True)
    with pytest.raises(ValueError, match="run: lock can't be locked: Is a directory; give another run_dir"):
        with locked(tmp_path / "run"):
            pytest.fail("it was locked")
