"""What the commands that were heard say of the control: limits, takeovers, chunk switches, standstill, lateness.

Times are ns of the one clock that messages are stamped by; positions and velocities are in the robot file's joint
order.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from vla_ros.interpolate import hermite_at
from vla_ros.messages.trajectories import Trajectory
from vla_ros.robot import RobotConfig
from vla_ros.runtime.history import PositionHistory
from vla_ros.runtime.policy_driver import PolicyDriver
from vla_ros.runtime.schedule import STRATEGIES
from vla_ros.types import ActionChunk
from vla_ros.units import MS_PER_NS, NS_PER_S

TOLERANCE = 1e-6
"""A share of a limit that rounding to whole ns may add."""
HISTORY_SIZE = 512
NO_SEQUENCE = 1 << 63
"""From here on the middleware counts nothing."""


@dataclass(frozen=True)
class Span:
    """From ``start_ns`` to ``end_ns``."""

    start_ns: int
    end_ns: int

    def holds(self, t_ns: int) -> bool:
        return self.start_ns <= t_ns <= self.end_ns


@dataclass(frozen=True)
class HeardCommand:
    """One command with its braking ramp: ``positions`` and ``velocities`` ``[num_points, num_joints]`` at ``times_s``
    after ``stamp_ns`` (0: on receipt); ``mode`` says who drove, ``sequence`` counts what its publisher sent (None where
    not known)."""

    sent_ns: int
    arrived_ns: int
    sequence: int | None
    mode: str
    times_s: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray
    stamp_ns: int = 0

    @classmethod
    def of(cls, trajectory: Trajectory, info: Mapping[str, Any], mode: str = "") -> HeardCommand:
        """A command of all joints and what the middleware's ``info`` of its receipt says: the listener may be late in
        looking. Raises ValueError where it has no velocities."""
        if trajectory.velocities is None:
            raise ValueError("trajectory has no velocities; expected some in each point")
        sequence = info.get("publication_sequence_number")
        return cls(
            sent_ns=info["source_timestamp"],
            arrived_ns=info["received_timestamp"],
            sequence=None if sequence is None or sequence >= NO_SEQUENCE else sequence,
            mode=mode,
            times_s=trajectory.times_s,
            positions=trajectory.positions,
            velocities=trajectory.velocities,
            stamp_ns=trajectory.stamp_ns,
        )


@dataclass(frozen=True)
class HeardChunk:
    """A chunk and when it arrived."""

    arrived_ns: int
    chunk: ActionChunk


@dataclass(frozen=True)
class LimitUse:
    """The largest share of each limit that was commanded, 1 being the limit itself, and how many commands broke one;
    ``num_unheard`` were sent and never arrived, so that what followed them could not be judged against them."""

    num_commands: int
    num_violations: int
    num_unheard: int
    position: float
    velocity: float
    acceleration: float


@dataclass(frozen=True)
class SwitchJumps:
    """Jumps of the target's velocity at chunk switches, largest joint of each: at the ``instant`` itself, and as a loop
    sees it that ``sampled`` the target's positions once a period."""

    instant: np.ndarray
    sampled: np.ndarray


def limit_use(segments: Sequence[Sequence[HeardCommand]], robot: RobotConfig, period_s: float) -> LimitUse:
    """Judge every command, its braking ramp and the step from the command before it in its segment, at the nominal
    period. Where ticks were missed, the command before has meanwhile become its own braking ramp."""
    judge = _Judge(robot, period_s)
    worst, num_violations, num_unheard = np.zeros(3), 0, 0
    for segment in segments:
        before: HeardCommand | None = None
        for command in segment:
            shares = judge.ramp(command)
            num_lost = _num_lost(before, command)
            num_unheard += num_lost
            if before is not None and not num_lost:
                shares = np.maximum(shares, judge.step(before, command))
            num_violations += not bool((shares <= 1.0 + TOLERANCE).all())
            worst, before = np.fmax(worst, shares), command
    return LimitUse(sum(map(len, segments)), num_violations, num_unheard, *(float(share) for share in worst))


