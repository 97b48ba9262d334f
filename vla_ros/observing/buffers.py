"""The newest samples of each sensor.

Each buffer has one writer and any number of readers without a lock: a write replaces an immutable tuple, so a reader
sees either the old one or the new one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vla_ros.interpolate import between, whole_turns
from vla_ros.robot import RobotConfig
from vla_ros.types import Frame, JointSample
from vla_ros.units import NS_PER_S

NUM_FRAMES = 8
NUM_JOINT_SAMPLES = 512
NUM_FIRST_ROWS = 16
# An arm that is pushed by hand may be faster than its limit, not twice as fast; stamps of a driver that was held up lie
# closer together than what they stand for.
MAX_SPEED_FACTOR = 2.0
MIN_SPAN_S = 0.1
MIN_VELOCITY_SPAN_S = 0.005


class FrameBuffer:
    """The last ``NUM_FRAMES`` frames of one camera, oldest first."""

    def __init__(self) -> None:
        self._frames: tuple[Frame, ...] = ()
        self._changed_ns = 0

    def add(self, frame: Frame) -> bool:
        """Returns whether ``frame`` is newer than the newest; else it is ignored."""
        frames = self._frames
        if frames and frame.stamp_ns <= frames[-1].stamp_ns:
            return False
        if not frames or not _is_same(frame.content, frames[-1].content):
            self._changed_ns = frame.stamp_ns
        self._frames = (*frames[1 - NUM_FRAMES :], frame)
        return True

    def still_s(self, since_ns: int) -> float:
        """How long after ``since_ns`` the pixels have stayed exactly the same, in the frames' own time."""
        newest = self.newest()
        return 0.0 if newest is None else max(0, newest.stamp_ns - max(self._changed_ns, since_ns)) / NS_PER_S

    def clear(self) -> None:
        self._frames = ()

    def newest(self) -> Frame | None:
        frames = self._frames
        return frames[-1] if frames else None

    def nearest(self, stamp_ns: int) -> Frame | None:
        """The frame taken closest to ``stamp_ns``; the newer one of two equally close."""
        return min(reversed(self._frames), key=lambda frame: abs(frame.stamp_ns - stamp_ns), default=None)


@dataclass(frozen=True)
class Jump:
    """Two joint samples, one after the other and ``span_s`` apart, that no arm can give: ``joint``, by its column, is
    ``distance`` further in the one of ``stamp_ns``."""

    stamp_ns: int
    joint: int
    distance: float
    span_s: float


class JointBuffer:
    """The last ``NUM_JOINT_SAMPLES`` joint samples, oldest first. A sample not newer than the newest is ignored.

    ``turns`` says which joints turn without end, bool ``[num_joints]``; any may where nobody knows. ``jump`` is the
    last one there was: a joint that was far faster than ``max_velocities`` ``[num_joints]``. Velocities that a driver
    doesn't send, or that no arm can have, come of the sample before.
    """

    def __init__(self, turns: np.ndarray | bool = True, max_velocities: np.ndarray | float = math.inf) -> None:
        self.jump: Jump | None = None
        self._turns = turns
        self._max_speeds = MAX_SPEED_FACTOR * max_velocities
        self._samples: tuple[JointSample, ...] = ()

    def add(self, sample: JointSample) -> None:
        newest, velocities = self.newest(), np.full_like(sample.positions, np.nan)
        if newest is not None:
            span_s = (sample.stamp_ns - newest.stamp_ns) / NS_PER_S
            step = sample.positions - newest.positions
            step = step - whole_turns(step, self._turns)
            excess = np.abs(step) / self._max_speeds - max(abs(span_s), MIN_SPAN_S)
            if (excess > 0).any():
                joint = int(excess.argmax())
                self.jump = Jump(max(sample.stamp_ns, newest.stamp_ns), joint, float(abs(step[joint])), abs(span_s))
            if span_s <= 0:
                return
            velocities = step / max(span_s, MIN_VELOCITY_SPAN_S)
        if not (np.abs(sample.velocities) <= self._max_speeds).all():
            sample = replace(sample, velocities=velocities)
        self._samples = (*self._samples[1 - NUM_JOINT_SAMPLES :], sample)

    def clear(self) -> None:
        self._samples, self.jump = (), None

    def spread_since(self, stamp_ns: int) -> np.ndarray:
        """How far each joint was moved in the samples from ``stamp_ns`` on and the one before, ``[num_joints]``."""
        samples = self._samples
        num_older = sum(sample.stamp_ns < stamp_ns for sample in samples)
        return np.ptp([sample.positions for sample in samples[max(num_older - 1, 0) :]], axis=0)

    def newest(self) -> JointSample | None:
        samples = self._samples
        return samples[-1] if samples else None

    def at(self, stamp_ns: int, max_gap_s: float = math.inf) -> JointSample | None:
        """The joints at ``stamp_ns``, interpolated between the samples around it.

        After the newest sample it is the newest; there is none before the oldest, and between two that are further
        apart than ``max_gap_s``.
        """
        samples = self._samples
        if not samples or stamp_ns < samples[0].stamp_ns:
            return None
        if stamp_ns >= samples[-1].stamp_ns:
            return samples[-1]
        after = len(samples) - 1
        while samples[after - 1].stamp_ns > stamp_ns:
            after -= 1
        early, late = samples[after - 1], samples[after]
        if late.stamp_ns - early.stamp_ns > max_gap_s * NS_PER_S and stamp_ns > early.stamp_ns:
            return None
        weight = (stamp_ns - early.stamp_ns) / (late.stamp_ns - early.stamp_ns)
        return JointSample(
            stamp_ns,
            between(early.positions, late.positions, weight, self._turns),
            early.velocities + weight * (late.velocities - early.velocities),
        )


