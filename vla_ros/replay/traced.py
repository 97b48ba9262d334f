"""The observations that a recording's answers were made of, made again of its images."""

from __future__ import annotations

import numpy as np

from vla_ros.messages.trace import Trace
from vla_ros.robot import RobotConfig
from vla_ros.types import Frame, Observation
from vla_ros.units import NS_PER_S

KEPT_S = 2.0
"""An answer that comes later than this after its observation is a fault anyway."""


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
        headers_ns = {name: frame.header_ns for name, frame in frames.items()}
        return Observation(
            stamp_ns=min(headers_ns.values()),
            headers_ns=headers_ns,
            images={name: frame.image for name, frame in frames.items()},
            joint_positions=np.array(trace.joint_positions),
            task=trace.task,
        )

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
