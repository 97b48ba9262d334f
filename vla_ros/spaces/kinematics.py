"""Forward and inverse kinematics of a chain of a robot's joints, by Pinocchio, which is loaded where there is one.

Inverse kinematics is damped least squares (Levenberg-Marquardt), solved along a path: each pose from the joints before
it, inside joint limits and no further than the joints move in the time there is. What cannot be reached gives the
nearest pose, where a metre counts as much as ``1 / M_PER_RAD`` rad.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np

from vla_ros.robot import RobotConfig
from vla_ros.strict import explained, read_text
from vla_ros.urdf import check_driven, link_at, parse_urdf

M_PER_RAD = 0.2
# Of the first step; a tenth of it after one that brought the pose nearer, ten times after one that didn't.
DAMPING, MAX_DAMPING = 1e-5, 1e4
CONVERGED, STILL_RAD = 1e-9, 1e-7
MAX_ITERATIONS = 20
# How much of the way back to the joints at the observation a pose takes where it leaves a choice.
POSTURE_GAIN = 0.1
# Commands are ahead of what is measured: so long at full speed is the first of a path.
LAG_S = 0.2
# A pose is reached within these.
TOLERANCE_M, TOLERANCE_RAD = 1e-3, 0.05
NOT_A_LIMIT = "1e9"
_KEPT = ("origin", "parent", "child", "axis", "limit", "mimic")


@dataclass(frozen=True)
class Kinematics:
    """The ``data.kinematics`` group: the robot's links, and the two that a pose is of where it names none.

    ``urdf`` is a file of the policy directory, and its text once that is read. ``max_velocity`` is that of each joint,
    rad/s or m/s, and ``fixed`` are the joints that are measured and never driven, both from the robot file.
    """

    urdf: str
    base: str
    tip: str
    max_velocity: Mapping[str, Any]
    fixed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, speed in self.max_velocity.items():
            if type(speed) not in (int, float) or not 0 < speed < np.inf:
                raise ValueError(f"max_velocity of joint '{name}' is {speed!r}; expected a number above 0")


def kinematics_of(robot: RobotConfig) -> Kinematics:
    """What a robot file says of links and joints. Raises ValueError where it has no ``kinematics``."""
    if robot.kinematics is None:
        raise ValueError(
            f"a pose needs a URDF; add kinematics: {{urdf, base, tip}} to the file of robot '{robot.name}'"
        )
    where = f"URDF {robot.kinematics.urdf}"
    with explained(f"{where}: ", OSError):
        text = read_text(robot.kinematics.urdf)
    return Kinematics(
        urdf=strip_urdf(text, where),
        base=robot.kinematics.base,
        tip=robot.kinematics.tip,
        max_velocity={joint.name: joint.max_velocity for joint in robot.joints if not joint.fixed},
        fixed=tuple(joint.name for joint in robot.joints if joint.fixed),
    )


def strip_urdf(text: str, where: str) -> str:
    """Links and joints of a URDF's ``text``, and nothing of what they look like or weigh.

    Raises ValueError, beginning with ``where``, for any but an expanded URDF.
    """
    root = parse_urdf(text, where).root
    for element in [child for child in root if child.tag not in ("link", "joint")]:
        root.remove(element)
    for element in root:
        kept = () if element.tag == "link" else _KEPT
        for child in [child for child in element if child.tag not in kept]:
            element.remove(child)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


class Chain:
    """The joints from link ``base`` to link ``tip``; ``names`` are the robot's that it moves by, without those fixed.
    The links are never further apart than ``reach_m``, which is infinite where a joint slides.

    Joint positions are the robot's, ``[..., num_joints]``; poses are ``[..., 3, 4]``, rotation and then translation,
    of the tip in the base. Raises ValueError, in one line, where there is no such chain or no Pinocchio, and for a
    joint in between that is not the robot's.
    """

    def __init__(
        self,
        kinematics: Kinematics,
        base: str,
        tip: str,
        joint_names: Sequence[str],
        limits: Mapping[str, Sequence[float]],
    ) -> None:
        path = parse_urdf(kinematics.urdf, "the URDF").path(base, tip)
        check_driven(path, base, tip, joint_names)
        self._pin = _load_pinocchio()
        with explained(f"the chain from '{base}' to '{tip}': Pinocchio refuses it: ", Exception):
            self._model = self._pin.buildModelFromXML(_urdf_of(path, base))
        self._tip = self._model.getFrameId(tip, self._pin.FrameType.BODY)
        links = [*self._model.jointPlacements, self._model.frames[self._tip].placement]
        slides = any(joint.get("type") == "prismatic" for joint in path)
        self.reach_m = np.inf if slides else float(sum(np.linalg.norm(link.translation) for link in links))
        # The model's joints from the robot's: mimic joints are a multiple of one, and more.
        moving = [joint for joint in path if joint.get("type") != "fixed"]
        self._matrix = np.zeros((len(moving), len(joint_names)))
        self._offset = np.zeros(len(moving))
        for row, joint in enumerate(moving):
            mimic = joint.find("mimic")
            name = joint.get("name", "") if mimic is None else mimic.get("joint", "")
            scale, offset = (1.0, 0.0) if mimic is None else _mimic(mimic)
            self._matrix[row, joint_names.index(name)], self._offset[row] = scale, offset
        used = [name for name, column in zip(joint_names, self._matrix.T, strict=True) if column.any()]
        self.names = tuple(name for name in used if name not in kinematics.fixed)
        if not self.names:
            raise ValueError(f"the chain from '{base}' to '{tip}' has no joint that an output drives; name other links")
        self._columns = [joint_names.index(name) for name in self.names]
        known = [limits.get(name, (-np.inf, np.inf)) for name in self.names]
        self._lower, self._upper = np.array(known, np.float64).T
        self._speeds = np.array([kinematics.max_velocity.get(name, np.inf) for name in self.names], np.float64)

    def poses(self, positions: np.ndarray) -> np.ndarray:
        """Where the tip is."""
        rows = positions.reshape(-1, positions.shape[-1]) @ self._matrix.T + self._offset
        found, data = np.empty((len(rows), 3, 4)), self._model.createData()
        for row, pose in zip(rows, found, strict=True):
            self._pin.forwardKinematics(self._model, data, row)
            placement = self._pin.updateFramePlacement(self._model, data, self._tip)
            pose[:, :3], pose[:, 3] = placement.rotation, placement.translation
        return found.reshape(*positions.shape[:-1], 3, 4)

    def least_singular(self, positions: np.ndarray) -> float:
        """The least singular value of the Jacobian, m and rad for each rad, at ``[num_joints]``: 0 at a singularity."""
        joints, frame = self._matrix @ positions + self._offset, self._pin.ReferenceFrame.LOCAL
        jacobian = self._pin.computeFrameJacobian(self._model, self._model.createData(), joints, self._tip, frame)
        return float(np.linalg.svd(jacobian @ self._matrix[:, self._columns], compute_uv=False).min())

    def follow(
        self, poses: np.ndarray, positions: np.ndarray, measured: np.ndarray, step_s: float, with_rotation: bool
    ) -> None:
        """Write joints that bring the tip to ``poses`` ``[horizon, 3, 4]``, ``step_s`` apart, into ``positions``
        ``[horizon, num_joints]``, whose other joints are given; ``measured`` ``[num_joints]`` is where the arm is."""
        solver = _Solver(self._pin, self._model, self._tip, with_rotation)
        matrix = np.ascontiguousarray(self._matrix[:, self._columns])
        posture = before = measured[self._columns]
        reach = self._speeds * (step_s + LAG_S)
        for pose, row in zip(poses, positions, strict=True):
            row[self._columns] = 0.0
            offset = self._offset + self._matrix @ row
            # A joint outside its limits may move inward only.
            low = np.maximum(np.minimum(before, self._lower), before - reach)
            high = np.minimum(np.maximum(before, self._upper), before + reach)
            before = row[self._columns] = solver.solve(pose, before, matrix, offset, low, high, posture)
            reach = self._speeds * step_s


class _Solver:
    """One pose after the other."""

    def __init__(self, pin: Any, model: Any, tip: int, with_rotation: bool) -> None:
        self._pin, self._model, self._tip, self._data = pin, model, tip, model.createData()
        self._num_rows = 6 if with_rotation else 3
        self._weights = np.array([1.0, 1.0, 1.0, M_PER_RAD, M_PER_RAD, M_PER_RAD])[: self._num_rows, None]

    def solve(
        self,
        pose: np.ndarray,
        start: np.ndarray,
        matrix: np.ndarray,
        offset: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
        posture: np.ndarray,
    ) -> np.ndarray:
        """Joints ``[n]`` from ``low`` to ``high`` nearest to ``pose``, found from ``start``; those of the model are
        ``matrix @ joints + offset``."""
        joints, damping = np.clip(start, low, high), DAMPING
        error, jacobian = self._look(pose, matrix, joints, offset)
        distance = error @ error
        wish = POSTURE_GAIN * (posture - joints)
        for _ in range(MAX_ITERATIONS):
            if distance < CONVERGED**2 or damping > MAX_DAMPING:
                break
            step = _bounded_step(jacobian, error, damping, wish, low - joints, high - joints)
            tried = joints + step
            error_there, jacobian_there = self._look(pose, matrix, tried, offset)
            distance_there = error_there @ error_there
            if distance_there >= distance:
                damping *= 10.0
                continue
            is_still = np.abs(step).max() < STILL_RAD
            joints, error, jacobian, distance = tried, error_there, jacobian_there, distance_there
            damping, wish = max(0.1 * damping, 1e-12), np.zeros_like(wish)
            if is_still:
                break
        return joints

    def _look(
        self, pose: np.ndarray, matrix: np.ndarray, joints: np.ndarray, offset: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """What is missing to the pose, m and weighted rad, and how it changes with the joints."""
        pin = self._pin
        jacobian = pin.computeFrameJacobian(
            self._model, self._data, matrix @ joints + offset, self._tip, pin.ReferenceFrame.LOCAL_WORLD_ALIGNED
        )
        placement = self._data.oMf[self._tip]
        error = np.empty(self._num_rows)
        error[:3] = pose[:, 3] - placement.translation
        if self._num_rows == 6:
            error[3:] = M_PER_RAD * pin.log3(pose[:, :3] @ placement.rotation.T)
        return error, (self._weights * jacobian[: self._num_rows]) @ matrix


def _bounded_step(
    jacobian: np.ndarray, error: np.ndarray, damping: float, wish: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """The damped step towards no ``error`` between ``low`` and ``high``; where that leaves a choice, near ``wish``.

    A joint that would go beyond stops there, and the others do without it.
    """
    gram, pull = jacobian.T @ jacobian, jacobian.T @ error + damping * wish
    gram.flat[:: len(pull) + 1] += damping
    step = np.linalg.solve(gram, pull)
    beyond = (step < low) | (step > high)
    stopped = beyond
    while beyond.any():
        step = np.where(stopped, np.clip(step, low, high), 0.0)
        free = ~stopped
        if not free.any():
            break
        step[free] = np.linalg.solve(gram[np.ix_(free, free)], pull[free] - gram[np.ix_(free, stopped)] @ step[stopped])
        beyond = free & ((step < low) | (step > high))
        stopped = stopped | beyond
    return step


def _load_pinocchio() -> Any:
    try:
        import pinocchio
    except ImportError as error:
        raise ValueError("poses need Pinocchio, which is not installed; pip install 'vla_ros[kinematics]'") from error
    return pinocchio


def _mimic(element: ElementTree.Element) -> tuple[float, float]:
    with explained(f"mimic of joint '{element.get('joint')}': "):
        return float(element.get("multiplier", 1.0)), float(element.get("offset", 0.0))


def _urdf_of(path: Sequence[ElementTree.Element], base: str) -> str:
    """A URDF of these joints alone. Each is one number, that of a continuous joint too, and its limits are ours."""
    robot = ElementTree.Element("robot", name="chain")
    for name in (base, *(link_at(joint, "child") for joint in path)):
        ElementTree.SubElement(robot, "link", name=name)
    for joint in path:
        kind = "revolute" if joint.get("type") == "continuous" else joint.get("type", "")
        copy = ElementTree.SubElement(robot, "joint", name=joint.get("name", ""), type=kind)
        copy.extend([child for child in joint if child.tag in ("origin", "parent", "child", "axis")])
        limits = {"lower": f"-{NOT_A_LIMIT}", "upper": NOT_A_LIMIT, "velocity": NOT_A_LIMIT, "effort": NOT_A_LIMIT}
        ElementTree.SubElement(copy, "limit", limits)
    return ElementTree.tostring(robot, encoding="unicode")
