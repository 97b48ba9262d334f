"""A robot file (``config/robots/*.yaml``) as a frozen, validated ``RobotConfig``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.interpolate import TURN
from vla_ros.outputs import INTERFACES, Interface
from vla_ros.strict import explained, parse_config, parse_yaml, read_text
from vla_ros.urdf import Urdf, parse_urdf, read_urdf

FAULT_ACTIONS = ("hold", "recover")
STAMPS, LEADS = ("tick", "zero"), (1, 2)
# Smoothing delays commands by max_acceleration / max_jerk: half a second at most.
MIN_JERK_PER_S = 2.0
# Files have 3.14 for pi.
NEARLY_A_TURN = 0.99 * TURN
# An arm that follows commands d seconds late is d times its speed behind: drivers take 10 to 100 ms, so that ordinary
# motion stays within half of this even at full speed.
TRACKING_S = 0.2
# A joint that crosses its range this quickly is a gripper's, which is stopped by what it holds.
QUICK_S = 1.0


def _check_positive(what: str, config: Any, *names: str) -> None:
    """Raises ValueError for the first of these fields that isn't above 0."""
    for name in names:
        value = getattr(config, name)
        if value <= 0:
            raise ValueError(f"{what}{name} is {value:g}; expected a number above 0")


def _check_once(what: str, names: Sequence[str]) -> None:
    repeated = [name for name, num in Counter(names).items() if num > 1]
    if repeated:
        raise ValueError(f"{what} '{repeated[0]}' is named twice")


@dataclass(frozen=True)
class JointConfig:
    """Limits of one joint: rad, rad/s, rad/s², rad/s³ (m, m/s, … for a sliding joint). ``max_jerk`` None: not
    limited. ``max_tracking_error`` is how far it may be measured from where it is commanded, rad or m; None: as far
    as it gets in ``TRACKING_S`` at its velocity limit, or all its range for one that crosses it in ``QUICK_S``."""

    name: str
    lower: float
    upper: float
    max_velocity: float
    max_acceleration: float
    max_jerk: float | None = None
    max_tracking_error: float | None = None

    def __post_init__(self) -> None:
        if self.lower >= self.upper:
            raise ValueError(f"joint '{self.name}': lower {self.lower} is not below upper {self.upper}")
        given = [] if self.max_tracking_error is None else ["max_tracking_error"]
        _check_positive(f"joint '{self.name}': ", self, "max_velocity", "max_acceleration", *given)
        if self.max_jerk is not None and self.max_jerk < MIN_JERK_PER_S * self.max_acceleration:
            raise ValueError(
                f"joint '{self.name}': max_jerk is {self.max_jerk:g}; expected at least {MIN_JERK_PER_S:g} times "
                "max_acceleration: with less, commands come too late"
            )


@dataclass(frozen=True)
class CameraConfig:
    """One camera: its topic, the image size it publishes in pixels, the age at which it is stale, and for how long its
    pixels may stay exactly the same (0: for ever; the noise of a real sensor changes some in every frame)."""

    name: str
    topic: str
    width: int
    height: int
    max_age_s: float
    compressed: bool = False
    max_frozen_s: float = 1.0

    def __post_init__(self) -> None:
        _check_positive(f"camera '{self.name}': ", self, "width", "height", "max_age_s")
        if self.max_frozen_s < 0:
            raise ValueError(f"camera '{self.name}': max_frozen_s is {self.max_frozen_s:g}; expected 0 or more")


@dataclass(frozen=True)
class JointStateConfig:
    """Where measured joint states come from and the age at which they are stale."""

    topic: str = "joint_states"
    max_age_s: float = 0.2

    def __post_init__(self) -> None:
        _check_positive("joint_states.", self, "max_age_s")


@dataclass(frozen=True)
class OutputConfig:
    """A group of joints with one controller; ``interface`` is a name of ``outputs.INTERFACES``.

    Trajectories are stamped with the ``tick`` they belong to, so that a late one changes nothing, or ``zero``: they
    start on receipt, for a controller on another clock. A command is due ``lead_periods`` control periods after its
    tick: with two, what comes late by up to a period finds the one before still under way.
    """

    name: str
    joints: tuple[str, ...]
    interface: str = "trajectory"
    topic: str = ""
    stamp: str = "tick"
    lead_periods: int = 1

    def __post_init__(self) -> None:
        for key, known in (("interface", tuple(INTERFACES)), ("stamp", STAMPS), ("lead_periods", LEADS)):
            if getattr(self, key) not in known:
                expected = f"expected one of {', '.join(map(str, known))}"
                raise ValueError(f"output '{self.name}': {key} is '{getattr(self, key)}'; {expected}")
        if self.lead_periods > 1 and not self.kind.names_joints:
            got = f"lead_periods is {self.lead_periods} for interface '{self.interface}', whose messages have no times"
            raise ValueError(f"output '{self.name}': {got}; expected 1")

    @property
    def kind(self) -> Interface:
        """What its interface is about."""
        return INTERFACES[self.interface]

    @property
    def command_topic(self) -> str:
        """The topic commands go to: the one in the file, else the controller's usual one."""
        return self.topic or self.kind.topic


