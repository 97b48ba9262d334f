"""The parts of a robot file, each a frozen, validated dataclass whose fields are its keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from vla_ros.messages.trajectories import Trajectory
from vla_ros.outputs import INTERFACES, Interface
from vla_ros.strict import check_choice

FAULT_ACTIONS = ("hold", "recover")
STAMPS, LEADS = ("tick", "zero"), (1, 2)
TELEOP_TYPES = ("joint_trajectory", "joint_states")
SET_POINTS = "set_points"
# Smoothing delays commands by max_acceleration / max_jerk: half a second at most.
MIN_JERK_PER_S = 2.0


def check_positive(what: str, config: Any, *names: str) -> None:
    """Raises ValueError for the first of these fields that isn't above 0."""
    for name in names:
        value = getattr(config, name)
        if value <= 0:
            raise ValueError(f"{what}{name} is {value:g}; expected a number above 0")


def check_once(what: str, names: Sequence[str]) -> None:
    repeated = [name for name, num in Counter(names).items() if num > 1]
    if repeated:
        raise ValueError(f"{what} '{repeated[0]}' is named twice")


def check_renamed(where: str, rename: Mapping[str, str], joints: Sequence[str]) -> None:
    """Raises ValueError where ``rename`` names another joint than ``joints``, or leaves two with one name."""
    unknown = [name for name in rename.values() if name not in joints]
    if unknown:
        raise ValueError(f"{where}rename: unknown joint '{unknown[0]}'; joints are {', '.join(joints)}")
    check_once(f"{where}rename: joint", [*rename.values()])
    check_once(f"{where}after rename, joint", names_in_messages(joints, rename))


def names_in_messages(joints: Sequence[str], rename: Mapping[str, str]) -> tuple[str, ...]:
    """What messages call each of ``joints``, where ``rename`` maps their names to the robot's."""
    given = {name: message_name for message_name, name in rename.items()}
    return tuple(given.get(name, name) for name in joints)


@dataclass(frozen=True)
class JointConfig:
    """Limits of one joint: rad, rad/s, rad/s², rad/s³ (m, m/s, … for a sliding joint). ``max_jerk`` None: not
    limited. ``max_tracking_error`` is how far it may be measured from where it is commanded, rad or m; None: as far
    as it gets in ``TRACKING_S`` at its velocity limit, or all its range for a gripper that is an action server and for
    what crosses it in ``QUICK_S``. One that is ``fixed`` is measured and never driven."""

    name: str
    lower: float
    upper: float
    max_velocity: float
    max_acceleration: float
    max_jerk: float | None = None
    max_tracking_error: float | None = None
    fixed: bool = False

    def __post_init__(self) -> None:
        if self.lower >= self.upper:
            raise ValueError(f"joint '{self.name}': lower {self.lower} is not below upper {self.upper}")
        given = [] if self.max_tracking_error is None else ["max_tracking_error"]
        check_positive(f"joint '{self.name}': ", self, "max_velocity", "max_acceleration", *given)
        if self.max_jerk is not None and self.max_jerk < MIN_JERK_PER_S * self.max_acceleration:
            raise ValueError(
                f"joint '{self.name}': max_jerk is {self.max_jerk:g}; expected at least {MIN_JERK_PER_S:g} times "
                "max_acceleration: with less, commands come too late"
            )


@dataclass(frozen=True)
class CameraConfig:
    """One camera: its topic, the image size it publishes in pixels, the age at which it is stale, and for how long its
    pixels may stay exactly the same (0: for ever; the noise of a real sensor changes some in every frame). ``rate_hz``
    is the rate it is expected to publish at; None: nobody knows."""

    name: str
    topic: str
    width: int
    height: int
    max_age_s: float
    compressed: bool = False
    max_frozen_s: float = 1.0
    rate_hz: float | None = None

    def __post_init__(self) -> None:
        given = [] if self.rate_hz is None else ["rate_hz"]
        check_positive(f"camera '{self.name}': ", self, "width", "height", "max_age_s", *given)
        if self.max_frozen_s < 0:
            raise ValueError(f"camera '{self.name}': max_frozen_s is {self.max_frozen_s:g}; expected 0 or more")


@dataclass(frozen=True)
class JointStateConfig:
    """One source of measured joint states: messages on ``topic``, stale at ``max_age_s``.

    ``joints`` are those of the robot that come from here, empty for all of them; ``rename`` maps what messages call a
    joint to what the robot file calls it.
    """

    topic: str = "joint_states"
    joints: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    max_age_s: float = 0.2

    def __post_init__(self) -> None:
        check_positive("joint_states.", self, "max_age_s")
        check_once(f"joint_states on '{self.topic}': joint", [*self.joints])
        check_once(f"joint_states on '{self.topic}': in rename, joint", [*self.rename.values()])

    @cached_property
    def message_names(self) -> tuple[str, ...]:
        """What messages call each of ``joints``."""
        return names_in_messages(self.joints, self.rename)


