"""Random cases of every space component, and paths that are hard for an arm of seven joints, with their judges."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_ros.spaces.components import REFERENCES, RobotJoints
from vla_ros.spaces.kinematics import LAG_S, TOLERANCE_M, TOLERANCE_RAD, Kinematics
from vla_ros.spaces.rotations import ROTATIONS, vector_of_matrix
from vla_ros.spaces.space import Space, parse_space
from vla_ros.units import SI_PER_UNIT

STEP_S = 0.05
# Lengths and turns of a usual arm of seven joints (in m and quarter turns), its limits in rad and speeds in rad/s.
LINKS = (
    ("0 0 0.33", 0),
    ("0 0 0", -1),
    ("0 -0.32 0", 1),
    ("0.08 0 0", 1),
    ("-0.08 0.38 0", -1),
    ("0 0 0", 1),
    ("0.09 0 0", 1),
)
LIMITS = ((-2.9, 2.9), (-1.8, 1.8), (-2.9, 2.9), (-3.0, -0.07), (-2.9, 2.9), (0.0, 3.7), (-2.9, 2.9))
SPEEDS = (2.2, 2.2, 2.2, 2.2, 2.6, 2.6, 2.6)
HOME = np.array([0.0, -0.8, 0.0, -2.3, 0.0, 1.6, 0.8])
ARM = tuple(f"joint{i}" for i in range(1, 8))
HAND = "hand"
MIN_SINGULAR = 0.05  # of the Jacobian, m and rad: what lies below is near a singularity
PATHS = ("unreachable", "singular", "self-motion")


def arm_urdf() -> str:
    """The arm as a URDF from ``link0`` to ``tip``."""
    parts = ['<robot name="arm"><link name="link0"/>']
    for i, (xyz, quarters) in enumerate(LINKS, 1):
        parts.append(
            f'<link name="link{i}"/><joint name="{ARM[i - 1]}" type="revolute"><parent link="link{i - 1}"/>'
            f'<child link="link{i}"/><origin xyz="{xyz}" rpy="{quarters * np.pi / 2} 0 0"/><axis xyz="0 0 1"/></joint>'
        )
    parts.append('<link name="tip"/><joint name="to_tip" type="fixed"><parent link="link7"/><child link="tip"/>')
    return "".join(parts) + '<origin xyz="0 0 0.2"/></joint></robot>'


def arm_robot() -> RobotJoints:
    """Seven joints and a hand of two ends."""
    speeds = dict(zip(ARM, SPEEDS, strict=True))
    limits = {**dict(zip(ARM, LIMITS, strict=True)), HAND: (0.1, 0.9)}
    return RobotJoints((*ARM, HAND), limits, STEP_S, kinematics=Kinematics(arm_urdf(), "link0", "tip", speeds))


ROBOT = arm_robot()
LOWER, UPPER = np.array([ROBOT.limits[name] for name in ROBOT.names]).T
MAX_STEP = np.array([*SPEEDS, np.inf]) * STEP_S


def random_component(kind: str, rng: np.random.Generator) -> dict[str, Any]:
    """A declaration of that type, any of its keys drawn."""
    names = rng.permutation(ARM)[: rng.integers(1, 8)].tolist()
    unit = {"unit": str(rng.choice(list(SI_PER_UNIT))), "sign": int(rng.choice([-1, 1])), "offset": rng.uniform(-9, 9)}
    ends = {"range": rng.permutation([rng.uniform(-100, 0), rng.uniform(1, 100)]).tolist()}
    values = dict(zip(("open", "closed"), rng.permutation([-1.0, 1.0]).tolist(), strict=True))
    binary = {"threshold": rng.uniform(-0.5, 0.5), "hysteresis": rng.uniform(0, 0.5)}
    relative = {"reference": str(rng.choice(REFERENCES))}
    pace = [{"scale": rng.uniform(0.05, 0.5)}, {"unit": "rad_per_s"}, {"scale": 1.0, "norm_limit": True}]
    rotation = str(rng.choice([name for name in ROTATIONS if name != "none"]))
    pose: dict[str, Any] = {"rotation": rotation, "translation": str(rng.choice(["m", "mm", "scale"]))} | relative
    if pose["translation"] == "scale":
        pose["translation_scale"] = rng.uniform(0.01, 0.1)
    if ROTATIONS[rotation].is_angle:
        pose["rotation_scale"] = rng.uniform(0.1, 1.0)
    if pose["reference"] != "absolute":
        pose["frame"] = str(rng.choice(["base", "tip"]))
    keys = {
        "joint": {"joint": names[0]} | (ends if rng.random() < 0.5 else unit) | relative,
        "joints": {"joints": names} | (ends if rng.random() < 0.5 else unit) | relative,
        "joint_velocity": {"joints": names} | pace[rng.integers(len(pace))],
        "gripper": {"joint": HAND, "open_at": str(rng.choice(["upper", "lower"]))}
        | values
        | (binary if rng.random() < 0.5 else relative),
        "pose": pose,
        "crank": {
            "joint": HAND,
            "horn_m": 0.5,
            "rod_m": 0.55,
            "zero_rad": rng.uniform(-1, 1),
            "span_rad": rng.uniform(0.5, 2),
        },
        "constant": {"size": int(rng.integers(1, 5)), "value": rng.uniform(-1, 1)},
    }
    return {"type": kind} | keys[kind]


def random_motion(rng: np.random.Generator, horizon: int = 5) -> np.ndarray:
    """Joints ``[1 + horizon, num_joints]`` that move within limits and speeds, away from singularities, the first one
    measured; the hand is at one end or the other."""
    chain = ROBOT.chain("", "")
    while True:
        start = np.clip(HOME + rng.normal(0, 0.5, 7), LOWER[:-1] + 0.3, UPPER[:-1] - 0.3)
        steps = rng.uniform(-0.5, 0.5, (horizon + 1, 7)) * MAX_STEP[:-1]
        arm = start + np.cumsum(steps, axis=0)
        hand = rng.choice([LOWER[-1], UPPER[-1]], (horizon + 1, 1))
        joints = np.concatenate([arm, hand], axis=1)
        if min(chain.least_singular(row) for row in joints) > MIN_SINGULAR:
            return joints


@dataclass(frozen=True)
class RoundTrip:
    """The worst of many: how far numbers and joints come back from where they were, rad, and a pose's m and rad."""

    joints: float = 0.0
    metres: float = 0.0
    radians: float = 0.0

    @property
    def is_good(self) -> bool:
        return self.joints <= 1e-6 and self.metres <= 1e-6 and self.radians <= 1e-5


