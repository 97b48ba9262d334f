"""The control bench's table, out of what was heard."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from vla_ros.bench.control import (
    HeardChunk,
    HeardCommand,
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
from vla_ros.bench.control_table import Row
from vla_ros.robot import RobotConfig

TELEOP_MARGIN_MS = 5.0
MAX_JUMP_RATIO, ENOUGH_SWITCHES = 1 / 3, 200
MAX_LATENESS_RATIO, LATENESS_MARGIN_MS = 1.2, 0.5
CHANGE_S = 0.2
"""So long after a change of driver the steps of the command are looked at."""


@dataclass(frozen=True)
class Span:
    """From ``start_ns`` to ``end_ns``."""

    start_ns: int
    end_ns: int

    def holds(self, t_ns: int) -> bool:
        return self.start_ns <= t_ns <= self.end_ns


@dataclass(frozen=True)
class Drive:
    """The policy drove from ``engaged_ns`` on and its chunks were followed during ``span``."""

    engaged_ns: int
    span: Span


@dataclass
class Observed:
    """One run: what arrived, and when what was done. Times are ns of the clock that messages are stamped by.

    ``scenes_ns`` are resets of the simulation, ``hands_ns`` teleop messages, ``idle_ns`` the idle ticker's ticks;
    ``processor_s`` is what the policy node used during the drives, ``num_drops`` how many of them it ended by itself.
    The span of ``killed`` begins when the model node was killed; during ``back`` it was back and nobody had engaged.
    """

    commands: list[HeardCommand]
    chunks: list[HeardChunk]
    scenes_ns: list[int]
    drives: list[Drive]
    hands_ns: list[int]
    idle_ns: list[int]
    killed: Drive
    back: Span
    processor_s: float
    num_drops: int


def control_rows(observed: Observed, robot: RobotConfig, strategy: str) -> list[Row]:
    """The table."""
    period_s = 1 / robot.control_rate_hz
    return [
        *_limit_rows(observed, robot, period_s),
        *_handoff_rows(observed, robot, period_s),
        *_switch_rows(observed, strategy, period_s),
        *_kill_rows(observed, robot, period_s),
        *_lateness_rows(observed, period_s),
        *_processor_rows(observed, robot),
    ]


def _limit_rows(observed: Observed, robot: RobotConfig, period_s: float) -> list[Row]:
    use = limit_use(_segments(observed), robot, period_s)
    unheard = f", {use.num_unheard} not heard" if use.num_unheard else ""
    return [
        Row(f"commands outside the robot file, of {use.num_commands}{unheard}", use.num_violations, 0, "commands"),
        Row("largest share of a position limit", use.position, 1.0, "of the limit"),
        Row("largest share of a velocity limit", use.velocity, 1.0, "of the limit"),
        Row("largest share of an acceleration limit", use.acceleration, 1.0, "of the limit"),
    ]


def _handoff_rows(observed: Observed, robot: RobotConfig, period_s: float) -> list[Row]:
    segments, num_commands = _segments(observed), round(CHANGE_S / period_s)
    max_step = robot.joint_values("max_velocity") * period_s
    steps = {
        mode: [step for segment in segments for step in largest_steps(segment, mode, max_step, num_commands)]
        for mode in ("TELEOP", "POLICY")
    }
    delays = delays_ms(observed.commands, "TELEOP", observed.hands_ns)
    message = f"teleop message to the command that follows, {len(delays)} times"
    unit = "of a period at full speed"
    return [
        Row(f"{message}, p50", percentile(delays, 50), None, "ms"),
        Row(f"{message}, p99", percentile(delays, 99), period_s * 1e3 + TELEOP_MARGIN_MS, "ms"),
        Row(f"step of the command at takeover, {len(steps['TELEOP'])} times", _max(steps["TELEOP"]), 1.0, unit),
        Row(f"step of the command at engage, {len(steps['POLICY'])} times", _max(steps["POLICY"]), 1.0, unit),
    ]


def _switch_rows(observed: Observed, strategy: str, period_s: float) -> list[Row]:
    drives = [_followed(observed, drive) for drive in observed.drives]
    ours = switch_jumps(drives, observed.commands, strategy, period_s)
    latest = switch_jumps(drives, observed.commands, "latest", period_s)
    num = len(ours.instant)
    few = "" if num >= ENOUGH_SWITCHES else f" ({ENOUGH_SWITCHES} say more: --seconds)"
    what = f"jump of the target's velocity, p95 of {num} switches"
    at_once = _jump_rows(f"{what}{few}", strategy, ours.instant, latest.instant)
    sampled = _jump_rows(f"{what}, sampled once a period", strategy, ours.sampled, latest.sampled)
    return [*at_once, *sampled]


def _jump_rows(what: str, strategy: str, ours: np.ndarray, latest: np.ndarray) -> list[Row]:
    """The strategy that ran, and beside another than ``latest`` that one on the same chunks, and their ratio."""
    jump, yardstick = percentile(ours, 95), percentile(latest, 95)
    rows = [Row(f"{what}: {strategy}", jump, None, "rad/s")]
    if strategy != "latest":
        limit = MAX_JUMP_RATIO if strategy == "rtc" else None
        ratio = jump / yardstick if jump is not None and yardstick else None
        rows += [Row("  the same chunks by latest", yardstick, None, "rad/s"), Row("  ratio", ratio, limit, "")]
    return rows


def _kill_rows(observed: Observed, robot: RobotConfig, period_s: float) -> list[Row]:
    kill_ns = observed.killed.span.start_ns
    followed = _followed(observed, observed.killed)
    rest_s = max(0, chunk_end_ns(followed) - kill_ns) * 1e-9
    stopping_s = stopping_time_s(robot, period_s)
    until = [command for command in observed.commands if command.arrived_ns <= observed.back.end_ns]
    still_ns = standstill_ns(until, "HOLD", kill_ns)
    took_s = math.inf if still_ns is None else (still_ns - kill_ns) * 1e-9
    back = [command.mode for command in observed.commands if observed.back.holds(command.sent_ns)]
    what = f"kill -9 of the model node to standstill in HOLD (chunk's rest {rest_s:.2f} s, stopping {stopping_s:.2f} s)"
    not_held = sum(mode != "HOLD" for mode in back) if back else None
    return [
        Row(what, took_s, rest_s + stopping_s, "s"),
        Row(f"model node back: commands not in HOLD before engage, of {len(back)}", not_held, 0, "commands"),
    ]


def _lateness_rows(observed: Observed, period_s: float) -> list[Row]:
    spans = [drive.span for drive in observed.drives]
    arrived = [command.arrived_ns for command in observed.commands]
    sent = [command.sent_ns for command in observed.commands]
    ours, at_sender, idle = (
        percentile(lateness_ms([[t for t in times if span.holds(t)] for span in spans], period_s), 99)
        for times in (arrived, sent, observed.idle_ns)
    )
    allowed = None if idle is None else MAX_LATENESS_RATIO * idle + LATENESS_MARGIN_MS
    rate = f"{1 / period_s:g} Hz"
    return [
        Row(f"lateness of an idle ticker at {rate}, p99", idle, None, "ms"),
        Row(f"lateness of commands at {rate}, model running, p99", ours, allowed, "ms"),
        Row("  the same by the sender's stamps, without the way", at_sender, None, "ms"),
    ]


def _processor_rows(observed: Observed, robot: RobotConfig) -> list[Row]:
    driven_s = sum(drive.span.end_ns - drive.span.start_ns for drive in observed.drives) * 1e-9
    camera = robot.cameras[0]
    what = (
        f"processor time of the policy node, {len(robot.cameras)} cameras of {camera.width}x{camera.height} "
        "(not three of 640x480 at 30 Hz)"
    )
    return [
        Row(what, 100 * observed.processor_s / driven_s if driven_s else None, None, "% of one core"),
        Row("times the policy fell to HOLD while it drove", observed.num_drops, None, ""),
    ]


def _followed(observed: Observed, drive: Drive) -> list[HeardChunk]:
    return [heard for heard in observed.chunks if drive.engaged_ns <= heard.arrived_ns <= drive.span.end_ns]


def _segments(observed: Observed) -> list[list[HeardCommand]]:
    """The commands between two resets of the simulation, which move the arm without a command."""
    bounds = [0, *observed.scenes_ns, 1 << 62]
    return [[c for c in observed.commands if start <= c.sent_ns < end] for start, end in pairwise(bounds)]


def _max(values: list[float]) -> float | None:
    return max(values, default=None)
