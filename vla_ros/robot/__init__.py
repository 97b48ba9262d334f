"""A robot file (``config/robots/*.yaml``) as a frozen, validated ``RobotConfig``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.interpolate import TURN
from vla_ros.robot.parts import (
    CameraConfig,
    JointConfig,
    JointStateConfig,
    KinematicsConfig,
    OutputConfig,
    TeleopConfig,
    WatchdogConfig,
    check_once,
    check_positive,
    check_renamed,
)
from vla_ros.share import share_dir
from vla_ros.strict import explained, parse_config, parse_yaml, read_text
from vla_ros.urdf import Urdf, check_driven, parse_urdf, read_urdf

# Files have 3.14 for pi.
NEARLY_A_TURN = 0.99 * TURN
# An arm that follows commands d seconds late is d times its speed behind: drivers take 10 to 100 ms, so that ordinary
# motion stays within half of this even at full speed.
TRACKING_S = 0.2
# A joint that crosses its range this quickly is a gripper's, which is stopped by what it holds.
QUICK_S = 1.0
# Keys with a list, of which one entry may stand alone.
LISTS = ("joint_states", "teleop")


@dataclass(frozen=True)
class RobotConfig:
    """Everything the host side knows about one robot. Joint order here is the order everywhere.

    ``urdf`` is the file that limits left out of ``joints`` came from, relative to the robot file, ``urdf_topic`` the
    topic; empty where there is none. ``kinematics`` is for policies with poses.
    """

    name: str
    control_rate_hz: float
    joints: tuple[JointConfig, ...]
    cameras: tuple[CameraConfig, ...]
    outputs: tuple[OutputConfig, ...]
    joint_states: tuple[JointStateConfig, ...] = (JointStateConfig(),)
    max_camera_skew_s: float = 0.05
    watchdogs: WatchdogConfig = WatchdogConfig()
    urdf: str = ""
    urdf_topic: str = ""
    kinematics: KinematicsConfig | None = None
    teleop: tuple[TeleopConfig, ...] = (TeleopConfig(),)

    def __post_init__(self) -> None:
        for key in ("joints", "cameras", "outputs", "joint_states", "teleop"):
            if not getattr(self, key):
                raise ValueError(f"{key} is empty; expected a list with at least one entry")
        if not 1.0 <= self.control_rate_hz <= 1000.0:
            raise ValueError(f"control_rate_hz is {self.control_rate_hz}; expected 1 to 1000")
        check_positive("", self, "max_camera_skew_s")
        check_once("joint", self.joint_names)
        check_once("camera", self.camera_names)
        self._check_outputs()
        self._check_joint_states()
        self._check_teleop()

    def _check_known(self, where: str, names: Iterable[str], known: Sequence[str]) -> None:
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(f"{where}: unknown joint '{unknown[0]}'; joints are {', '.join(known)}")

    def _check_joint_states(self) -> None:
        sources: dict[str, str] = {}
        told: dict[tuple[str, str], str] = {}
        for entry, source in zip(self.joint_states, self.joint_sources, strict=True):
            where = f"joint_states on '{source.topic}'"
            if not entry.joints and len(self.joint_states) > 1:
                raise ValueError(
                    f"{where}: joints are missing; expected those that come from it, one of several sources"
                )
            self._check_known(where, source.joints, self.joint_names)
            self._check_known(f"{where}: rename", source.rename.values(), source.joints)
            for name, message_name in zip(source.joints, source.message_names, strict=True):
                other = sources.setdefault(name, where)
                if other is not where:
                    raise ValueError(f"joint '{name}' comes from {other} and from {where}; expected one source")
                other = told.setdefault((source.topic, message_name), name)
                if other != name:
                    got = f"{where}: '{message_name}' of a message is both '{other}' and '{name}'"
                    raise ValueError(f"{got}; expected one joint: fix rename")
        missing = [name for name in self.joint_names if name not in sources]
        if missing:
            raise ValueError(f"joint '{missing[0]}' comes from no source; add it to joints of an entry of joint_states")

    def _check_teleop(self) -> None:
        for leader in self.teleop:
            where = f"teleop on '{leader.topic}'" if len(self.teleop) > 1 else "teleop"
            self._check_known(f"{where}: joints", leader.joints, self.driven_names)
            led = leader.joints or self.driven_names
            check_renamed(f"{where}: ", leader.rename, led)
            for key in ("sign", "offset", "scale"):
                self._check_known(f"{where}.{key}", getattr(leader, key), led)
            if len(self.teleop) > 1 and not (leader.type == "joint_states" and leader.topic and leader.joints):
                got = f"one of {len(self.teleop)} has type '{leader.type}', topic '{leader.topic}'"
                raise ValueError(
                    f"teleop: {got} and {len(leader.joints)} joints; expected leaders (joint_states), each with its "
                    "topic and the joints it leads"
                )
        check_once("teleop: topic", [leader.topic for leader in self.teleop])
        check_once("teleop: joint", [name for leader in self.teleop for name in leader.joints])

    def _check_outputs(self) -> None:
        check_once("output", [output.name for output in self.outputs])
        fixed = [joint.name for joint in self.joints if joint.fixed]
        for output in self.outputs:
            self._check_known(f"output '{output.name}'", output.joints, self.joint_names)
            self._check_min_change(output)
            for name in output.joints:
                if name in fixed:
                    got = f"output '{output.name}' drives joint '{name}', which is fixed"
                    raise ValueError(f"{got}; remove it from the output, or fixed from the joint")
        driven = [name for output in self.outputs for name in output.joints]
        check_once("joint in outputs", driven)
        undriven = [name for name in self.driven_names if name not in driven]
        if undriven:
            raise ValueError(f"joint '{undriven[0]}' is in no output; add it to one, or make it fixed: true")
        by_topic: dict[str, str] = {}
        for output in self.outputs:
            other = by_topic.setdefault(output.command_topic, output.name)
            if other != output.name:
                got = f"outputs '{other}' and '{output.name}' both command '{output.command_topic}'"
                raise ValueError(f"{got}; expected a topic for each: a controller follows the newest message only")

    def _check_min_change(self, output: OutputConfig) -> None:
        joint = self.joints[self.joint_names.index(output.joints[0])]
        if output.min_change is not None and output.min_change >= joint.upper - joint.lower:
            got = f"output '{output.name}': min_change is {output.min_change:g}, joint '{joint.name}' moves by"
            raise ValueError(f"{got} {joint.upper - joint.lower:g}; expected less, or it would never get a goal")

    @property
    def num_joints(self) -> int:
        return len(self.joints)

    @cached_property
    def joint_names(self) -> tuple[str, ...]:
        return tuple(joint.name for joint in self.joints)

    @cached_property
    def driven_names(self) -> tuple[str, ...]:
        """The joints that aren't fixed: those that commands hold."""
        return tuple(joint.name for joint in self.joints if not joint.fixed)

    @cached_property
    def is_driven(self) -> np.ndarray:
        """Which joints aren't fixed, bool ``[num_joints]``."""
        return np.array([not joint.fixed for joint in self.joints])

    @cached_property
    def joint_sources(self) -> tuple[JointStateConfig, ...]:
        """``joint_states``, each with the joints that come from it."""
        return tuple(replace(source, joints=source.joints or self.joint_names) for source in self.joint_states)

    @property
    def joint_topics(self) -> tuple[str, ...]:
        """The topics of ``joint_sources``, each once."""
        return tuple(dict.fromkeys(source.topic for source in self.joint_sources))

    @cached_property
    def joint_columns(self) -> dict[str, dict[str, int]]:
        """By topic of ``joint_topics``: what messages there call a joint, and where that stands among all."""
        columns: dict[str, dict[str, int]] = {topic: {} for topic in self.joint_topics}
        for source in self.joint_sources:
            columns[source.topic] |= zip(source.message_names, self.columns(source.joints), strict=True)
        return columns

    def where(self, source: JointStateConfig) -> str:
        """Where joint states of a source, or of part of one, come, for people: on its topic, of its joints where others
        come there, too."""
        is_alone = len(source.joints) == len(self.joint_columns[source.topic])
        return f"on '{source.topic}'" if is_alone else f"of {', '.join(source.joints)} on '{source.topic}'"

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
        arms = [output for output in self.outputs if not output.kind.is_gripper]
        return all(output.stamp == "tick" and output.kind.names_joints for output in arms)

    @cached_property
    def turns(self) -> np.ndarray:
        """Which joints may turn without end, bool ``[num_joints]``: those that are free to make a whole turn, as a
        continuous joint's limits are."""
        return self.joint_values("upper") - self.joint_values("lower") >= NEARLY_A_TURN

    @cached_property
    def max_tracking_errors(self) -> np.ndarray:
        """``max_tracking_error`` of each joint, or its default, ``[num_joints]`` float64; none of a fixed one, which
        nobody commands."""
        travels, velocities = (
            np.ptp([self.joint_values("lower"), self.joint_values("upper")], axis=0),
            self.joint_values("max_velocity"),
        )
        grippers = [name for output in self.outputs if output.kind.is_gripper for name in output.joints]
        stops = np.isin(self.joint_names, grippers) | (travels < QUICK_S * velocities)
        given = self.joint_values("max_tracking_error")  # NaN where it is None
        errors = np.where(np.isnan(given), np.where(stops, travels, TRACKING_S * velocities), given)
        return np.where(self.is_driven, errors, np.inf)

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
        contradictory limits, a repeated name, an output that names an unknown joint, limits beyond the URDF's, a
        topic's URDF that isn't given, or links that aren't in the URDF of ``kinematics``, or joints between them that
        aren't the robot's.
        """
        with explained(f"robot file {self.path}: "):
            urdf = self._urdf(urdf_text)
            robot = parse_config(RobotConfig, _filled(self.document, urdf), "robot")
            for joint in robot.joints:
                if urdf is not None:
                    urdf.check(joint.name, joint.lower, joint.upper, joint.max_velocity)
            if robot.kinematics is None:
                return robot
            path = self.path.parent.absolute() / robot.kinematics.urdf
            packaged = share_dir() / "config" / "robots" / robot.kinematics.urdf
            path = packaged if packaged.is_file() and not path.exists() else path
            with explained("kinematics: "):
                ends = robot.kinematics.base, robot.kinematics.tip
                check_driven(read_urdf(path).path(*ends), *ends, robot.joint_names)
            return replace(robot, kinematics=replace(robot.kinematics, urdf=str(path)))

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


def _filled(document: Any, urdf: Urdf | None) -> Any:
    """``document`` with the URDF's limits for those left out, and one source of joint states, or one device of a human,
    as a list of one. What isn't a list of joints stays, to be refused later."""
    if not isinstance(document, dict):
        return document
    joints = document.get("joints")
    if urdf is not None and isinstance(joints, list):
        joints = [urdf.fill(joint) if isinstance(joint, dict) else joint for joint in joints]
        document = document | {"joints": joints}
    return document | {key: [value] for key in LISTS if isinstance(value := document.get(key), dict)}