@dataclass(frozen=True)
class WatchdogConfig:
    """What a fault does while the policy drives: ``hold``, or ``recover``: brake, and go on when it is over.

    ``result`` is an answer that doesn't come in time, ``answer`` one that cannot be used, ``chunk`` one that is used up
    before the next: these are over when an answer is followed. ``clock`` is a jump of ROS time, ``overrun`` control
    ticks missed for ``max_overrun_s``, ``tracking`` an arm that isn't where it is commanded. What lasts longer than
    ``max_recovery_s`` ends in HOLD, ticks missed for so long, too.
    """

    camera: str = "hold"
    frozen_camera: str = "hold"
    joints: str = "hold"
    tracking: str = "hold"
    result: str = "hold"
    answer: str = "hold"
    chunk: str = "hold"
    model: str = "hold"
    clock: str = "hold"
    overrun: str = "recover"
    max_recovery_s: float = 2.0
    max_overrun_s: float = 0.1

    def __post_init__(self) -> None:
        for kind in FAULT_KINDS:
            if self.action(kind) not in FAULT_ACTIONS:
                expected = f"expected one of {', '.join(FAULT_ACTIONS)}"
                raise ValueError(f"watchdogs.{kind} is '{self.action(kind)}'; {expected}")
        _check_positive("watchdogs.", self, "max_recovery_s", "max_overrun_s")

    def action(self, kind: str) -> str:
        """``hold`` or ``recover`` for a fault by the name of its field."""
        return getattr(self, kind)


FAULT_KINDS = tuple(field.name for field in fields(WatchdogConfig) if field.type == "str")


@dataclass(frozen=True)
class RobotConfig:
    """Everything the host side knows about one robot. Joint order here is the order everywhere.

    ``urdf`` is the file that limits left out of ``joints`` came from, relative to the robot file, ``urdf_topic`` the
    topic; empty where there is none.
    """

    name: str
    control_rate_hz: float
    joints: tuple[JointConfig, ...]
    cameras: tuple[CameraConfig, ...]
    outputs: tuple[OutputConfig, ...]
    joint_states: JointStateConfig = JointStateConfig()
    max_camera_skew_s: float = 0.05
    watchdogs: WatchdogConfig = WatchdogConfig()
    urdf: str = ""
    urdf_topic: str = ""

    def __post_init__(self) -> None:
        for key in ("joints", "cameras", "outputs"):
            if not getattr(self, key):
                raise ValueError(f"{key} is empty; expected a list with at least one entry")
        if not 1.0 <= self.control_rate_hz <= 1000.0:
            raise ValueError(f"control_rate_hz is {self.control_rate_hz}; expected 1 to 1000")
        _check_positive("", self, "max_camera_skew_s")
        _check_once("joint", self.joint_names)
        _check_once("camera", self.camera_names)
        self._check_outputs()

    def _check_outputs(self) -> None:
        _check_once("output", [output.name for output in self.outputs])
        driven = {name: output for output in self.outputs for name in output.joints}
        for name, output in driven.items():
            if name not in self.joint_names:
                known = ", ".join(self.joint_names)
                raise ValueError(f"output '{output.name}': unknown joint '{name}'; joints are {known}")
        _check_once("joint in outputs", [name for output in self.outputs for name in output.joints])
        undriven = [name for name in self.joint_names if name not in driven]
        if undriven:
            raise ValueError(f"joint '{undriven[0]}' is in no output; add it to one")
        by_topic: dict[str, str] = {}
        for output in self.outputs:
            other = by_topic.setdefault(output.command_topic, output.name)
            if other != output.name:
                got = f"outputs '{other}' and '{output.name}' both command '{output.command_topic}'"
                raise ValueError(f"{got}; expected a topic for each: a controller follows the newest message only")

    @property
    def num_joints(self) -> int:
        return len(self.joints)

    @cached_property
    def joint_names(self) -> tuple[str, ...]:
        return tuple(joint.name for joint in self.joints)

    @cached_property
    def camera_names(self) -> tuple[str, ...]:
        return tuple(camera.name for camera in self.cameras)

    @property
    def joint_limits(self) -> dict[str, tuple[float, float]]:
        """Lower and upper limit of each joint, rad or m."""
        return {joint.name: (joint.lower, joint.upper) for joint in self.joints}

    @property
    def is_stamped(self) -> bool:
        """Whether each controller knows which tick a command belongs to, so that one that is late is not delayed."""
        return all(output.stamp == "tick" and output.kind.names_joints for output in self.outputs)

    @cached_property
    def turns(self) -> np.ndarray:
        """Which joints may turn without end, bool ``[num_joints]``: those that are free to make a whole turn, as a
        continuous joint's limits are."""
        return self.joint_values("upper") - self.joint_values("lower") >= NEARLY_A_TURN

    @cached_property
    def max_tracking_errors(self) -> np.ndarray:
        """``max_tracking_error`` of each joint, or its default, ``[num_joints]`` float64."""
        travels, velocities = (
            np.ptp([self.joint_values("lower"), self.joint_values("upper")], axis=0),
            self.joint_values("max_velocity"),
        )
        defaults = np.where(travels < QUICK_S * velocities, travels, TRACKING_S * velocities)
        given = self.joint_values("max_tracking_error")  # NaN where it is None
        return np.where(np.isnan(given), defaults, given)

    def columns(self, joint_names: Sequence[str]) -> list[int]:
        """Where joints, such as those of an output, stand among all."""
        return [self.joint_names.index(name) for name in joint_names]

    def joint_values(self, field: str) -> np.ndarray:
        """One limit of every joint, ``[num_joints]`` float64; ``field`` is a field of ``JointConfig``."""
        return np.array([getattr(joint, field) for joint in self.joints], dtype=np.float64)


