"""Children end with who started them, and an interrupt of one that is still loading is not lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2]
PATIENCE_S = 30.0
PARENT = """
import subprocess, sys, time
from vla_ros.start import end_with_parent
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], preexec_fn=end_with_parent)
print(child.pid, flush=True)
time.sleep(600)
"""
LAUNCHED = """
import os, subprocess, sys, time
code = "from vla_ros import start; import time; start._follow_launch(); print(1, flush=True); time.sleep(600)"
environment = {**os.environ, "VLA_ROS_PARENT": str(os.getpid())}
child = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""
# A module that takes long to import, as torch does.
LOADING = """
import sys, types
from vla_ros import start
def load(name):
    print("loading", flush=True)
    import time
    while True:
        try:
            time.sleep(600)
        except BaseException:
            pass
start.import_module = load
start.policy_node()
"""
HELD = """
import signal, threading
from vla_ros.ros.signals import stop_on_signals
print("loading", flush=True)
input()
stopping = stop_on_signals()
assert stopping.wait(20)
print("ended in order", flush=True)
"""


def run(code: str, **options: object) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(SOURCE)}
    pipes = {"stdout": subprocess.PIPE, "stdin": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], env=env, **pipes, **options)


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"waited {PATIENCE_S:g} s in vain: {what}"
        time.sleep(0.01)  # between two looks


def has_ended(pid: int) -> bool:
    """Whether a process is gone; one that nobody waits for counts, too."""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


@pytest.mark.parametrize("parent", [PARENT, LAUNCHED], ids=["ours", "launch"])
def test_a_child_ends_with_a_parent_that_is_killed(parent: str) -> None:
    started = run(parent)
    pid = int(started.stdout.readline())
    assert not has_ended(pid)
    started.kill()
    started.wait()
    wait_until(lambda: has_ended(pid), "the child's end")


def test_a_node_whose_launch_has_ended_already_does_not_start() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    code = "from vla_ros import start; start.policy_node()"
    env = {**os.environ, "PYTHONPATH": str(SOURCE), "VLA_ROS_PARENT": str(gone.pid)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode and "has ended" in done.stderr


def test_an_interrupt_while_a_node_loads_ends_it_even_where_python_would_swallow_it() -> None:
    node = run(LOADING)
    assert node.stdout.readline() == "loading\n"
    node.send_signal(signal.SIGINT)
    assert node.wait(PATIENCE_S) == 0


def test_an_interrupt_of_a_child_that_loads_is_held_until_it_can_end_in_order() -> None:
    pytest.importorskip("rclpy")
    from vla_ros.start import begin_as_node

    node = run(HELD, preexec_fn=begin_as_node)
    assert node.stdout.readline() == "loading\n"
    node.send_signal(signal.SIGINT)
    assert node.communicate("go on\n", timeout=PATIENCE_S)[0] == "ended in order\n"
