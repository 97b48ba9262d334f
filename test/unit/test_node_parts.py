"""The parts of the nodes that need no ROS: clocks, the ticker, distributions, problems."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from types import SimpleNamespace

import pytest

from vla_ros import topics
from vla_ros.ros.clock import ClockReading, StampMap, read_clocks, steady_now_ns, to_steady_ns
from vla_ros.ros.problems import Problems
from vla_ros.ros.statistics import NUM_VALUES, Distribution
from vla_ros.ros.ticker import Ticker
from vla_ros.wire import REQUEST, encode_request

S = 1_000_000_000
MS = 1_000_000
PATIENCE_S = 20.0
NOW = ClockReading(steady_ns=50 * S, ros_ns=1_700_000_000 * S)


def wait_until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"waited {PATIENCE_S:g} s in vain"
        time.sleep(0.005)


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, line: str) -> None:
        self.lines.append(line)


def test_a_header_stamp_is_as_old_on_the_steady_clock_as_in_ros_time():
    assert to_steady_ns(NOW.ros_ns - 30 * MS, NOW) == 50 * S - 30 * MS


@pytest.mark.parametrize(
    ("stamp_ns", "named"),
    [(0, "before"), (NOW.ros_ns - 11 * S, "11.000 s before"), (NOW.ros_ns + S, "1.000 s after")],
)
def test_a_stamp_that_cannot_be_of_this_moment_is_refused(stamp_ns, named):
    with pytest.raises(ValueError, match=f"{named} now; expected at most 10 s before it or 0.1 s after: check"):
        to_steady_ns(stamp_ns, NOW)


def test_both_clocks_are_read_at_one_instant():
    before_ns = steady_now_ns()
    reading = read_clocks(time.time_ns)
    assert before_ns <= reading.steady_ns <= steady_now_ns()
    assert abs(reading.ros_ns - time.time_ns()) < S


def test_the_ticker_calls_at_deadlines_whole_periods_apart():
    deadlines: list[int] = []
    ticker = Ticker(5 * MS, deadlines.append)
    ticker.start()
    wait_until(lambda: len(deadlines) > 20)
    ticker.stop()
    count = len(deadlines)
    steps = [later - earlier for earlier, later in pairwise(deadlines)]
    assert all(step > 0 and step % (5 * MS) == 0 for step in steps)
    time.sleep(0.02)  # four periods
    assert len(deadlines) == count, "a stopped ticker is silent"


def test_a_tick_that_takes_longer_than_a_period_leaves_deadlines_out_and_never_catches_up():
    deadlines: list[int] = []

    def slow_at_first(deadline_ns: int) -> None:
        deadlines.append(deadline_ns)
        if len(deadlines) == 1:
            time.sleep(0.05)  # five periods

    ticker = Ticker(10 * MS, slow_at_first)
    ticker.start()
    wait_until(lambda: len(deadlines) > 2)
    ticker.stop()
    assert deadlines[1] - deadlines[0] >= 50 * MS
    assert (deadlines[1] - deadlines[0]) % (10 * MS) == 0


def test_a_ticker_can_stop_itself():
    ticks: list[int] = []

    def stop_at_once(deadline_ns: int) -> None:
        ticks.append(deadline_ns)
        ticker.stop()

    ticker = Ticker(MS, stop_at_once)
    ticker.start()
    wait_until(lambda: ticks)
    time.sleep(0.05)  # fifty periods
    assert len(ticks) == 1


def test_a_distribution_summarises_the_last_values_only():
    distribution = Distribution()
    assert distribution.summary() is None
    for value in range(NUM_VALUES + 100):
        distribution.add(float(value))
    summary = distribution.summary()
    assert summary.count == NUM_VALUES
    assert summary.maximum == NUM_VALUES + 99
    assert summary.p50 == pytest.approx(100 + (NUM_VALUES - 1) / 2)


def test_a_problem_is_logged_once_and_stays_current_while_it_lasts():
    log = Log()
    problems = Problems(log)
    for _ in range(50):
        problems.report("camera 'front'", "camera 'front': wrong encoding")
    problems.report("joint state", "joint state: a joint is missing")
    assert log.lines == ["camera 'front': wrong encoding", "joint state: a joint is missing"]
    assert list(problems.current()) == ["camera 'front'", "joint state"]


def test_a_ticker_that_may_not_be_realtime_ticks_all_the_same(monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("os.sched_setscheduler", refuse)
    ticks: list[int] = []
    ticker = Ticker(MS, ticks.append, realtime_priority=10)
    ticker.start()
    wait_until(lambda: ticks)
    ticker.stop()
    assert not ticker.is_realtime


def test_values_older_than_the_window_are_forgotten(monkeypatch):
    now_ns = [100 * S]
    monkeypatch.setattr("vla_ros.ros.statistics.steady_now_ns", lambda: now_ns[0])
    distribution = Distribution()
    distribution.add(1000.0)
    now_ns[0] += 11 * S
    assert distribution.summary() is None
    distribution.add(2.0)
    summary = distribution.summary()
    assert (summary.count, summary.maximum) == (1, 2.0)


class SteppedClock:
    """Simulated time as a node sees it: it moves only when ``/clock`` comes."""

    def __init__(self, step_ns: int) -> None:
        self.ros_time_is_active = True
        self._start_ns, self._step_ns = steady_now_ns(), step_ns

    def now(self) -> SimpleNamespace:
        elapsed_ns = steady_now_ns() - self._start_ns
        return SimpleNamespace(nanoseconds=100 * S + elapsed_ns // self._step_ns * self._step_ns)


def test_under_simulated_time_stamps_keep_their_distances_to_the_nanosecond():
    stamps, clock = StampMap(SteppedClock(3 * MS)), time.monotonic
    mapped, until = [], clock() + 0.05
    while clock() < until:
        mapped.append(stamps.to_steady_ns(100 * S + 7) - stamps.to_steady_ns(100 * S))
    assert set(mapped) == {7}
    assert abs(stamps.to_ros_ns(stamps.to_steady_ns(100 * S + 7)) - 100 * S) == 7


def test_after_a_jump_of_simulated_time_stamps_are_mapped_anew():
    clock = SteppedClock(MS)
    stamps = StampMap(clock)
    stamps.to_steady_ns(100 * S)
    clock._start_ns += 50 * S  # time runs back to the bag's beginning
    with pytest.raises(ValueError, match="header stamp is 50.* s before now"):
        stamps.to_steady_ns(50 * S)
    stamps.forget()
    assert abs(stamps.to_steady_ns(50 * S) - steady_now_ns()) < S


class Post:
    """A mailbox on a role that only remembers the subscription, and the worker behind it."""

    def __init__(self) -> None:
        pytest.importorskip("std_msgs")
        from vla_ros.ros.mailbox import Mailbox

        self.log = Log()
        self.problems = Problems(self.log)
        self.handled: list[bytes | None] = []
        self.may_work = threading.Event()
        self.is_working = threading.Event()
        role = SimpleNamespace(topic=lambda name: f"/{name}", subscribe=self._subscribe)
        self.mailbox = Mailbox(role, topics.REQUEST, REQUEST, self.problems, self._work)
        self.mailbox.start()

    def _subscribe(self, topic: object, callback: Callable[[SimpleNamespace], None]) -> None:
        self.deliver = lambda data: callback(SimpleNamespace(data=data))

    def _work(self) -> None:
        for mail in self.mailbox:
            self.is_working.set()
            assert self.may_work.wait(PATIENCE_S)
            self.handled.append(None if mail is None else mail.data)


@pytest.fixture
def post() -> Iterator[Post]:
    post = Post()
    yield post
    post.may_work.set()
    post.mailbox.stop()


def message(text: str) -> bytes:
    return encode_request(SimpleNamespace(to_tensors=dict, metadata=lambda: {"text": text}))


def test_the_newest_message_waits_for_the_worker_and_displaces_an_older_one(post):
    post.deliver(message("first"))
    assert post.is_working.wait(PATIENCE_S)
    for text in ("second", "third"):
        post.deliver(message(text))
    post.may_work.set()
    wait_until(lambda: len(post.handled) == 2)
    assert post.handled == [message("first"), message("third")]


def test_garbage_displaces_no_message_and_is_named_with_its_topic(post):
    post.deliver(message("first"))
    assert post.is_working.wait(PATIENCE_S)
    for data in (message("second"), b"\x80\x04K\x01."):
        post.deliver(data)
    post.may_work.set()
    wait_until(lambda: len(post.handled) == 2)
    assert post.handled[1] == message("second")
    (line,) = post.problems.current().values()
    assert line.startswith("request on '/vla_model/request' refused: message has")


def test_a_closed_mailbox_takes_nothing_and_a_ring_comes_without_a_message(post):
    post.may_work.set()
    post.mailbox.is_open = False
    post.deliver(message("first"))
    post.mailbox.ring()
    wait_until(lambda: post.handled)
    assert post.handled == [None]
