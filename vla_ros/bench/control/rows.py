"""The control bench's table, out of what was heard: of the run in the demo's world, and of the robot of cameras."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np

from vla_ros.bench.control import judge
from vla_ros.bench.control.judge import HeardChunk, HeardCommand, LimitUse, Span, SwitchJumps, percentile
from vla_ros.robot import RobotConfig
from vla_ros.types import Mode
from vla_ros.units import NS_PER_S

TELEOP_MARGIN_MS = 5.0
MAX_JUMP_RATIO, ENOUGH_SWITCHES, JUMP_DELAY_MS = 1 / 3, 200, 200.0
"""The ratio is promised for rtc and a model that takes so much longer."""
MAX_LATENESS_RATIO, LATENESS_MARGIN_MS = 1.2, 0.5
CHANGE_S = 0.2
"""How long after a change of driver the steps of the command are looked at."""
CAMERA_RATE_HZ, CONTROL_RATE_HZ, CHUNK_PERIOD_MS = 30, 50.0, 200
MIN_RATE_SHARE = 0.99
MAX_PERIOD_SHARE = 1.1
"""Chunks that should come every 200 ms come every 220 ms at most."""
MAX_CPU_PERCENT = 60.0
CPU_TIME, CPU_UNIT = "CPU time of the policy node", "% of one core"


@dataclass(frozen=True)
class Row:
    """One line; ``measured`` None where nothing could be, ``allowed`` None where it is only told; not ``is_valid``
    where it was not measured under the conditions it is promised for."""

    what: str
    measured: float | None
    allowed: float | None
    unit: str
    is_valid: bool = True

    @property
    def ok(self) -> bool | None:
        """None where nothing is promised; what could not be measured as it should be is not good."""
        if self.allowed is None:
            return None
        return self.is_valid and self.measured is not None and self.measured <= self.allowed * (1 + judge.TOLERANCE)


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

    ``scenes_ns`` are resets of the simulation, ``hands_ns`` teleop messages, ``idle`` what the idle ticker
    sent, during ``rest`` with nothing else running; ``num_drops`` is how many drives the policy node ended by itself.
    The span of ``killed`` begins when the model node was killed; during ``back`` it was back and nobody had engaged.
    """

    driven: Driven
    scenes_ns: Sequence[int]
    hands_ns: Sequence[int]
    killed: Drive
    back: Span
    rest: Span
    idle: Sequence[HeardCommand]
    num_drops: int


def control_rows(observed: BenchRun, robot: RobotConfig, latest: Driven | None) -> list[Row]:
    """The table; ``latest`` is what the strategy's chunk switches are compared with, None where it is itself."""
    period_s = 1 / robot.control_rate_hz
    return [
        *limit_rows(judge.limit_use(_segments(observed), robot, period_s)),
        *_handoff_rows(observed, robot, period_s),
        *_switch_rows(observed.driven, latest, period_s),
        *_kill_rows(observed, robot, period_s),
        *_lateness_rows(observed.driven, observed.idle, observed.rest, period_s),
        Row("times the policy fell to HOLD while it drove", observed.num_drops, None, ""),
    ]


def limit_rows(use: LimitUse) -> list[Row]:
    """What was commanded, as a share of what the robot file allows."""
    unheard = f", {use.num_unheard} not heard" if use.num_unheard else ""
    shares = {"a position": use.position, "a velocity": use.velocity, "an acceleration": use.acceleration}
    return [
        Row(f"commands outside the robot file, of {use.num_commands}{unheard}", use.num_violations, 0, "commands"),
        *(Row(f"largest share of {what} limit", share, 1.0, "of the limit") for what, share in shares.items()),
    ]


