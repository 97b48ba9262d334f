"""The control bench's table, out of what was heard."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from vla_ros.bench.control.judge import (
    HeardChunk,
    HeardCommand,
    SwitchJumps,
    chunk_end_ns,
    delays_ms,
    largest_steps,
    lateness_ms,
    limit_use,
    percentile,
    standstill_ns,
    stopping_time_s,
    switch_jumps,
)
from vla_ros.bench.control.table import Row
from vla_ros.robot import RobotConfig
from vla_ros.types import Mode
from vla_ros.units import NS_PER_S

TELEOP_MARGIN_MS = 5.0
MAX_JUMP_RATIO, ENOUGH_SWITCHES, JUMP_DELAY_MS = 1 / 3, 200, 200.0
"""The ratio is promised for rtc and a model that takes so much longer."""
MAX_LATENESS_RATIO, LATENESS_MARGIN_MS = 1.2, 0.5
CHANGE_S = 0.2
"""How long after a change of driver the steps of the command are looked at."""


@dataclass(frozen=True)
class Span:
    """From ``start_ns`` to ``end_ns``."""

    start_ns: int
    end_ns: int

    def holds(self, t_ns: int) -> bool:
        return self.start_ns <= t_ns <= self.end_ns


@dataclass(frozen=True)
class Drive:
    """The policy drove from ``engaged_ns`` on and its chunks were followed during ``span``, in which the policy node
    used ``cpu_s`` of CPU time."""

    engaged_ns: int
    span: Span
    cpu_s: float = 0.0


@dataclass(frozen=True)
class Driven:
    """Drives of one strategy with a model slowed by ``delay_ms``, and every command and chunk that was heard in the run
    they were part of."""

    strategy: str
    delay_ms: float
    drives: Sequence[Drive]
    commands: Sequence[HeardCommand]
    chunks: Sequence[HeardChunk]

    def followed(self, drive: Drive) -> list[HeardChunk]:
        """The chunks of one drive."""
        return [heard for heard in self.chunks if drive.engaged_ns <= heard.arrived_ns <= drive.span.end_ns]


@dataclass(frozen=True)
class BenchRun:
    """One run: what arrived, and when what was done. Times are ns of the clock that messages are stamped by.

    ``scenes_ns`` are resets of the simulation, ``hands_ns`` teleop messages, ``idle_ns`` what arrived of the idle
    ticker, during ``rest`` with nothing else running; ``num_drops`` is how many drives the policy node ended by itself.
    The span of ``killed`` begins when the model node was killed; during ``back`` it was back and nobody had engaged.
    """

    driven: Driven
    scenes_ns: Sequence[int]
    hands_ns: Sequence[int]
    killed: Drive
    back: Span
    rest: Span
    idle_ns: Sequence[int]
    num_drops: int


def control_rows(observed: BenchRun, robot: RobotConfig, latest: Driven | None) -> list[Row]:
    """The table; ``latest`` is what the strategy's chunk switches are compared with, None where it is itself."""
    period_s = 1 / robot.control_rate_hz
    return [
        *_limit_rows(observed, robot, period_s),
        *_handoff_rows(observed, robot, period_s),
        *_switch_rows(observed.driven, latest, period_s),
        *_kill_rows(observed, robot, period_s),
        *_lateness_rows(observed, period_s),
        Row("times the policy fell to HOLD while it drove", observed.num_drops, None, ""),
    ]


def _limit_rows(observed: BenchRun, robot: RobotConfig, period_s: float) -> list[Row]:
    use = limit_use(_segments(observed), robot, period_s)
    unheard = f", {use.num_unheard} not heard" if use.num_unheard else ""
    return [
        Row(f"commands outside the robot file, of {use.num_commands}{unheard}", use.num_violations, 0, "commands"),
        Row("largest share of a position limit", use.position, 1.0, "of the limit"),
        Row("largest share of a velocity limit", use.velocity, 1.0, "of the limit"),
        Row("largest share of an acceleration limit", use.acceleration, 1.0, "of the limit"),
    ]


def _handoff_rows(observed: BenchRun, robot: RobotConfig, period_s: float) -> list[Row]:
    segments, num_commands = _segments(observed), round(CHANGE_S / period_s)
    max_step = robot.joint_values("max_velocity") * period_s
    steps = {
        mode: [step for segment in segments for step in largest_steps(segment, mode, max_step, num_commands)]
        for mode in (Mode.TELEOP, Mode.POLICY)
    }
    delays = delays_ms(observed.driven.commands, Mode.TELEOP, observed.hands_ns)
    message = f"teleop message to the command that follows, {len(delays)} times"
    unit = "of a period at full speed"
    return [
        Row(f"{message}, p50", percentile(delays, 50), None, "ms"),
        Row(f"{message}, p99", percentile(delays, 99), period_s * 1e3 + TELEOP_MARGIN_MS, "ms"),
        Row(
            f"step of the command at takeover, {len(steps[Mode.TELEOP])} times",
            max(steps[Mode.TELEOP], default=None),
            1.0,
            unit,
        ),
        Row(
            f"step of the command at engage, {len(steps[Mode.POLICY])} times",
            max(steps[Mode.POLICY], default=None),
            1.0,
            unit,
        ),
    ]


