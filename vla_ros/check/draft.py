"""The draft of a robot file: what a URDF and a live graph say, and comments where somebody has to say it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from vla_ros.outputs import INTERFACES
from vla_ros.strict import quoted
from vla_ros.urdf import MOVING_TYPES, UrdfJoint, parse_urdf

TODO = "# TODO:"
MAX_ACCELERATION = 2.0
"""Gentle for any arm: half a second to its usual speed."""
MAX_VELOCITY = 0.5
MAX_SLIDE_M = 0.05
MAX_AGE_PERIODS, MIN_AGE_S = 6, 0.1
PLACEHOLDER = "camera/image_raw"


@dataclass(frozen=True)
class FoundCamera:
    """A topic with pictures: their size in pixels and rate; 0 where none came."""

    topic: str
    compressed: bool = False
    width: int = 0
    height: int = 0
    rate_hz: float = 0.0


@dataclass(frozen=True)
class FoundJoints:
    """A topic with joint states and the joints that its messages name."""

    topic: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """What a live graph has; ``trajectories`` are topics that somebody takes trajectories on, ``note`` says what was
    looked at."""

    note: str
    cameras: tuple[FoundCamera, ...] = ()
    joint_states: tuple[FoundJoints, ...] = ()
    trajectories: tuple[str, ...] = ()


def draft(urdf_text: str, urdf: str, found: Found) -> str:
    """A robot file's text for the URDF at ``urdf``, a path relative to it.

    Raises ValueError as ``parse_urdf`` does, and for a URDF in which no joint moves.
    """
    parsed = parse_urdf(urdf_text, f"URDF {urdf}")
    joints = {name: joint for name, joint in parsed.joints.items() if joint.kind in MOVING_TYPES and not joint.mimics}
    if not joints:
        raise ValueError(f"URDF {urdf} has no joint that moves; expected at least one {', '.join(MOVING_TYPES)}")
    sections = (
        _head(parsed.root.get("name") or "robot", urdf, found),
        _joints(joints),
        _joint_states(tuple(joints), found.joint_states),
        _cameras(found.cameras),
        _outputs(tuple(joints), found.trajectories),
        _kinematics(parsed.root, urdf),
    )
    return "\n".join(line for section in sections for line in (*section, "")).rstrip("\n") + "\n"


def _head(name: str, urdf: str, found: Found) -> Iterator[str]:
    yield f"# A draft, of {quoted(urdf)} and {quoted(found.note)}. Settle every TODO, then: vla_ros check THIS_FILE"
    yield "# Every key: docs/robot_file.md. Units: rad or m, rad/s, rad/s^2, s, Hz, pixels."
    yield f"name: {_text(name)}"
    yield f"control_rate_hz: 50.0     {TODO} commands a second; what the controller and the policy were made for"
    yield f"urdf: {_text(urdf)}     # limits that joints leave out come from it"


def _joints(joints: dict[str, UrdfJoint]) -> Iterator[str]:
    yield f"{TODO} the order that the policy was trained with; max_acceleration, which no URDF has"
    yield "joints:"
    for name, joint in joints.items():
        keys = [f"name: {_text(name)}"]
        missing = []
        if joint.lower is None:
            most = MAX_SLIDE_M if joint.kind == "prismatic" else math.pi
            keys.append(f"lower: {-most:.5g}, upper: {most:.5g}")
            missing.append("lower and upper")
        if joint.max_velocity is None:
            keys.append(f"max_velocity: {MAX_VELOCITY}")
            missing.append("max_velocity")
        said = f"# {_said(joint)}" if not missing else f"{TODO} {' and '.join(missing)}: the URDF says nothing"
        yield f"  - {{{', '.join(keys)}, max_acceleration: {MAX_ACCELERATION}}}   {said}"


def _said(joint: UrdfJoint) -> str:
    unit = "m" if joint.kind == "prismatic" else "rad"
    return f"{joint.lower:g} to {joint.upper:g} {unit}, {joint.max_velocity:g} {unit}/s"


def _joint_states(joints: Sequence[str], found: Sequence[FoundJoints]) -> Iterator[str]:
    by_topic: dict[str, list[str]] = {}
    for name in joints:
        topic = next((source.topic for source in found if name in source.names), "")
        by_topic.setdefault(topic, []).append(name)
    unheard = by_topic.pop("", [])
    if not by_topic:
        heard = ", ".join(quoted(source.topic) for source in found)
        yield f"{TODO} the topic; no message named one of these joints" + (f" on {heard} (rename?)" if heard else "")
        yield "joint_states: {topic: joint_states, max_age_s: 0.2}"
        return
    if unheard:
        yield f"{TODO} no message named {', '.join(map(quoted, unheard))}: correct the topic, or rename, or fixed: true"
        next(iter(by_topic.values())).extend(unheard)
    yield "joint_states:"
    for topic, names in by_topic.items():
        yield f"  - {{topic: {_text(topic)}, joints: [{', '.join(map(_text, names))}], max_age_s: 0.2}}"


def _cameras(found: Sequence[FoundCamera]) -> Iterator[str]:
    if not found:
        yield f"{TODO} the cameras that the policy sees; no topic had pictures"
    else:
        yield f"{TODO} keep those that the policy sees, by the names that it knows"
    yield "cameras:"
    for number, camera in enumerate(found or (FoundCamera(PLACEHOLDER),)):
        rate = f", rate_hz: {camera.rate_hz:.0f}" if camera.rate_hz >= 0.5 else ""
        max_age_s = max(MAX_AGE_PERIODS / camera.rate_hz, MIN_AGE_S) if camera.rate_hz else 0.4
        size = f"width: {camera.width or 640}, height: {camera.height or 480}"
        note = "" if camera.width else f"   {TODO} its size: none came"
        compressed = ", compressed: true" if camera.compressed else ""
        keys = f"name: camera_{number}, topic: {_text(camera.topic)}, {size}{rate}, max_age_s: {max_age_s:.2g}"
        yield f"  - {{{keys}{compressed}}}{note}"


def _outputs(joints: Sequence[str], topics: Sequence[str]) -> Iterator[str]:
    yield f"{TODO} one for each controller; interface: {', '.join(INTERFACES)}"
    if len(topics) > 1:
        yield f"# Trajectories are taken on {', '.join(map(quoted, topics))}."
    yield "outputs:"
    yield "  - name: arm"
    yield "    interface: trajectory"
    topic = topics[0] if topics else "joint_trajectory_controller/joint_trajectory"
    yield f"    topic: {_text(topic)}" + ("" if topics else f"     {TODO} nobody takes trajectories")
    yield f"    joints: [{', '.join(map(_text, joints))}]"


def _kinematics(root: ElementTree.Element, urdf: str) -> Iterator[str]:
    ends = {
        kind: [end.get("link", "") for joint in root.findall("joint") for end in joint.findall(kind)]
        for kind in ("parent", "child")
    }
    bases = [link for link in dict.fromkeys(ends["parent"]) if link not in ends["child"]]
    tips = [link for link in dict.fromkeys(ends["child"]) if link not in ends["parent"]]
    yield f"# For policies with poses; links without a child are {', '.join(map(quoted, tips))}."
    base, tip = (names[0] if names else "LINK" for names in (bases, tips))
    yield f"# kinematics: {{urdf: {_text(urdf)}, base: {_text(base)}, tip: {_text(tip)}}}"


def _text(value: str) -> str:
    """A YAML scalar that is text whatever it looks like."""
    is_plain = value.replace("_", "").replace("/", "").replace(".", "").replace("-", "").isalnum()
    is_word = (
        is_plain and value[0].isalpha() and value.lower() not in ("true", "false", "null", "yes", "no", "on", "off")
    )
    return value if is_word else "'" + value.replace("'", "''") + "'"