@dataclass(frozen=True)
class OutputConfig:
    """A group of joints with one controller; ``interface`` is a name of ``outputs.INTERFACES``.

    Trajectories are stamped with the ``tick`` they belong to, so that a late one changes nothing, or ``zero``: they
    start on receipt, for a controller on another clock. A command is due ``lead_periods`` control periods after its
    tick: with two, what comes late by up to a period finds the one before still under way. A gripper's action server,
    whose name ``topic`` is, gets a goal where the target has moved by ``min_change`` (rad or m; None: a hundredth of
    its range), at most ``max_rate_hz`` times a second, with ``max_effort`` (N or Nm; None: what the server does by
    default). ``rename`` maps what the controller calls a joint to what the robot file calls it.
    """

    name: str
    joints: tuple[str, ...]
    interface: str = "trajectory"
    topic: str = ""
    stamp: str = "tick"
    lead_periods: int = 1
    min_change: float | None = None
    max_rate_hz: float | None = None
    max_effort: float | None = None
    rename: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        where = f"output '{self.name}': "
        for key, known in (("interface", tuple(INTERFACES)), ("stamp", STAMPS), ("lead_periods", LEADS)):
            if getattr(self, key) not in known:
                expected = f"expected one of {', '.join(map(str, known))}"
                raise ValueError(f"{where}{key} is '{getattr(self, key)}'; {expected}")
        for own in fields(self)[4:]:  # those that not every interface has
            if getattr(self, own.name) not in (own.default, {}) and own.name not in self.kind.keys:
                expected = f"expected none but {', '.join(self.kind.keys) or 'topic'}"
                raise ValueError(f"{where}{own.name} is given for interface '{self.interface}'; {expected}")
        if not self.joints:
            raise ValueError(f"{where}joints is empty; expected those that it drives")
        check_renamed(where, self.rename, self.joints)
        if self.kind.is_gripper and len(self.joints) > 1:
            got = f"joints are {', '.join(self.joints)} for interface '{self.interface}'"
            raise ValueError(f"{where}{got}; expected one joint: give each gripper an output of its own")
        check_positive(
            where, self, *(k for k in ("min_change", "max_rate_hz", "max_effort") if getattr(self, k) is not None)
        )

    @property
    def kind(self) -> Interface:
        """What its interface is about."""
        return INTERFACES[self.interface]

    @property
    def command_topic(self) -> str:
        """The topic, or the action, that commands go to: the one in the file, else the controller's usual one."""
        return self.topic or self.kind.topic

    @cached_property
    def message_names(self) -> tuple[str, ...]:
        """What its controller calls each of ``joints``."""
        return names_in_messages(self.joints, self.rename)

    @property
    def set_points(self) -> Interface:
        """How its set points are published, recorded and read: as its commands, where those say all of it."""
        return self.kind if self.kind.decode is not None else INTERFACES["trajectory"]

    def decode(self, msg: Any, period_s: float) -> Trajectory:
        """A message of ``set_points``, as ``Interface.decode`` reads it."""
        assert self.set_points.decode is not None
        return self.set_points.decode(msg, self.message_names, period_s)

    @property
    def set_point_topic(self) -> str:
        """The topic of ``set_points``."""
        return self.command_topic if self.set_points is self.kind else f"{self.command_topic}/{SET_POINTS}"


@dataclass(frozen=True)
class KinematicsConfig:
    """The chain that poses are of: from link ``base`` to link ``tip`` of the URDF file ``urdf``, whose path is relative
    to the robot file, or to the packaged ones, until ``RobotFile.robot`` makes it absolute."""

    urdf: str
    base: str
    tip: str

    def __post_init__(self) -> None:
        if self.base == self.tip:
            raise ValueError(f"kinematics: base and tip are both '{self.base}'; expected two links of the URDF")


@dataclass(frozen=True)
class TeleopConfig:
    """What a human's device sends on ``topic`` (empty: the policy node's own): a ``joint_trajectory`` in the robot's
    own joints, or the ``joint_states`` of a leader arm. Several leaders are one device.

    Of a leader, ``joints`` are those of the robot that it leads, empty for any; ``rename`` maps what messages call a
    joint to what the robot file calls it; the robot's joint is then ``scale * sign * leader + offset``, rad or m, each
    a mapping from the robot's joint, 1 and 0 where it is left out. The leader takes over at once where no joint is
    further than ``max_distance``, rad or m, from it; None: from anywhere, through the ramp.
    """

    type: str = "joint_trajectory"
    topic: str = ""
    joints: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    sign: Mapping[str, int] = field(default_factory=dict)
    offset: Mapping[str, float] = field(default_factory=dict)
    scale: Mapping[str, float] = field(default_factory=dict)
    max_distance: float | None = None

    def __post_init__(self) -> None:
        check_choice("teleop.type", self.type, TELEOP_TYPES)
        given = [f.name for f in fields(self)[2:] if getattr(self, f.name) not in ((), {}, None)]
        if given and self.type != "joint_states":
            raise ValueError(f"teleop.{given[0]} is given for type '{self.type}'; expected it for joint_states only")
        for name, sign in self.sign.items():
            if sign not in (1, -1):
                raise ValueError(f"teleop.sign of '{name}' is {sign}; expected 1 or -1")
        for name, scale in self.scale.items():
            if scale <= 0:
                raise ValueError(f"teleop.scale of '{name}' is {scale:g}; expected a number above 0: turn it by sign")
        if self.max_distance is not None:
            check_positive("teleop.", self, "max_distance")


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
        check_positive("watchdogs.", self, "max_recovery_s", "max_overrun_s")

    def action(self, kind: str) -> str:
        """``hold`` or ``recover`` for a fault by the name of its field."""
        return getattr(self, kind)


FAULT_KINDS = tuple(field.name for field in fields(WatchdogConfig) if field.type == "str")