def _switch_rows(driven: Driven, latest: Driven | None, period_s: float) -> list[Row]:
    """Each strategy in drives of its own: chunks of another would not follow each other as its do."""
    ours = _jumps(driven, period_s)
    theirs = None if latest is None else _jumps(latest, period_s)
    what = f"jump of the target's velocity at a chunk switch, {driven.strategy}, p95 of {len(ours.instant)}"
    limit = MAX_JUMP_RATIO if (driven.strategy, driven.delay_ms) == ("rtc", JUMP_DELAY_MS) else None
    at_once = _jump_rows(what, limit, ours.instant, theirs and theirs.instant)
    sampled = _jump_rows("  the same, sampled once a period", limit, ours.sampled, theirs and theirs.sampled)
    return [*at_once, *sampled]


def _jump_rows(what: str, max_ratio: float | None, ours: np.ndarray, theirs: np.ndarray | None) -> list[Row]:
    jump = percentile(ours, 95)
    rows = [Row(what, jump, None, "rad/s")]
    if theirs is not None:
        yardstick = percentile(theirs, 95)
        is_enough = min(len(ours), len(theirs)) >= ENOUGH_SWITCHES
        ratio = jump / yardstick if jump is not None and yardstick else None
        few = "" if is_enough else f": does not count, too few switches, {ENOUGH_SWITCHES} each are needed"
        rows.append(Row(f"  latest in drives of its own, p95 of {len(theirs)}", yardstick, None, "rad/s"))
        rows.append(Row(f"  ratio{few}", ratio, max_ratio, "", is_valid=is_enough))
    return rows


def _jumps(driven: Driven, period_s: float) -> SwitchJumps:
    drives = [driven.followed(drive) for drive in driven.drives]
    return switch_jumps(drives, driven.commands, driven.strategy, period_s)


def _kill_rows(observed: BenchRun, robot: RobotConfig, period_s: float) -> list[Row]:
    kill_ns = observed.killed.span.start_ns
    followed = observed.driven.followed(observed.killed)
    rest_s = max(0, chunk_end_ns(followed) - kill_ns) / NS_PER_S
    stopping_s = stopping_time_s(robot, period_s)
    until = [command for command in observed.driven.commands if command.arrived_ns <= observed.back.end_ns]
    still_ns = standstill_ns(until, Mode.HOLD, kill_ns)
    took_s = math.inf if still_ns is None else (still_ns - kill_ns) / NS_PER_S
    back = [command.mode for command in observed.driven.commands if observed.back.holds(command.sent_ns)]
    what = f"kill -9 of the model node to standstill in HOLD (chunk's rest {rest_s:.2f} s, stopping {stopping_s:.2f} s)"
    not_held = sum(mode != Mode.HOLD for mode in back) if back else None
    return [
        Row(what, took_s, rest_s + stopping_s, "s"),
        Row(f"model node back: commands not in HOLD before engage, of {len(back)}", not_held, 0, "commands"),
    ]


def _lateness_rows(observed: BenchRun, period_s: float) -> list[Row]:
    """The yardstick is the idle ticker at the same moments, the model running for both: whatever else a busy machine
    does to a ticker, it does to either."""
    spans = [drive.span for drive in observed.driven.drives]
    ours = _lateness([command.arrived_ns for command in observed.driven.commands], spans, period_s)
    at_sender = _lateness([command.sent_ns for command in observed.driven.commands], spans, period_s)
    idle = _lateness(observed.idle_ns, spans, period_s)
    alone = _lateness(observed.idle_ns, [observed.rest], period_s)
    allowed = MAX_LATENESS_RATIO * (idle or 0.0) + LATENESS_MARGIN_MS
    return [
        Row(f"lateness of commands at {1 / period_s:g} Hz, model running, p99", ours, allowed, "ms", idle is not None),
        Row("  of an idle ticker's in another process, at the same moments", idle, None, "ms"),
        Row("  of the same idle ticker's when nothing else runs", alone, None, "ms"),
        Row("  of commands by the sender's stamps, without the transport", at_sender, None, "ms"),
    ]


def _lateness(times_ns: Sequence[int], spans: Sequence[Span], period_s: float) -> float | None:
    """p99 over the spans, ms."""
    return percentile(lateness_ms([[t for t in times_ns if span.holds(t)] for span in spans], period_s), 99)


def _segments(observed: BenchRun) -> list[list[HeardCommand]]:
    """The commands between two resets of the simulation, which move the arm without a command."""
    bounds = [0, *observed.scenes_ns, 1 << 62]
    return [[c for c in observed.driven.commands if start <= c.sent_ns < end] for start, end in pairwise(bounds)]
