"""Every chunk that is followed, as a trajectory, and what went into it, for a replay to make it again."""

from __future__ import annotations

import numpy as np
from rclpy.node import Node
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vla_ros import topics
from vla_ros.messages.trace import Trace, encode_trace
from vla_ros.messages.trajectories import Trajectory, fill_trajectory
from vla_ros.ros.clock import StampMap
from vla_ros.ros.endpoints import make_publisher
from vla_ros.types import Answer


class ChunkReports:
    """The policy node's topics ``chunk`` and ``trace``."""

    def __init__(self, node: Node, stamps: StampMap) -> None:
        self._stamps = stamps
        self._chunks = make_publisher(node, topics.CHUNK.private)
        self._traces = make_publisher(node, topics.TRACE.private)

    def publish(self, answer: Answer, joint_names: tuple[str, ...]) -> None:
        chunk, observation = answer.chunk, answer.observation
        asked_ns, taken_ns = map(self._stamps.to_ros_ns, (answer.asked_ns, answer.arrived_ns))
        positions = tuple(observation.joint_positions.tolist())
        trace = Trace(observation.headers_ns, positions, observation.task, asked_ns, taken_ns)
        self._traces.publish(String(data=encode_trace(trace)))
        times_s = chunk.chunk_dt_s * (chunk.offset + np.arange(chunk.horizon))
        msg = JointTrajectory()
        trajectory = Trajectory(observation.header_ns, times_s, chunk.positions, None)
        fill_trajectory(msg, trajectory, joint_names, JointTrajectoryPoint)
        self._chunks.publish(msg)
