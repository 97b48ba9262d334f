"""What the robot did and saw, as its bag says: where it was commanded to, where it was, who drove and what for, and the
observations that its answers were made of."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vla_ros.messages.trace import Trace
from vla_ros.observing.observe import Match
from vla_ros.recordings.events import Command
from vla_ros.recordings.series import GrowingSeries, TimeSeries, are_later
from vla_ros.replay.records import ReplayedChunk, Stretch
from vla_ros.robot import RobotConfig
from vla_ros.types import Frame, JointSample, Mode, Observation
from vla_ros.units import NS_PER_S

MIN_GAPS = 10
KEPT_S = 2.0
"""An answer that comes later than this after its observation is a fault anyway."""


class Recording:
    """Takes what a bag says of the robot, message by message; ``driver`` is who drives at ``start_ns``."""

    def __init__(self, robot: RobotConfig, start_ns: int, driver: str) -> None:
        self._robot = robot
        self._start_ns = start_ns
        self._measured_ns, self._measured = array("q"), array("d")
        self._newest_measured = np.full(robot.num_joints, np.nan)
        self._commands = {output.name: GrowingSeries(len(output.joints)) for output in robot.outputs}
        self._drivers = [(start_ns, driver)]
        self._tasks: list[tuple[int, str]] = []

    def measure(self, sample: JointSample) -> None:
        self._measured_ns.append(sample.stamp_ns)
        self._measured.extend(sample.positions)
        self._newest_measured = np.where(np.isnan(sample.positions), self._newest_measured, sample.positions)

    def command(self, command: Command) -> None:
        self._commands[command.group].add(command.due_ns, command.trajectory.positions[0])

    def drive(self, now_ns: int, mode: Mode) -> None:
        """Another drives from now on."""
        self._drivers.append((now_ns, mode.value))

    def instruct(self, now_ns: int, task: str) -> None:
        """A repeated instruction is the same episode's."""
        if not self._tasks or task != self._tasks[-1][1]:
            self._tasks.append((now_ns, task))

    def newest_command(self) -> np.ndarray | None:
        """Of every joint, ``[num_joints]``; None while one has none."""
        positions = np.where(self._robot.is_driven, np.nan, self._newest_measured)  # a fixed joint is where it is
        for output in self._robot.outputs:
            newest = self._commands[output.name].newest()
            if newest is not None:
                positions[self._robot.columns(output.joints)] = newest
        return positions if np.isfinite(positions).all() else None

    def finish(self, end_ns: int) -> Recorded:
        """All of it."""
        return Recorded(
            modes=_stretches(self._drivers, end_ns),
            episodes=_stretches(self._tasks or [(self._start_ns, "")], end_ns),
            recorded_commands=self._commanded(),
            joints=self._joints(),
        )

    def _commanded(self) -> TimeSeries:
        """What was commanded to all outputs as one series, at the times of the first's commands."""
        outputs = self._robot.outputs
        return self._together(
            [self._commands[output.name].series() for output in outputs],
            [self._robot.columns(output.joints) for output in outputs],
        )

    def _joints(self) -> TimeSeries:
        """What was measured of all joints as one series, at the times of the one that was measured most."""
        times_ns = np.array(self._measured_ns, np.int64)
        rows = np.array(self._measured, np.float64).reshape(len(times_ns), -1)
        each = []
        for values in rows.T if len(rows) else np.empty((self._robot.num_joints, 0)):
            known = np.flatnonzero(np.isfinite(values))
            known = known[are_later(times_ns[known])]
            each.append(TimeSeries(times_ns[known], values[known, None]))
        base = int(np.argmax([len(series) for series in each]))
        return self._together(each, [[column] for column in range(len(each))], base)

    def _together(self, parts: Sequence[TimeSeries], columns: Sequence[list[int]], base: int = 0) -> TimeSeries:
        """What is known of each part of the joints as one series, at the times of that of ``base``."""
        times_ns = parts[base].times_ns
        values = np.full((len(times_ns), self._robot.num_joints), np.nan)
        for part, own in zip(parts, columns, strict=True):
            is_at_them = np.array_equal(part.times_ns, times_ns)
            values[:, own] = part.values if is_at_them else part.at(times_ns, turns=self._robot.turns[own])
        return TimeSeries(times_ns, values)