@dataclass(frozen=True)
class RobotFile:
    """A robot file as it was read; ``document`` is what its YAML says, anything yet: ``robot`` checks it."""

    path: Path
    document: Any

    @property
    def urdf_topic(self) -> str:
        """The topic whose URDF ``robot`` needs; empty where it needs none."""
        return self._text("urdf_topic")

    def robot(self, urdf_text: str | None = None) -> RobotConfig:
        """The robot; what its joints leave out comes from the URDF: ``urdf_text`` where that is one of a topic.

        Raises ValueError, naming the file and the key, for an unknown or missing key, a value of another type,
        contradictory limits, a repeated name, an output that names an unknown joint, limits beyond the URDF's, or a
        topic's URDF that isn't given.
        """
        with explained(f"robot file {self.path}: "):
            urdf = self._urdf(urdf_text)
            document = self.document if urdf is None else _filled(self.document, urdf)
            robot = parse_config(RobotConfig, document, "robot")
            for joint in robot.joints:
                if urdf is not None:
                    urdf.check(joint.name, joint.lower, joint.upper, joint.max_velocity)
            return robot

    def _urdf(self, text: str | None) -> Urdf | None:
        """The URDF that the file names; None where it names none, or nothing that can be a path or a topic."""
        name, topic = self._text("urdf"), self.urdf_topic
        if name and topic:
            raise ValueError(f"urdf is '{name}' and urdf_topic is '{topic}'; expected one of them")
        if name:
            return read_urdf(self.path.parent / name)
        if not topic:
            return None
        if text is None:
            raise ValueError(f"urdf_topic is '{topic}', and nothing is read from topics here; give urdf: FILE instead")
        return parse_urdf(text, f"the URDF on topic '{topic}'")

    def _text(self, key: str) -> str:
        value = self.document.get(key) if isinstance(self.document, dict) else None
        return value if isinstance(value, str) else ""


def read_robot_file(path: str | Path) -> RobotFile:
    """Read a robot file without checking it. Raises ValueError, naming it, where it is missing or isn't YAML."""
    path = Path(path)
    missing = explained(f"robot file {path}: ", OSError, after="; give the path of a robot YAML")
    with missing, explained(f"robot file {path}: not readable as YAML: "):
        return RobotFile(path, parse_yaml(read_text(path)))


def load_robot(path: str | Path) -> RobotConfig:
    """Read and check a robot file, where no topic can be read. Raises ValueError as ``RobotFile.robot`` does."""
    return read_robot_file(path).robot()


def _filled(document: dict[str, Any], urdf: Urdf) -> dict[str, Any]:
    """``document`` with the URDF's limits for those left out. What isn't a list of joints stays, to be refused
    later."""
    joints = document.get("joints")
    if not isinstance(joints, list):
        return document
    return {**document, "joints": [urdf.fill(joint) if isinstance(joint, dict) else joint for joint in joints]}