def round_trip(kind: str, num_cases: int, seed: int = 0) -> RoundTrip:
    """Joints to numbers and back. What several joint positions have the same pose of is compared as a pose."""
    rng, joints_off, metres_off, radians_off = np.random.default_rng(seed), 0.0, 0.0, 0.0
    hand = {"type": "joint", "joint": HAND}
    for _ in range(num_cases):
        entry = random_component(kind, rng)
        space = parse_space([entry, hand] if kind in ("pose", "constant") else [entry], "data.action", ROBOT)
        measured, *targets = random_motion(rng)
        decoded = space.decode(space.encode(np.array(targets), measured), measured)
        moved = ROBOT.columns([HAND] if kind == "pose" else list(space.joint_names))
        joints_off = max(joints_off, float(np.abs((decoded - targets)[:, moved]).max()))
        if kind == "pose":
            off = poses_apart(decoded, np.array(targets))
            metres_off, radians_off = max(metres_off, off[0].max()), max(radians_off, off[1].max())
    return RoundTrip(joints_off, metres_off, radians_off)


def poses_apart(joints: np.ndarray, others: np.ndarray) -> np.ndarray:
    """``[2, num_rows]``: m and rad between the tips."""
    a, b = (ROBOT.chain("", "").poses(rows) for rows in (joints, others))
    turned = a[..., :3] @ np.swapaxes(b[..., :3], -1, -2)
    return np.stack([np.linalg.norm(a[..., 3] - b[..., 3], axis=-1), np.linalg.norm(vector_of_matrix(turned), axis=-1)])


def pose_space(reference: str = "absolute") -> Space:
    return parse_space([{"type": "pose", "rotation": "rotvec", "reference": reference}], "data.action", ROBOT)