class RobotJoints:
    """The joints of a robot, ``[num_joints]``, put together of what its sources sent: ``buffers`` has one for each of
    ``RobotConfig.joint_sources``."""

    def __init__(self, robot: RobotConfig) -> None:
        self._turns, max_velocities = robot.turns, robot.joint_values("max_velocity")
        self._max_gaps_s = [source.max_age_s for source in robot.joint_sources]
        self._columns = [robot.columns(source.joints) for source in robot.joint_sources]
        self.buffers = tuple(JointBuffer(self._turns[own], max_velocities[own]) for own in self._columns)

    def add(self, sample: JointSample) -> None:
        """A sample of the joints of its source."""
        self.buffers[sample.source].add(sample)

    def clear(self) -> None:
        for buffer in self.buffers:
            buffer.clear()

    def way(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """From one ``[num_joints]`` to another, the short way for a joint that turns without end."""
        step = end - start
        return step - whole_turns(step, self._turns)

    def newest(self) -> JointSample | None:
        """The joints when all sources were heard last: at the oldest of their newest samples. None before that."""
        stamps_ns = [sample.stamp_ns for buffer in self.buffers if (sample := buffer.newest()) is not None]
        if len(stamps_ns) < len(self.buffers):
            return None
        return self._together([buffer.at(min(stamps_ns)) for buffer in self.buffers])

    def at(self, stamp_ns: int) -> JointSample | None:
        """The joints at ``stamp_ns`` as ``JointBuffer.at`` has each source's, whose samples are at most ``max_age_s``
        apart; None where one has none."""
        each = zip(self.buffers, self._max_gaps_s, strict=True)
        return self._together([buffer.at(stamp_ns, gap_s) for buffer, gap_s in each])

    def spread_since(self, stamp_ns: int) -> np.ndarray:
        """As ``JointBuffer.spread_since``; each source has samples."""
        return self._in_order([buffer.spread_since(stamp_ns) for buffer in self.buffers])

    def _together(self, samples: Sequence[JointSample | None]) -> JointSample | None:
        known = [sample for sample in samples if sample is not None]
        if len(known) < len(samples):
            return None
        return JointSample(
            min(sample.stamp_ns for sample in known),
            self._in_order([sample.positions for sample in known]),
            self._in_order([sample.velocities for sample in known]),
        )

    def _in_order(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        whole = np.empty(len(self._turns))
        for columns, part in zip(self._columns, parts, strict=True):
            whole[columns] = part
        return whole


class SensorBuffers:
    """Everything a policy's observation is made of, as it arrived last: frames, joints and the instruction."""

    def __init__(self, robot: RobotConfig) -> None:
        self.cameras = {name: FrameBuffer() for name in robot.camera_names}
        self.joints = RobotJoints(robot)
        self.task = ""

    def clear(self) -> None:
        """Forget frames and joints: the clock they were stamped by has jumped."""
        for frames in self.cameras.values():
            frames.clear()
        self.joints.clear()


def _is_same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays are equal; the noise of a camera shows in the first rows already."""
    return np.array_equal(one[:NUM_FIRST_ROWS], other[:NUM_FIRST_ROWS]) and np.array_equal(one, other)
