"""Geometry of the table-top arm: lengths in metres, and inverse kinematics for a tool that points straight down.

The base yaws about z; shoulder, elbow and wrist pitch in one vertical plane, angles from the vertical, forward
positive; the wrist rolls about the tool. The tool points down where shoulder + elbow + wrist = pi.
"""

from __future__ import annotations

import math

import numpy as np

JOINT_NAMES = ("base_yaw", "shoulder_pitch", "elbow_pitch", "wrist_pitch", "wrist_roll", "gripper")
SHOULDER_HEIGHT_M = 0.16
UPPER_ARM_M = 0.30
FOREARM_M = 0.30
TOOL_M = 0.16


def tool_down(position: np.ndarray, roll_rad: float = 0.0) -> np.ndarray:
    """Joint positions ``[6]`` that put the tool tip at ``position`` ``[3]`` (m, base frame), pointing down.

    Raises ValueError where the arm cannot reach.
    """
    x, y, z = (float(value) for value in position)
    radius = math.hypot(x, y)
    height = z + TOOL_M - SHOULDER_HEIGHT_M
    cos_elbow = (radius**2 + height**2 - UPPER_ARM_M**2 - FOREARM_M**2) / (2 * UPPER_ARM_M * FOREARM_M)
    if not -1.0 <= cos_elbow <= 1.0:
        raise ValueError(f"tip position ({x:.3f}, {y:.3f}, {z:.3f}) m is out of the arm's reach")
    elbow = math.acos(cos_elbow)
    inner = math.atan2(FOREARM_M * math.sin(elbow), UPPER_ARM_M + FOREARM_M * math.cos(elbow))
    shoulder = math.atan2(radius, height) - inner
    return np.array([math.atan2(y, x), shoulder, elbow, math.pi - shoulder - elbow, roll_rad, 0.0])


def nearest_reachable(position: np.ndarray) -> np.ndarray:
    """``position`` ``[3]`` (m) of the tip, drawn in towards the shoulder until the arm reaches it with some margin."""
    from_shoulder = position - [0.0, 0.0, SHOULDER_HEIGHT_M - TOOL_M]
    far = float(np.linalg.norm(from_shoulder)) / (0.97 * (UPPER_ARM_M + FOREARM_M))
    return position if far <= 1.0 else position - from_shoulder * (1.0 - 1.0 / far)


def tip_position(joint_positions: np.ndarray) -> np.ndarray:
    """Where the tool tip is, ``[3]`` in m, for ``joint_positions`` ``[6]``."""
    yaw, shoulder, elbow, wrist = (float(value) for value in joint_positions[:4])
    radius, height = 0.0, SHOULDER_HEIGHT_M
    for length, pitch in ((UPPER_ARM_M, shoulder), (FOREARM_M, shoulder + elbow), (TOOL_M, shoulder + elbow + wrist)):
        radius += length * math.sin(pitch)
        height += length * math.cos(pitch)
    return np.array([radius * math.cos(yaw), radius * math.sin(yaw), height])