def chunk_times_ms(num_chunks: int, horizon: int = 50, seed: int = 0) -> np.ndarray:
    """How long a chunk of pose deltas takes to become joints, of this process alone."""
    rng, space, times = np.random.default_rng(seed), pose_space("observation"), []
    for _ in range(num_chunks):
        start = np.array([*np.clip(HOME + rng.normal(0, 0.3, 7), LOWER[:-1] + 0.2, UPPER[:-1] - 0.2), LOWER[-1]])
        speed = rng.uniform(-0.5, 0.5, 8) * np.array([*SPEEDS, 0.0]) * STEP_S
        targets = np.clip(start + speed * np.arange(1, horizon + 1)[:, None] * 0.3, LOWER, UPPER)
        vectors = space.encode(targets, start)
        before = time.process_time()
        space.decode(vectors, start)
        times.append((time.process_time() - before) * 1e3)
    return np.array(times)


@dataclass(frozen=True)
class HardPath:
    """What became of one path: joints beyond their limits or speeds, rad, the motion of all, whether poses were missed
    and whether that was told."""

    kind: str
    beyond_limits: float
    beyond_speed: float
    motion: float
    is_missed: bool
    is_reported: bool

    @property
    def is_good(self) -> bool:
        bounded = self.beyond_limits <= 1e-9 and self.beyond_speed <= 1e-9 and np.isfinite(self.motion)
        is_still = self.kind != "self-motion" or self.motion < 1e-3
        return bounded and is_still and (self.is_reported or not self.is_missed)


def hard_paths(num_paths: int, horizon: int = 30, seed: int = 0) -> Iterator[HardPath]:
    """Paths of each kind in turn."""
    rng, space, chain = np.random.default_rng(seed), pose_space(), ROBOT.chain("", "")
    for index in range(num_paths):
        kind = PATHS[index % len(PATHS)]
        poses, measured = _hard_poses(kind, horizon, rng)
        vectors = np.concatenate([poses[..., 3], vector_of_matrix(poses[..., :3])], axis=-1)
        targets = space.decode(vectors, measured)
        steps = np.abs(np.diff(targets, axis=0, prepend=measured[None]))
        steps[0] -= MAX_STEP / STEP_S * LAG_S
        found = chain.poses(targets)
        apart_m = np.linalg.norm(found[..., 3] - poses[..., 3], axis=-1)
        turned = found[..., :3] @ np.swapaxes(poses[..., :3], -1, -2)
        apart_rad = np.linalg.norm(vector_of_matrix(turned), axis=-1)
        yield HardPath(
            kind,
            beyond_limits=float(np.maximum(LOWER - targets, targets - UPPER).max()),
            beyond_speed=float((steps - MAX_STEP)[:, :-1].max()),
            motion=float(np.abs(targets - measured).max()),
            is_missed=bool((apart_m > TOLERANCE_M).any() or (apart_rad > TOLERANCE_RAD).any()),
            is_reported=bool(space.shortfall(vectors, measured, targets)),
        )


def _hard_poses(kind: str, horizon: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Poses ``[horizon, 3, 4]`` and the joints they begin at: out of the arm's reach and back; through a stretched
    elbow, aligned wrist axes or over the shoulder; standing still, which all motion of the elbow would leave alone."""
    chain = ROBOT.chain("", "")
    measured = np.array([*np.clip(HOME + rng.normal(0, 0.4, 7), LOWER[:-1] + 0.1, UPPER[:-1] - 0.1), LOWER[-1]])
    if kind == "singular":
        index, value = [(3, UPPER[3]), (5, 0.0), (1, 0.0)][rng.integers(3)]
        through = measured.copy()
        through[index] = np.clip(value, LOWER[index], UPPER[index])
        way = np.concatenate([np.linspace(0, 1, horizon // 2), np.linspace(1, 0.5, horizon - horizon // 2)])
        return chain.poses(measured + way[:, None] * (through - measured)), measured
    poses = np.repeat(chain.poses(measured)[None], horizon, axis=0)
    if kind == "unreachable":
        direction = rng.normal(size=3)
        direction *= rng.uniform(0.5, 2.0) / np.linalg.norm(direction)
        poses[..., 3] += np.sin(np.linspace(0, np.pi, horizon))[:, None] * direction
    return poses, measured
