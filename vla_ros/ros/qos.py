"""The quality-of-service profiles of the topics users rely on."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from vla_ros.topics import Qos


def _profile(reliability: ReliabilityPolicy, durability: DurabilityPolicy, depth: int = 1) -> QoSProfile:
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability, durability=durability)


CAMERA = _profile(ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE)
# More than one, so that a burst after a pause still fills the interpolation.
JOINT_STATES = _profile(ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE, depth=10)
# Every publisher can serve it; more than one, so that a burst is counted whole.
WATCH = _profile(ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE, depth=10)
# For whoever counts every single message.
EVERYTHING = _profile(ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE, depth=1000)
EVERYTHING_LATCHED = _profile(ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL, depth=1000)
COMMAND = _profile(ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)
# For what a late subscriber must still learn: the task, the mode, a robot's URDF.
LATCHED = _profile(ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)
REPORT = _profile(ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE, depth=10)

# Every publisher can serve it. Between the three of them they match every publisher at its best.
ANYBODY = _profile(ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE)
RELIABLE = _profile(ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)

PROFILES = {Qos.SENSOR: CAMERA, Qos.COMMAND: COMMAND, Qos.LATCHED: LATCHED, Qos.REPORT: REPORT}
