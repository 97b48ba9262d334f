"""The demo's nodes as child processes: started, watched, and always ended again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from vla_ros.start import begin_as_node, end_with_parent

STOP_SIGNALS = ((signal.SIGINT, 5.0), (signal.SIGTERM, 2.0), (signal.SIGKILL, 2.0))
"""What a child that should end is sent, and how long it then has, s."""
NODE_MODULES = {
    "policy_node": "vla_ros.nodes.policy_node",
    "model_node": "vla_ros.nodes.model_node",
    "sim_node": "vla_ros.sim.node",
    "fake_driver_node": "vla_ros.sim.fake_driver_node",
    "view_node": "vla_ros.view.node",
    "control_ticker": "vla_ros.bench.control.idle_ticker",
    "control_cameras": "vla_ros.bench.control.cameras",
}
INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LOG_PREFIX = re.compile(r"^\[\w+\] \[[\d.]+\] \[[^\]]+\]: ")
"""Level, time and name before what a ROS node logs."""


@contextmanager
def held_interruptions() -> Iterator[None]:
    """What would interrupt the block does so at its end: nothing in it is left half done."""
    arrived: list[int] = []
    handlers = {number: signal.signal(number, lambda number, _: arrived.append(number)) for number in INTERRUPTIONS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])


class Processes(AbstractContextManager["Processes"]):
    """Child processes by name; leaving the ``with`` block ends every one of them."""

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start_node(self, name: str, parameters: Mapping[str, object]) -> None:
        """Start the node ``name`` with ROS parameters; what it prints goes to ``<name>.log``."""
        # JSON is YAML, too: text in quotes, so that a path like 1e5 stays text.
        assignments = [part for key, value in parameters.items() for part in ("-p", f"{key}:={json.dumps(value)}")]
        self.start(name, [sys.executable, "-m", NODE_MODULES[name], "--ros-args", *assignments], begin_as_node)

    def start(self, name: str, command: Sequence[str], begin: Callable[[], None] = end_with_parent) -> None:
        """Start ``command`` as the child ``name``; ``begin`` is called in it before."""
        self._log_dir.mkdir(parents=True, exist_ok=True)
        # A child that an interruption keeps from being written down here would never be ended.
        with open(self._log_path(name), "wb") as log, held_interruptions():
            # A session of its own: Ctrl-C reaches the demo alone, which then ends its children in order.
            self._children[name] = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=begin,
            )

    def check(self) -> None:
        """Raises ValueError, with its last log line, where a child has ended by itself."""
        for name, child in self._children.items():
            if child.poll() is not None:
                raise ValueError(
                    f"{name} ended by itself (exit code {child.returncode}): {self.last_line(name)} "
                    f"(whole log: {self._log_path(name)})"
                )

    def kill(self, name: str) -> None:
        """End child ``name`` as a crash would, and expect it to be gone from now on."""
        child = self._children.pop(name)
        child.kill()
        child.wait()

    def pid(self, name: str) -> int:
        """The process id of child ``name``."""
        return self._children[name].pid

    def last_line(self, name: str) -> str:
        """The last line that child ``name`` printed."""
        lines = self._log_path(name).read_text(errors="replace").split("\n")
        written = [LOG_PREFIX.sub("", line.strip()) for line in lines if line.strip()]
        return written[-1][:400] if written else "it printed nothing"

    def stop(self) -> None:
        """End every child that still runs, gently first; a second Ctrl-C doesn't leave any behind."""
        with held_interruptions():
            for number, patience_s in STOP_SIGNALS:
                running = [child for child in self._children.values() if child.poll() is None]
                for child in running:
                    os.kill(child.pid, number)
                deadline = time.monotonic() + patience_s
                while any(child.poll() is None for child in running) and time.monotonic() < deadline:
                    time.sleep(0.02)

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _log_path(self, name: str) -> Path:
        return self._log_dir / f"{name}.log"
