"""Commands as a listener hears them, with the middleware's own times: the listener may be late in looking."""

from __future__ import annotations

from typing import Any

from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy

from vla_ros.bench.control.judge import HeardCommand
from vla_ros.messages.trajectories import Trajectory

EVERYTHING = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1000, reliability=ReliabilityPolicy.RELIABLE)
_NO_SEQUENCE = 1 << 63


def heard_command(trajectory: Trajectory, info: dict[str, Any], mode: str = "") -> HeardCommand:
    """A command of all joints and what ``info`` of its receipt says. Raises ValueError where it has no velocities."""
    if trajectory.velocities is None:
        raise ValueError("trajectory has no velocities; expected some in each point")
    sequence = info.get("publication_sequence_number")
    return HeardCommand(
        sent_ns=info["source_timestamp"],
        arrived_ns=info["received_timestamp"],
        sequence=None if sequence is None or sequence >= _NO_SEQUENCE else sequence,
        mode=mode,
        times_s=trajectory.times_s,
        positions=trajectory.positions,
        velocities=trajectory.velocities,
    )
