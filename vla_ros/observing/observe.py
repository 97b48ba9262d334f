"""From what the sensors gave to one observation, or the reason why there is none: the rule of the live node, of replay
and of training."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vla_ros import topics
from vla_ros.observing.buffers import NUM_FRAMES, FrameBuffer, SensorBuffers
from vla_ros.observing.freshness import sensor_fault
from vla_ros.robot import RobotConfig
from vla_ros.types import Frame, Observation
from vla_ros.units import NS_PER_S

_STALE = {
    "joints": "without a joint state within joint_states.max_age_s",
    "camera": "without an image of each other camera within its max_age_s",
}


@dataclass(frozen=True)
class NoObservation:
    """Why no observation can be made now: one line for logs, diagnostics and refused requests. ``kind`` says it of
    the images that are of no use because of it, to count them by."""

    reason: str
    kind: str


@dataclass(frozen=True)
class Match:
    """What belongs together: a frame of each camera, in the robot file's order, and the joints at the time of the
    oldest. Nobody has looked at the pixels yet."""

    stamp_ns: int
    frames: Mapping[str, Frame]
    joint_positions: np.ndarray
    task: str

    def observation(self) -> Observation:
        """Raises ValueError for an image that is decoded only now and turns out to be none."""
        return Observation(
            stamp_ns=self.stamp_ns,
            headers_ns={name: frame.header_ns for name, frame in self.frames.items()},
            images={name: frame.image for name, frame in self.frames.items()},
            joint_positions=self.joint_positions,
            task=self.task,
        )


def observe(robot: RobotConfig, sensors: SensorBuffers, now_ns: int) -> Observation | NoObservation:
    """The newest observation at ``now_ns``; raises ValueError as ``Match.observation``."""
    found = match_newest(robot, sensors, now_ns)
    return found.observation() if isinstance(found, Match) else found


def match_newest(robot: RobotConfig, sensors: SensorBuffers, now_ns: int) -> Match | NoObservation:
    """What the newest observation at ``now_ns`` is made of.

    The camera whose newest frame is oldest sets the time; every other camera gives its frame nearest to that, the
    oldest stamp so chosen is ``t_obs``, and the joints are interpolated to it.
    """
    fault = sensor_fault(robot, sensors, now_ns)
    if fault is not None:
        return NoObservation(fault.line, _STALE[fault.kind])
    if not sensors.task:
        return NoObservation(f"no instruction has come on '{topics.TASK}'", "without an instruction")
    frames = _matching_frames(sensors.cameras)
    first = min(frames.values(), key=lambda frame: frame.stamp_ns)
    last = max(frames.values(), key=lambda frame: frame.stamp_ns)
    skew_s = (last.stamp_ns - first.stamp_ns) / NS_PER_S
    if skew_s > robot.max_camera_skew_s:
        line = (
            f"cameras '{first.camera}' and '{last.camera}' are {skew_s:.3f} s apart; expected at most "
            f"{robot.max_camera_skew_s:g} s (max_camera_skew_s in the robot file)"
        )
        return NoObservation(line, "without an image of each other camera within max_camera_skew_s")
    joints = sensors.joints.at(first.stamp_ns)
    if joints is None:
        source = next(part.source for part in sensors.joints.parts if part.at(first.stamp_ns) is None)
        line = (
            f"no joint state {robot.where(source)} is as old as the image of camera '{first.camera}', or those around "
            f"it are more than {source.max_age_s:g} s apart"
        )
        return NoObservation(line, "without joint states around them")
    return Match(first.stamp_ns, frames, joints.positions, sensors.task)


class Observer:
    """Every observation there is in a stream, each once, as the live node makes them while its model is free.

    It is given the frames; joints and instructions go into ``sensors``. Two matches of one ``t_obs`` are the same
    observation.
    """

    def __init__(self, robot: RobotConfig) -> None:
        self.sensors = SensorBuffers(robot)
        self._robot = robot
        self._last_ns: int | None = None
        self._now_ns = 0
        self._unmatched: dict[str, deque[tuple[int, str]]] = {name: deque() for name in robot.camera_names}
        self._num_missed: Counter[str] = Counter()

    @property
    def num_missed(self) -> Counter[str]:
        """How many frames, by the reason, came when no observation could be made, and went into none later either."""
        return self._num_missed + Counter(kind for frames in self._unmatched.values() for _, kind in frames)

    def see(self, frame: Frame, now_ns: int) -> Match | None:
        """The observation that there is since ``frame`` came, at ``now_ns`` or later; None where there is no new
        one."""
        self._now_ns = max(self._now_ns, now_ns)
        if not self.sensors.cameras[frame.camera].add(frame):
            self._num_missed["not newer than the one before"] += 1
        found = match_newest(self._robot, self.sensors, self._now_ns)
        if isinstance(found, NoObservation):
            self._miss(frame, found.kind)
            return None
        if found.stamp_ns == self._last_ns:
            return None
        self._last_ns = found.stamp_ns
        for name, unmatched in self._unmatched.items():
            while unmatched and unmatched[0][0] <= found.frames[name].stamp_ns:
                stamp_ns, kind = unmatched.popleft()
                self._num_missed[kind] += stamp_ns < found.frames[name].stamp_ns
        return found

    def _miss(self, frame: Frame, kind: str) -> None:
        unmatched = self._unmatched[frame.camera]
        if self.sensors.cameras[frame.camera].newest() is frame:
            unmatched.append((frame.stamp_ns, kind))
        if len(unmatched) > NUM_FRAMES:
            self._num_missed[unmatched.popleft()[1]] += 1


def _matching_frames(cameras: Mapping[str, FrameBuffer]) -> dict[str, Frame]:
    reference_ns = min(frame.stamp_ns for buffer in cameras.values() if (frame := buffer.newest()) is not None)
    nearest = {name: buffer.nearest(reference_ns) for name, buffer in cameras.items()}
    frames = {name: frame for name, frame in nearest.items() if frame is not None}
    assert len(frames) == len(cameras), "sensor_fault has checked it"
    return frames


def match_policy(robot: RobotConfig, joint_names: Sequence[str], camera_names: Sequence[str]) -> RobotConfig:
    """``robot`` with just the cameras a policy looks at, in the policy's order.

    Raises ValueError where the policy's joints or cameras are not the robot's.
    """
    if tuple(joint_names) != robot.joint_names:
        raise ValueError(
            f"the policy has joints {', '.join(joint_names)} and robot '{robot.name}' has "
            f"{', '.join(robot.joint_names)}; expected the same in the same order: fix joints in the robot file"
        )
    missing = [name for name in camera_names if name not in robot.camera_names]
    if missing:
        raise ValueError(
            f"the policy looks at camera '{missing[0]}' and robot '{robot.name}' has {', '.join(robot.camera_names)}; "
            "add it to cameras in the robot file"
        )
    cameras = {camera.name: camera for camera in robot.cameras}
    return replace(robot, cameras=tuple(cameras[name] for name in camera_names))