def largest_steps(commands: Sequence[HeardCommand], mode: str, max_step: np.ndarray, num_commands: int) -> list[float]:
    """For each time that ``mode`` began: the largest step of the commanded position within the first ``num_commands``,
    as a share of ``max_step`` ``[num_joints]``."""
    steps = []
    for i in range(1, len(commands)):
        if commands[i].mode != mode or commands[i - 1].mode == mode:
            continue
        first = np.stack([command.positions[0] for command in commands[i - 1 : i + num_commands]])
        steps.append(float((np.abs(np.diff(first, axis=0)) / max_step).max()))
    return steps


def delays_ms(commands: Sequence[HeardCommand], mode: str, since_ns: Sequence[int]) -> list[float]:
    """For each moment: how long until the first command of ``mode`` that was sent after it arrived, ms; infinite where
    none did."""
    heard = [(command.sent_ns, command.arrived_ns) for command in commands if command.mode == mode]
    return [
        min((arrived_ns - since for sent_ns, arrived_ns in heard if sent_ns >= since), default=math.inf) * MS_PER_NS
        for since in since_ns
    ]


def standstill_ns(commands: Sequence[HeardCommand], mode: str, since_ns: int) -> int | None:
    """When the first command arrived from which on ``mode`` has the robot and every joint stands still."""
    found = None
    for command in commands:
        if command.arrived_ns < since_ns:
            continue
        is_still = command.mode == mode and not command.velocities[0].any()
        found = (command.arrived_ns if found is None else found) if is_still else None
    return found


def stopping_time_s(robot: RobotConfig, period_s: float) -> float:
    """The longest that braking within the limits can take, in whole periods."""
    longest_s = (robot.joint_values("max_velocity") / robot.joint_values("max_acceleration")).max()
    return math.ceil(longest_s / period_s - TOLERANCE) * period_s


def switch_jumps(
    drives: Sequence[Sequence[HeardChunk]], commands: Sequence[HeardCommand], strategy: str, period_s: float
) -> SwitchJumps:
    """Lay out the chunks of each drive as the policy node does, by ``strategy``, and look at the target where one chunk
    follows another. A drive begins with ``engage``, at rest."""
    period_ns = round(period_s * NS_PER_S)
    instant, sampled = [], []
    for chunks in drives:
        driver = PolicyDriver(STRATEGIES[strategy](), retry_s=1.0)
        for i, heard in enumerate(chunks):
            now_ns = heard.arrived_ns
            earlier, before = driver.target(now_ns - period_ns), driver.target(now_ns)
            start = _command_in_force(commands, heard.chunk.stamp_ns, now_ns, period_ns)
            if start is None:
                continue
            driver.follow(heard.chunk, start, now_ns)
            after, later = driver.target(now_ns), driver.target(now_ns + period_ns)
            if i == 0 or before is None or earlier is None or after is None or later is None:
                continue
            instant.append(np.abs(after.velocities - before.velocities).max())
            sampled.append(np.abs(later.positions - 2 * before.positions + earlier.positions).max() / period_s)
    return SwitchJumps(np.array(instant), np.array(sampled))


def chunk_end_ns(chunks: Sequence[HeardChunk]) -> int:
    """When the last of a drive's chunks is used up; its first starts when it arrives."""
    last = chunks[-1]
    late_ns = last.arrived_ns - last.chunk.stamp_ns if len(chunks) == 1 else 0
    return last.chunk.due_ns(last.chunk.horizon - 1) + late_ns


def intervals_ms(times_ns: Sequence[int], spans: Sequence[Span]) -> np.ndarray:
    """Between one time and the next within each span, ms."""
    kept = [np.diff(sorted(t for t in times_ns if span.holds(t))) for span in spans]
    return np.concatenate([np.zeros(0), *kept]) * MS_PER_NS