@dataclass(frozen=True)
class Recorded:
    """What the robot did, as ``Replay`` has it."""

    modes: tuple[Stretch, ...]
    episodes: tuple[Stretch, ...]
    recorded_commands: TimeSeries
    joints: TimeSeries

    def drivers(self, times_ns: np.ndarray) -> np.ndarray:
        """Who drove at each of ``times_ns``."""
        return np.array([mode.label for mode in self.modes])[_index_at(self.modes, times_ns)]

    def beside(self, chunk: ReplayedChunk) -> ReplayedChunk:
        """``chunk`` with what was commanded and measured where its actions are due."""
        due_ns = chunk.due_ns
        driver, *due_drivers = self.drivers(np.array([chunk.header_ns, *due_ns])).tolist()
        episode = int(_index_at(self.episodes, chunk.header_ns))
        is_other = (due_ns > self.episodes[episode].end_ns) | (np.array(due_drivers) != driver)
        commanded, measured = (series.at(due_ns) for series in (self.recorded_commands, self.joints))
        commanded[is_other] = measured[is_other] = np.nan
        return replace(chunk, driver=driver, episode=episode, commanded=commanded, measured=measured)


class CommandRate:
    """Whether a bag's commands come at the rate of the loop that repeats them: hears when those to each group of joints
    were sent."""

    def __init__(self, period_ns: int) -> None:
        self._period_ns = period_ns
        self._sent_ns: dict[str, array[int]] = {}

    def fits(self, group: str, sent_ns: int) -> bool:
        """Whether a command comes a period after the one before it to its ``group``, give or take a quarter, or is the
        first: then it tells when a tick was."""
        all_ns = self._sent_ns.setdefault(group, array("q"))
        all_ns.append(sent_ns)
        return len(all_ns) < 2 or self._is_period(all_ns[-1] - all_ns[-2])

    @property
    def problem(self) -> str:
        """The first group whose commands come at another rate, in one line; empty where all fit."""
        for group, all_ns in self._sent_ns.items():
            gaps_ns = np.diff(all_ns)
            if len(gaps_ns) >= MIN_GAPS and not self._is_period(usual_ns := float(np.median(gaps_ns))):
                found_hz, ours_hz = NS_PER_S / max(usual_ns, 1.0), NS_PER_S / self._period_ns
                return (
                    f"commands to '{group}' come at about {found_hz:.3g} Hz and ours at {ours_hz:.3g} Hz, so they are "
                    "for other moments; --rate HZ, or control_rate_hz in the robot file, makes them the same"
                )
        return ""

    def _is_period(self, gap_ns: float) -> bool:
        return abs(gap_ns - self._period_ns) <= self._period_ns / 4


class KeptFrames:
    """The frames of the last ``KEPT_S`` of each camera of ``robot``."""

    def __init__(self, robot: RobotConfig) -> None:
        self._max_skew_s = robot.max_camera_skew_s
        self._frames: dict[str, dict[int, Frame]] = {name: {} for name in robot.camera_names}

    def add(self, frame: Frame) -> None:
        kept = self._frames[frame.camera]
        kept[frame.header_ns] = frame
        while frame.header_ns - (oldest_ns := next(iter(kept))) > KEPT_S * NS_PER_S:
            del kept[oldest_ns]

    def observation(self, trace: Trace) -> Observation:
        """What ``trace`` says, as far as the robot's cameras go: of one that it does not name, the frame nearest to it.

        Raises ValueError, in one line, for an image that is missing or cannot be decoded.
        """
        frames = {name: self._frame(name, trace) for name in self._frames}
        stamp_ns = min(frame.header_ns for frame in frames.values())
        return Match(stamp_ns, frames, np.array(trace.joint_positions), trace.task).observation()

    def _frame(self, camera: str, trace: Trace) -> Frame:
        kept = self._frames[camera]
        if camera in trace.cameras_ns:
            frame = kept.get(trace.cameras_ns[camera])
            if frame is None:
                raise ValueError(f"the bag lacks the image of camera '{camera}' that a chunk was made of")
            return frame
        taken_ns = min(trace.cameras_ns.values())
        nearest = min(kept.values(), key=lambda frame: abs(frame.header_ns - taken_ns), default=None)
        if nearest is None or abs(nearest.header_ns - taken_ns) > self._max_skew_s * NS_PER_S:
            raise ValueError(
                f"no image of camera '{camera}', which the recorded policy did not look at, lies within "
                f"{self._max_skew_s:g} s of an observation (max_camera_skew_s in the robot file)"
            )
        return nearest


def _stretches(starts: Sequence[tuple[int, str]], end_ns: int) -> tuple[Stretch, ...]:
    """Each from its start up to the next one's."""
    ends = [start_ns for start_ns, _ in starts[1:]] + [end_ns]
    return tuple(Stretch(start_ns, end, label) for (start_ns, label), end in zip(starts, ends, strict=True))


def _index_at(stretches: Sequence[Stretch], times_ns: int | np.ndarray) -> np.ndarray:
    """Which of ``stretches`` holds each time; the first one what is before it."""
    starts_ns = [stretch.start_ns for stretch in stretches]
    return np.maximum(np.searchsorted(starts_ns, times_ns, side="right") - 1, 0)