def _handoff_rows(observed: BenchRun, robot: RobotConfig, period_s: float) -> list[Row]:
    delays = judge.delays_ms(observed.driven.commands, Mode.TELEOP, observed.hands_ns)
    message = f"teleop message to the command that follows, {len(delays)} times"
    rows = [
        Row(f"{message}, p50", percentile(delays, 50), None, "ms"),
        Row(f"{message}, p99", percentile(delays, 99), period_s * 1e3 + TELEOP_MARGIN_MS, "ms"),
    ]
    max_step, num_commands = robot.joint_values("max_velocity") * period_s, round(CHANGE_S / period_s)
    for change, mode in (("takeover", Mode.TELEOP), ("engage", Mode.POLICY)):
        found = (judge.largest_steps(segment, mode, max_step, num_commands) for segment in _segments(observed))
        steps = [*chain.from_iterable(found)]
        what = f"step of the command at {change}, {len(steps)} times"
        rows.append(Row(what, max(steps, default=None), 1.0, "of a period at full speed"))
    return rows


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
    return judge.switch_jumps(drives, driven.commands, driven.strategy, period_s)


def _kill_rows(observed: BenchRun, robot: RobotConfig, period_s: float) -> list[Row]:
    kill_ns = observed.killed.span.start_ns
    followed = observed.driven.followed(observed.killed)
    rest_s = max(0, judge.chunk_end_ns(followed) - kill_ns) / NS_PER_S
    stopping_s = judge.stopping_time_s(robot, period_s)
    until = [command for command in observed.driven.commands if command.arrived_ns <= observed.back.end_ns]
    still_ns = judge.standstill_ns(until, Mode.HOLD, kill_ns)
    took_s = math.inf if still_ns is None else (still_ns - kill_ns) / NS_PER_S
    back = [command.mode for command in observed.driven.commands if observed.back.holds(command.sent_ns)]
    what = f"kill -9 of the model node to standstill in HOLD (chunk's rest {rest_s:.2f} s, stopping {stopping_s:.2f} s)"
    not_held = sum(mode != Mode.HOLD for mode in back) if back else None
    return [
        Row(what, took_s, rest_s + stopping_s, "s"),
        Row(f"model node back: commands not in HOLD before engage, of {len(back)}", not_held, 0, "commands"),
    ]


def _lateness_rows(driven: Driven, idle: Sequence[HeardCommand], rest: Span | None, period_s: float) -> list[Row]:
    """By the sender's stamps: what the transport and a listener add is only told. The yardstick is the idle ticker as
    heard at the same moments, the model running for both: what else a busy machine does, it does to either."""
    spans = [drive.span for drive in driven.drives]

    def lateness(commands: Sequence[HeardCommand], clock: str, spans: Sequence[Span] = spans) -> float | None:
        times_ns = [getattr(command, clock) for command in commands]
        return percentile(judge.intervals_ms(times_ns, spans) - period_s * 1e3, 99)

    yardstick = lateness(idle, "arrived_ns")
    allowed = MAX_LATENESS_RATIO * (yardstick or 0.0) + LATENESS_MARGIN_MS
    what = f"lateness of commands at {1 / period_s:g} Hz by the sender's stamps, model running, p99"
    rows = [
        Row(what, lateness(driven.commands, "sent_ns"), allowed, "ms", yardstick is not None),
        Row("  of an idle ticker's in another process, at the same moments", yardstick, None, "ms"),
        Row("  of those by their sender's stamps, too", lateness(idle, "sent_ns"), None, "ms"),
        Row("  of commands as they arrive, with the transport", lateness(driven.commands, "arrived_ns"), None, "ms"),
    ]
    if rest is not None:
        alone = lateness(idle, "arrived_ns", [rest])
        rows.append(Row("  of the same idle ticker's when nothing else runs", alone, None, "ms"))
    return rows


def _segments(observed: BenchRun) -> list[list[HeardCommand]]:
    """The commands between two resets of the simulation, which move the arm without a command."""
    bounds = [0, *observed.scenes_ns, 1 << 62]
    return [[c for c in observed.driven.commands if start <= c.sent_ns < end] for start, end in pairwise(bounds)]


