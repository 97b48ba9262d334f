"""A Python module of the tree under test as a child process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from waiting import PATIENCE_S, Lasting

SOURCE_ROOT = Path(__file__).parents[2]
NUM_LAST_LINES = 30
# To take torch down lasts 10 s on a busy machine.
END_PATIENCE_S = 60.0


def child_environment() -> dict[str, str]:
    """This process's, in which a child imports the tree under test and finds its own ROS libraries again."""
    kept = {key: value for key, value in os.environ.items() if key != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
    paths = [str(SOURCE_ROOT), str(SOURCE_ROOT / "test" / "unit"), kept.get("PYTHONPATH", "")]
    return kept | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONFAULTHANDLER": "1"}


class ChildProcess(Lasting):
    """``python -m`` with ``arguments``; ``log`` is what it printed."""

    def __init__(self, log: Path, arguments: Sequence[str], env: dict[str, str]) -> None:
        super().__init__()
        self._log, self._name = log, arguments[0]
        with log.open("wb") as file:
            self._child = subprocess.Popen(
                [sys.executable, "-m", *arguments], stdout=file, stderr=subprocess.STDOUT, env=env, cwd=SOURCE_ROOT
            )

    @property
    def is_running(self) -> bool:
        return self._child.poll() is None

    @property
    def ended_by(self) -> Exception | None:
        if self.is_running:
            return None
        last = "\n".join(self.log.splitlines()[-NUM_LAST_LINES:])
        return ChildProcessError(f"{self._name} has ended with code {self._child.returncode}; its log ends:\n{last}")

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Ask it to end; its exit code. Where it doesn't, its log says what each of its threads was about."""
        super().close()
        for final, patience_s in ((number, END_PATIENCE_S), (signal.SIGABRT, PATIENCE_S), (signal.SIGKILL, None)):
            if self.is_running:
                self._child.send_signal(final)
            try:
                self._child.wait(patience_s)
                break
            except subprocess.TimeoutExpired:
                continue
        return self._child.returncode

    def close(self) -> None:
        self.stop()
