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
from vla_ros.robot.parts import JointStateConfig
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

    ``turns`` says which joints turn without end, bool ``[num_joints]``. ``jump`` is the last one there was: a joint
    that was far faster than ``max_velocities`` ``[num_joints]``. Velocities that a driver doesn't send, or that no arm
    can have, come of the sample before.
    """

    def __init__(self, turns: np.ndarray, max_velocities: np.ndarray) -> None:
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

    def only(self, rows: list[int]) -> JointBuffer:
        """A buffer of some of these joints, with what came of them."""
        buffer = JointBuffer(self._turns[rows], self._max_speeds[rows] / MAX_SPEED_FACTOR)
        buffer._samples = tuple(JointSample(s.stamp_ns, s.positions[rows], s.velocities[rows]) for s in self._samples)
        jump = self.jump
        buffer.jump = replace(jump, joint=rows.index(jump.joint)) if jump is not None and jump.joint in rows else None
        return buffer

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


@dataclass(frozen=True)
class JointPart:
    """Joints of a robot that are measured together: those of ``source``, which are ``columns`` of all."""

    source: JointStateConfig
    columns: list[int]
    buffer: JointBuffer

    def at(self, stamp_ns: int) -> JointSample | None:
        """As ``JointBuffer.at``, of samples at most ``max_age_s`` apart."""
        return self.buffer.at(stamp_ns, self.source.max_age_s)

    def split(self, is_named: Sequence[bool]) -> tuple[JointPart, ...]:
        """The joints that are named, bool ``[num_joints]``, and the others, apart from now on, each with its past."""
        rows = range(len(self.columns))
        halves = ([row for row in rows if is_named[self.columns[row]] is kept] for kept in (True, False))
        return tuple(self._only(half) for half in halves if half)

    def _only(self, rows: list[int]) -> JointPart:
        source = replace(self.source, joints=tuple(self.source.joints[row] for row in rows))
        return JointPart(source, [self.columns[row] for row in rows], self.buffer.only(rows))


class RobotJoints:
    """The joints of a robot, ``[num_joints]``, put together of what came.

    ``parts`` are the joints that come together: those of each of ``RobotConfig.joint_sources`` at first, fewer as soon
    as a message has only some of them, as where an arm and its gripper each send their own. So each joint is as old as
    the newest message that names it.
    """

    def __init__(self, robot: RobotConfig) -> None:
        self._robot = robot
        self._turns = robot.turns
        self.parts: tuple[JointPart, ...] = ()
        self.clear()

    def add(self, sample: JointSample) -> None:
        """A sample of those joints that have a position in it."""
        is_named = np.isfinite(sample.positions).tolist()
        num_named = [sum(is_named[column] for column in part.columns) for part in self.parts]
        if any(0 < num < len(part.columns) for num, part in zip(num_named, self.parts, strict=True)):
            self.parts = tuple(half for part in self.parts for half in part.split(is_named))
        for part in self.parts:
            if is_named[part.columns[0]]:
                own = part.columns
                part.buffer.add(JointSample(sample.stamp_ns, sample.positions[own], sample.velocities[own]))

    def clear(self) -> None:
        max_velocities = self._robot.joint_values("max_velocity")
        parts = []
        for source in self._robot.joint_sources:
            own = self._robot.columns(source.joints)
            parts.append(JointPart(source, own, JointBuffer(self._turns[own], max_velocities[own])))
        self.parts = tuple(parts)

    def way(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """From one ``[num_joints]`` to another, the short way for a joint that turns without end."""
        step = end - start
        return step - whole_turns(step, self._turns)

    def newest(self) -> JointSample | None:
        """The joints when all of them were heard last: at the oldest of their newest samples. None before that."""
        parts = self.parts
        stamps_ns = [sample.stamp_ns for part in parts if (sample := part.buffer.newest()) is not None]
        if len(stamps_ns) < len(parts):
            return None
        return self._together(parts, [part.buffer.at(min(stamps_ns)) for part in parts])

    def at(self, stamp_ns: int) -> JointSample | None:
        """The joints at ``stamp_ns`` as ``JointPart.at`` has them; None where it has one of them not."""
        parts = self.parts
        return self._together(parts, [part.at(stamp_ns) for part in parts])

    def spread_since(self, stamp_ns: int) -> np.ndarray:
        """As ``JointBuffer.spread_since``; each joint has samples."""
        parts = self.parts
        return self._in_order(parts, [part.buffer.spread_since(stamp_ns) for part in parts])

    def _together(self, parts: Sequence[JointPart], samples: Sequence[JointSample | None]) -> JointSample | None:
        known = [sample for sample in samples if sample is not None]
        if len(known) < len(samples):
            return None
        return JointSample(
            min(sample.stamp_ns for sample in known),
            self._in_order(parts, [sample.positions for sample in known]),
            self._in_order(parts, [sample.velocities for sample in known]),
        )

    def _in_order(self, parts: Sequence[JointPart], values: Sequence[np.ndarray]) -> np.ndarray:
        whole = np.empty(len(self._turns))
        for part, own in zip(parts, values, strict=True):
            whole[part.columns] = own
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