def percentile(values: Sequence[float] | np.ndarray, percent: float) -> float | None:
    """None without a value; infinite where values that large are."""
    if not len(values):
        return None
    return float(np.percentile(values, percent, method="higher"))


class _Judge:
    """Shares ``[3]`` of the position, velocity and acceleration limits that one command uses."""

    def __init__(self, robot: RobotConfig, period_s: float) -> None:
        lower, upper = robot.joint_values("lower"), robot.joint_values("upper")
        self._middle = (lower + upper) / 2
        fastest = robot.joint_values("max_velocity"), robot.joint_values("max_acceleration")
        self._limits = (upper - lower) / 2, *fastest
        self._period_s = period_s

    def ramp(self, command: HeardCommand) -> np.ndarray:
        """The command's own points and what lies between them."""
        accelerations = np.diff(command.velocities, axis=0) / np.diff(command.times_s)[:, None]
        return self._shares(command.positions, command.velocities, accelerations)

    def step(self, before: HeardCommand, command: HeardCommand) -> np.ndarray:
        """The step from one command to the next, both by the velocities they name and by their positions; of the
        numbers of missed ticks that their times allow, the one that speaks for the command: a loop that leaves out the
        ticks it missed never leaves out more than have passed since its last command went out, or was stamped."""
        is_stamped = command.stamp_ns and before.stamp_ns
        gap_ns = command.stamp_ns - before.stamp_ns if is_stamped else command.sent_ns - before.sent_ns
        gap = gap_ns / NS_PER_S / self._period_s
        max_missed = max(0, round(gap) - 1)
        found = [self._step(_state_after(before, n * self._period_s), command) for n in range(max_missed + 1)]
        return min(found, key=lambda shares: float(shares.max()))

    def _step(self, state: np.ndarray, command: HeardCommand) -> np.ndarray:
        (position, velocity), dt = state, self._period_s
        way = command.positions[0] - position
        by_velocity = np.abs(command.velocities[0] - velocity) / dt
        by_position = np.abs(2 * (way - velocity * dt)) / dt**2
        return self._shares(self._middle, way / dt, np.maximum(by_velocity, by_position))

    def _shares(self, positions: np.ndarray, velocities: np.ndarray, accelerations: np.ndarray) -> np.ndarray:
        """The largest of all joints; what is not finite breaks every limit."""
        used = zip((positions - self._middle, velocities, accelerations), self._limits, strict=True)
        largest = np.array([(np.abs(values) / limit).max(initial=0.0) for values, limit in used])
        return np.where(np.isfinite(largest), largest, np.inf)


def _state_after(command: HeardCommand, elapsed_s: float) -> np.ndarray:
    """Position and velocity ``[2, num_joints]`` on a command's braking ramp, so long after its first point: the cubic
    through the points that a controller follows."""
    times_s = command.times_s - command.times_s[0]
    if elapsed_s >= times_s[-1]:
        return np.stack((command.positions[-1], command.velocities[-1]))
    return np.stack(hermite_at(elapsed_s, times_s, command.positions, command.velocities))


def _num_lost(before: HeardCommand | None, command: HeardCommand) -> int:
    if before is None or before.sequence is None or command.sequence is None:
        return 0
    return max(0, command.sequence - before.sequence - 1)


def _command_in_force(commands: Sequence[HeardCommand], t_ns: int, now_ns: int, period_ns: int) -> np.ndarray | None:
    """The commanded positions at ``t_ns`` as they were known at ``now_ns``."""
    history, end = PositionHistory(HISTORY_SIZE), bisect_left(commands, now_ns, key=attrgetter("sent_ns"))
    for command in commands[max(0, end - HISTORY_SIZE) : end]:
        history.add(command.sent_ns + period_ns, command.positions[0])
    return history.at(t_ns) if end else None
