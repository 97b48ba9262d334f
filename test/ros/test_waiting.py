"""The tests' own waiting is over at once, with the reason, where what it relies on has ended."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import child_process
import pytest
import rclpy
from child_process import ChildProcess, child_environment
from ros_harness import ROBOT_FILE, Probe
from spun_node import SpunNode
from std_msgs.msg import Bool
from waiting import Lasting, nothing_left_behind, wait_until

from vla_ros.robot import load_robot

NUM_TIMES = 1000
LONG_S = 600.0


@pytest.fixture
def spun(ros: None) -> Iterator[SpunNode]:
    """Kept busy by a timer."""
    node = rclpy.create_node("spun")
    node.create_timer(0.0001, lambda: None)
    spun = SpunNode(node)
    spun.start()
    yield spun
    if spun in Lasting.open:
        spun.close()


def fail() -> None:
    raise RuntimeError("a bug")


def test_what_comes_and_goes_in_the_thread_that_spins_it_ends_nothing(spun: SpunNode) -> None:
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that another thread comes between any two steps of the executor's
    try:
        for _ in range(NUM_TIMES):
            with spun.publishing(Bool, "said", 1), spun.hearing(Bool, "said", lambda msg: None, 1):
                pass
    finally:
        sys.setswitchinterval(interval_s)
    assert spun.ended_by is None


def test_what_is_done_in_that_thread_returns_and_raises_here(spun: SpunNode) -> None:
    assert spun.do(max, 3, 7) == 7
    with pytest.raises(RuntimeError, match="a bug"):
        spun.do(fail)
    assert spun.ended_by is None


def test_a_callback_that_fails_ends_every_wait_at_once_and_is_raised_at_the_end(spun: SpunNode) -> None:
    spun.do(spun.node.create_timer, 0.0, fail)
    with pytest.raises(AssertionError, match="waited in vain: nothing: a bug"):
        wait_until(lambda: False, "nothing", LONG_S)
    with pytest.raises(AssertionError, match="waited in vain: max in the thread of 'spun': a bug"):
        spun.do(max, 3, 7)
    with pytest.raises(RuntimeError, match="a bug"):
        spun.close()


def test_a_service_is_not_waited_for_by_a_probe_that_hears_nothing_any_more(ros: None) -> None:
    probe = Probe(load_robot(ROBOT_FILE), namespace="deaf")
    probe.do(probe.node.create_timer, 0.0, fail)
    with pytest.raises(AssertionError, match="waited in vain: .*: a bug"):
        probe.state("nobody")
    with pytest.raises(RuntimeError, match="a bug"):
        probe.close()


def test_a_process_that_has_ended_by_itself_ends_every_wait_with_what_it_said_last(tmp_path: Path) -> None:
    process = ChildProcess(tmp_path / "log", ["this", "--version"], child_environment())
    wait_until(lambda: not process.is_running, "its end, which a test may wait for")
    with pytest.raises(AssertionError, match="(?s)waited in vain: nothing: this has ended with code .*[Zz]en"):
        wait_until(lambda: False, "nothing", LONG_S)
    assert process.stop() == 0
    with pytest.raises(AssertionError, match="waited 0 s in vain"):
        wait_until(lambda: False, "nothing", 0.0)


def test_what_a_failed_test_leaves_behind_is_ended(tmp_path: Path) -> None:
    with nothing_left_behind():
        process = ChildProcess(tmp_path / "log", ["http.server", "0", "--bind", "127.0.0.1"], child_environment())
        assert process.is_running
    assert not process.is_running


def test_a_process_that_does_not_end_says_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process, "END_PATIENCE_S", 0.1)
    (tmp_path / "deaf.py").write_text(
        "import signal, sys, time\nsignal.signal(2, print)\nprint('deaf', flush=True)\n"
        "def sleep():\n    while True:\n        time.sleep(1)\nsleep()\n"
    )
    env = child_environment() | {"PYTHONPATH": str(tmp_path)}
    process = ChildProcess(tmp_path / "log", ["deaf"], env)
    wait_until(lambda: "deaf" in process.log, "its first word")
    assert process.stop() == -signal.SIGABRT and "in sleep" in process.log
