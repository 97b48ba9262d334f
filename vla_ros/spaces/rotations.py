"""Rotations as numbers, one way or another, to matrices and back; all arrays ``[..., size]`` and ``[..., 3, 3]``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

EPSILON = 1e-12


@dataclass(frozen=True)
class Rotation:
    """How many numbers stand for a rotation, and what they mean; ``is_angle``: they are angles, in rad."""

    size: int
    to_matrix: Callable[[np.ndarray], np.ndarray]
    from_matrix: Callable[[np.ndarray], np.ndarray]
    is_angle: bool = False


def matrix_of_quaternion(xyzw: np.ndarray) -> np.ndarray:
    """Of any length but 0; raises ValueError for that."""
    length = np.linalg.norm(xyzw, axis=-1, keepdims=True)
    if not (length > EPSILON).all():
        raise ValueError("a quaternion is 0 0 0 0; expected a rotation")
    x, y, z, w = np.moveaxis(xyzw / length, -1, 0)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def quaternion_of_matrix(matrix: np.ndarray) -> np.ndarray:
    """x, y, z and w, with w of at least 0.

    The outer product of the quaternion with itself follows from the matrix; its row with the largest diagonal is the
    one that loses nothing (Shepperd).
    """
    m = matrix
    trace = np.trace(m, axis1=-2, axis2=-1)
    outer = np.empty((*m.shape[:-2], 4, 4))
    outer[..., :3, :3] = m + np.swapaxes(m, -1, -2)
    for i in range(3):
        outer[..., i, i] = 1 + 2 * m[..., i, i] - trace
        j, k = (i + 1) % 3, (i + 2) % 3
        outer[..., i, 3] = outer[..., 3, i] = m[..., k, j] - m[..., j, k]
    outer[..., 3, 3] = 1 + trace
    largest = np.diagonal(outer, axis1=-2, axis2=-1).argmax(-1)
    row = np.take_along_axis(outer, largest[..., None, None], axis=-2)[..., 0, :]
    row = row / np.linalg.norm(row, axis=-1, keepdims=True)
    return np.where(row[..., 3:] < 0, -row, row)


def matrix_of_vector(vector: np.ndarray) -> np.ndarray:
    """Of axis times angle, rad."""
    half = np.linalg.norm(vector, axis=-1, keepdims=True) / 2
    return matrix_of_quaternion(np.concatenate([vector / 2 * np.sinc(half / np.pi), np.cos(half)], axis=-1))


def vector_of_matrix(matrix: np.ndarray) -> np.ndarray:
    """Axis times angle, of at most pi."""
    xyzw = quaternion_of_matrix(matrix)
    sine = np.linalg.norm(xyzw[..., :3], axis=-1, keepdims=True)
    half = np.arctan2(sine, xyzw[..., 3:])
    return xyzw[..., :3] * 2 / np.sinc(half / np.pi)


def matrix_of_rpy(rpy: np.ndarray) -> np.ndarray:
    """Of roll, pitch and yaw about the fixed axes x, y and z, in this order, as in a URDF."""
    (cr, cp, cy), (sr, sp, sy) = np.moveaxis(np.cos(rpy), -1, 0), np.moveaxis(np.sin(rpy), -1, 0)
    rows = (
        (cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr),
        (sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr),
        (-sp, cp * sr, cp * cr),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def rpy_of_matrix(matrix: np.ndarray) -> np.ndarray:
    """Roll, pitch and yaw; the pitch is from -pi/2 to pi/2, where roll and yaw are one."""
    m = matrix
    cosine = np.hypot(m[..., 0, 0], m[..., 1, 0])
    roll = np.arctan2(m[..., 2, 1], m[..., 2, 2])
    upright = cosine < EPSILON
    roll = np.where(upright, 0.0, roll)
    yaw = np.where(upright, np.arctan2(-m[..., 0, 1], m[..., 1, 1]), np.arctan2(m[..., 1, 0], m[..., 0, 0]))
    return np.stack([roll, np.arctan2(-m[..., 2, 0], cosine), yaw], axis=-1)


def matrix_of_columns(columns: np.ndarray) -> np.ndarray:
    """Of two columns that a network gives: the first decides, the second as far as it is upright to it. Raises
    ValueError where they say no direction."""
    x = _direction(columns[..., :3])
    second = columns[..., 3:]
    y = _direction(second - (x * second).sum(-1, keepdims=True) * x)
    return np.stack([x, y, np.cross(x, y)], axis=-1)


def _direction(vector: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vector, axis=-1, keepdims=True)
    if not (length > EPSILON).all():
        raise ValueError("two columns of a rotation say no direction; expected two that differ")
    return vector / length


def _nothing(matrix: np.ndarray) -> np.ndarray:
    return np.empty((*matrix.shape[:-2], 0))


def _identity(numbers: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.eye(3), (*numbers.shape[:-1], 3, 3))


ROTATIONS = {
    "rotvec": Rotation(3, matrix_of_vector, vector_of_matrix, is_angle=True),
    "rpy": Rotation(3, matrix_of_rpy, rpy_of_matrix, is_angle=True),
    "quat_xyzw": Rotation(4, matrix_of_quaternion, quaternion_of_matrix),
    "quat_wxyz": Rotation(
        4,
        lambda wxyz: matrix_of_quaternion(np.roll(wxyz, -1, axis=-1)),
        lambda matrix: np.roll(quaternion_of_matrix(matrix), 1, axis=-1),
    ),
    "rot6d": Rotation(6, matrix_of_columns, lambda m: np.concatenate([m[..., 0], m[..., 1]], axis=-1)),
    "none": Rotation(0, _identity, _nothing),
}
"""What ``rotation`` of a pose may be."""
