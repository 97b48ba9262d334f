"""Where the tip of an arm is, or is to go, as numbers: a position and a rotation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vla_ros.spaces.components import FITTING_TRAVELS, REFERENCES, Component, RobotJoints, check_choice
from vla_ros.spaces.kinematics import TOLERANCE_M, TOLERANCE_RAD, Chain
from vla_ros.spaces.rotations import ROTATIONS, vector_of_matrix
from vla_ros.units import RAD_PER_DEG, SI_PER_UNIT

TRANSLATIONS = ("m", "mm", "scale")
FRAMES = ("base", "tip")


@dataclass(frozen=True, kw_only=True)
class Pose(Component):
    """Link ``tip`` in link ``base``, where they are empty those of the robot file: three numbers for the position, in
    ``translation`` (with ``scale`` ``translation_scale`` m at 1.0), and those of ``rotation``, whose angles are
    ``rotation_scale`` rad at 1.0.

    Where ``reference`` is ``observation`` or ``previous`` it is the way from there, given in the axes of ``frame``;
    rotations compose. ``rotation: none`` leaves it free.
    """

    needs_kinematics = True

    tip: str = ""
    base: str = ""
    translation: str = "m"
    translation_scale: float | None = None
    rotation: str = "rotvec"
    rotation_scale: float | None = None
    reference: str = "absolute"
    frame: str = "base"

    def __post_init__(self) -> None:
        check_choice("translation", self.translation, TRANSLATIONS)
        check_choice("rotation", self.rotation, tuple(ROTATIONS))
        check_choice("reference", self.reference, REFERENCES)
        check_choice("frame", self.frame, FRAMES)
        if (self.translation == "scale") != (self.translation_scale is not None):
            got = f"translation is '{self.translation}' and translation_scale {self.translation_scale}"
            raise ValueError(f"{got}; expected translation: scale with translation_scale: m at 1.0")
        if self.rotation_scale is not None and not ROTATIONS[self.rotation].is_angle:
            raise ValueError(f"rotation_scale stands beside rotation '{self.rotation}'; expected rotvec or rpy")
        if 0 in (self.translation_scale, self.rotation_scale):
            raise ValueError("a scale is 0; expected m, or rad, at 1.0")
        if self.reference == "absolute" and self.frame != "base":
            raise ValueError("frame is 'tip' for an absolute pose; expected base: a frame is for what is relative")

    @property
    def size(self) -> int:
        return 3 + ROTATIONS[self.rotation].size

    @property
    def why_no_state(self) -> str:
        return "" if self.reference == "absolute" else f"reference is '{self.reference}'; expected absolute in a state"

    def moves(self, robot: RobotJoints) -> tuple[str, ...]:
        return () if robot.kinematics is None else self._chain(robot).names

    def encode(self, targets: np.ndarray, measured: np.ndarray, robot: RobotJoints) -> np.ndarray:
        chain = self._chain(robot)
        poses = chain.poses(targets)
        if self.reference != "absolute":
            before = chain.poses(measured)[..., None, :, :]
            if self.reference == "previous":
                before = np.concatenate([before, poses[..., :-1, :, :]], axis=-3)
            poses = self._way(before, poses)
        rotations = ROTATIONS[self.rotation].from_matrix(poses[..., :3]) / (self.rotation_scale or 1.0)
        return np.concatenate([poses[..., 3] / self._metres, rotations], axis=-1)

    def decode(self, values: np.ndarray, measured: np.ndarray, robot: RobotJoints, targets: np.ndarray) -> None:
        chain, (*batch, horizon, _) = self._chain(robot), values.shape
        poses = self._wanted(values, measured, chain).reshape(-1, horizon, 3, 4)
        measured = np.broadcast_to(measured, (*batch, measured.shape[-1])).reshape(len(poses), -1)
        for wanted, start, rows in zip(poses, measured, targets.reshape(len(poses), horizon, -1), strict=True):
            chain.follow(wanted, rows, start, robot.chunk_dt_s, self.rotation != "none")

    def shortfall(self, values: np.ndarray, measured: np.ndarray, robot: RobotJoints, targets: np.ndarray) -> str:
        far_m, far_rad = self._far(values, measured, robot, targets)
        missed = _is_far(far_m, far_rad)
        if not missed.any():
            return ""
        worst = f"by up to {far_m.max() * 1e3:.1f} mm and {far_rad.max() / RAD_PER_DEG:.1f} deg"
        name = self.tip or robot.kinematics.tip  # type: ignore[union-attr]
        why = "beyond the arm's reach, joint limits or speed; the nearest are taken"
        return f"{missed.sum()} of {missed.size} poses of '{name}' are missed {worst}: {why}"

    def missed(self, values: np.ndarray, measured: np.ndarray, robot: RobotJoints, targets: np.ndarray) -> np.ndarray:
        return _is_far(*self._far(values, measured, robot, targets))

    def _far(
        self, values: np.ndarray, measured: np.ndarray, robot: RobotJoints, targets: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """How far the tip is from what ``values`` say, m and rad ``[..., horizon]``."""
        chain = self._chain(robot)
        wanted, found = self._wanted(values, measured, chain), chain.poses(targets)
        turned = wanted[..., :3] @ np.swapaxes(found[..., :3], -1, -2)
        far_rad = np.linalg.norm(vector_of_matrix(turned), axis=-1) * (self.rotation != "none")
        return np.linalg.norm(found[..., 3] - wanted[..., 3], axis=-1), far_rad

    def misfit(self, low: np.ndarray, high: np.ndarray, robot: RobotJoints) -> str:
        position, rotation = slice(3), slice(3, self.size if ROTATIONS[self.rotation].is_angle else 3)
        for what, numbers, scale, unit, most in (
            ("positions", position, self._metres, "m", self._chain(robot).reach_m),
            ("angles", rotation, self.rotation_scale or 1.0, "rad", math.pi),
        ):
            start, end = low[numbers] * scale, high[numbers] * scale
            wide = np.abs(end - start) > FITTING_TRAVELS * most
            if wide.any():
                k = int(wide.argmax())
                got = f"{what} of a pose are from {start[k]:.3g} to {end[k]:.3g} {unit} by the statistics"
                return f"{got}, and at most {most:.3g} {unit} either way; expected another unit or scale"
        return ""

    @property
    def _metres(self) -> float:
        """What 1.0 of the position is."""
        return self.translation_scale or SI_PER_UNIT[self.translation]

    def _chain(self, robot: RobotJoints) -> Chain:
        return robot.chain(self.base, self.tip)

    def _wanted(self, values: np.ndarray, measured: np.ndarray, chain: Chain) -> np.ndarray:
        """The poses ``[..., horizon, 3, 4]`` that the numbers say."""
        rotations = ROTATIONS[self.rotation].to_matrix(values[..., 3:] * (self.rotation_scale or 1.0))
        poses = np.concatenate([rotations, values[..., :3, None] * self._metres], axis=-1)
        if self.reference == "absolute":
            return poses
        start = chain.poses(measured)
        if self.reference == "observation":
            return self._gone(start[..., None, :, :], poses)
        for k in range(poses.shape[-3]):
            start = poses[..., k, :, :] = self._gone(start, poses[..., k, :, :])
        return poses

    def _way(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """From one pose to another."""
        back, step = np.swapaxes(before[..., :3], -1, -2), after[..., 3:] - before[..., 3:]
        if self.frame == "base":
            return np.concatenate([after[..., :3] @ back, np.broadcast_to(step, after[..., 3:].shape)], axis=-1)
        return np.concatenate([back @ after[..., :3], back @ step], axis=-1)

    def _gone(self, before: np.ndarray, way: np.ndarray) -> np.ndarray:
        """Where one gets from a pose: the inverse of ``_way``."""
        if self.frame == "base":
            return np.concatenate([way[..., :3] @ before[..., :3], before[..., 3:] + way[..., 3:]], axis=-1)
        turn = before[..., :3]
        return np.concatenate([turn @ way[..., :3], before[..., 3:] + turn @ way[..., 3:]], axis=-1)


def _is_far(far_m: np.ndarray, far_rad: np.ndarray) -> np.ndarray:
    return (far_m > TOLERANCE_M) | (far_rad > TOLERANCE_RAD)