def camera_rows(
    driven: Driven,
    frames_ns: Mapping[str, Sequence[int]],
    idle: Sequence[HeardCommand],
    num_drops: int,
    robot: RobotConfig,
) -> list[Row]:
    """The policy node's CPU time, which counts only where cameras and chunks came as fast as they should, and the
    control thread's ticks, beside an idle ticker's; ``frames_ns`` is when each camera's images arrived."""
    spans = [drive.span for drive in driven.drives]
    frame_ms = max(_mean(judge.intervals_ms(times_ns, spans)) for times_ns in frames_ns.values())
    chunk_ms = _mean(judge.intervals_ms([heard.arrived_ns for heard in driven.chunks], spans))
    intervals = judge.intervals_ms([command.sent_ns for command in driven.commands], spans)
    rate_hz = 1e3 / frame_ms
    is_camera_slow = rate_hz < MIN_RATE_SHARE * CAMERA_RATE_HZ
    is_model_slow = chunk_ms > MAX_PERIOD_SHARE * CHUNK_PERIOD_MS
    is_valid = not is_camera_slow and not is_model_slow
    driven_s = sum(span.end_ns - span.start_ns for span in spans) / NS_PER_S
    percent = 100 * sum(drive.cpu_s for drive in driven.drives) / driven_s
    num_missed = int(np.maximum(0, np.round(intervals * CONTROL_RATE_HZ / 1e3) - 1).sum())
    camera = robot.cameras[0]
    what = f"{CPU_TIME}, {len(robot.cameras)} cameras of {camera.width}x{camera.height}, {CONTROL_RATE_HZ:g} Hz"
    slowest = f"  slowest camera as received, of {CAMERA_RATE_HZ} Hz"
    return [
        Row(f"{what}{'' if is_valid else ': does not count'}", percent, MAX_CPU_PERCENT, CPU_UNIT, is_valid),
        Row(f"{slowest}{': too slow' * is_camera_slow}", rate_hz, None, "Hz"),
        Row(f"  between two chunks, of {CHUNK_PERIOD_MS} ms{': too slow' * is_model_slow}", chunk_ms, None, "ms"),
        Row("  times the policy fell to HOLD", num_drops, None, ""),
        Row("  longest time between two commands", percentile(intervals, 100), None, "ms"),
        Row(f"  control ticks missed, of {len(intervals)}", num_missed if len(intervals) else None, 0, "ticks"),
        *_lateness_rows(driven, idle, None, 1 / CONTROL_RATE_HZ),
    ]


def cameras_not_measured(why: str) -> list[Row]:
    """The row of a policy node that never got to drive."""
    return [Row(f"{CPU_TIME}: not measured, {why}", None, MAX_CPU_PERCENT, CPU_UNIT)]


def _mean(values: np.ndarray) -> float:
    """Infinite without a value."""
    return float(values.mean()) if len(values) else math.inf


def table(rows: Sequence[Row]) -> str:
    """The rows below a heading, in columns."""
    cells = [("what", "measured", "allowed", "", "")]
    words = {True: "ok", False: "FAIL", None: "-"}
    cells += [(row.what, _number(row.measured), _number(row.allowed), row.unit, words[row.ok]) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        f"{what:<{widths[0]}}  {measured:>{widths[1]}}  {allowed:>{widths[2]}}  {unit:<{widths[3]}}  {ok}".rstrip()
        for what, measured, allowed, unit, ok in cells
    )


def rows_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows for ``--json``, in the table's order. Keys of each: ``what`` (its text; a row that belongs to the one
    above begins with two blanks), ``measured`` (null where nothing could be), ``allowed`` (the largest good value, null
    where it is only told), ``unit``, and ``ok`` (null where nothing is promised)."""
    return [
        {"what": row.what, "measured": _finite(row.measured), "allowed": row.allowed, "unit": row.unit, "ok": row.ok}
        for row in rows
    ]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "never"
    return f"{value:.0f}" if value == round(value) and abs(value) < 1e6 else f"{value:.3g}"
