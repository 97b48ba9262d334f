"""Joint limits out of a URDF: where a robot file leaves them out, and what it says must lie within them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from vla_ros.strict import MAX_TEXT_BYTES, check_count, explained, listed, quoted, read_text

MOVING_TYPES = ("revolute", "continuous", "prismatic")
# A document type may define entities that expand without end; no URDF needs one.
REFUSED_MARKUP = ("<!DOCTYPE", "<!ENTITY")
EXPAND_XACRO = "expand it: xacro robot.urdf.xacro > robot.urdf"


@dataclass(frozen=True)
class UrdfJoint:
    """One joint as a URDF has it, limits in the units of ``JointConfig``; None where it says nothing. ``mimics``:
    another joint moves it."""

    kind: str
    lower: float | None
    upper: float | None
    max_velocity: float | None
    mimics: bool = False


@dataclass(frozen=True)
class Urdf:
    """The joints of one URDF by name, and its XML below ``root``; ``where`` names it in error messages."""

    where: str
    joints: Mapping[str, UrdfJoint]
    root: ElementTree.Element

    def fill(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """A robot file's entry of one joint, with the URDF's ``lower``, ``upper`` and ``max_velocity`` for those left
        out.

        A joint that gives all three may be missing in the URDF; a gripper often is. Raises ValueError, naming joint and
        key, where the URDF doesn't have it either.
        """
        name = entry.get("name")
        left_out = [key for key in ("lower", "upper", "max_velocity") if key not in entry]
        if not left_out or not isinstance(name, str):  # without a name it is refused as every such entry is
            return dict(entry)
        fix = f"give {', '.join(left_out)} in the robot file, or fix the URDF"
        joint = self.joints.get(name)
        if joint is None:
            known = listed(tuple(self.joints))
            raise ValueError(f"joint '{quoted(name)}' is not in {self.where}, whose joints are {known}: {fix}")
        limits = {key: getattr(joint, key) for key in left_out}
        missing = [key for key, value in limits.items() if value is None]
        if missing:
            got = f"joint '{quoted(name)}', {quoted(joint.kind)}, has no {missing[0]} in {self.where}"
            raise ValueError(f"{got}: {fix}")
        return {**entry, **limits}

    def check(self, name: str, lower: float, upper: float, max_velocity: float) -> None:
        """Raises ValueError, naming both values, where the URDF allows joint ``name`` less, or doesn't move it at
        all."""
        joint = self.joints.get(name)
        if joint is None:
            return
        if joint.kind not in MOVING_TYPES:
            expected = ", ".join(MOVING_TYPES)
            got = f"joint '{quoted(name)}' is {quoted(joint.kind)} in {self.where}"
            raise ValueError(f"{got}; expected one of {expected}")
        where = f"joint '{quoted(name)}'"
        if joint.lower is not None and lower < joint.lower:
            raise ValueError(f"{where}: lower is {lower}; expected at least {joint.lower}, as in {self.where}")
        for key, value, most in (("upper", upper, joint.upper), ("max_velocity", max_velocity, joint.max_velocity)):
            if most is not None and value > most:
                raise ValueError(f"{where}: {key} is {value}; expected at most {most}, as in {self.where}")

    def path(self, base: str, tip: str) -> list[ElementTree.Element]:
        """The joints from link ``base`` to link ``tip``, in this order. Raises ValueError where there is no way."""
        links = [link.get("name", "") for link in self.root.findall("link")]
        for what, name in (("base", base), ("tip", tip)):
            if name not in links:
                raise ValueError(
                    f"{what} is '{quoted(name)}', which the URDF doesn't have; expected one of {listed(links)}"
                )
        to = {link_at(joint, "child"): joint for joint in self.root.findall("joint")}
        path: list[ElementTree.Element] = []
        link = tip
        while link != base:
            joint = to.get(link)
            if joint is None or len(path) > len(to):
                got = f"base '{quoted(base)}' does not carry tip '{quoted(tip)}'"
                raise ValueError(f"{got}; expected a link between the root and the tip")
            kind = joint.get("type", "of no type")
            if kind not in ("fixed", *MOVING_TYPES):
                got = f"joint '{quoted(joint.get('name', ''))}' is {quoted(kind)}"
                raise ValueError(f"{got}; expected one that turns or slides")
            path.insert(0, joint)
            link = link_at(joint, "parent")
        return path


def check_driven(path: Sequence[ElementTree.Element], base: str, tip: str, joint_names: Sequence[str]) -> None:
    """Raises ValueError where the chain of joints ``path`` from ``base`` to ``tip`` has one that moves, or mimics one,
    that is none of ``joint_names``."""
    for joint in path:
        mimic = joint.find("mimic")
        name = joint.get("name", "") if mimic is None else mimic.get("joint", "")
        if joint.get("type") != "fixed" and name not in joint_names:
            fix = "add it to joints in the robot file, with fixed: true where no output drives it"
            raise ValueError(f"the chain from '{base}' to '{tip}' goes through joint '{quoted(name)}'; {fix}")


def link_at(joint: ElementTree.Element, end: str) -> str:
    """The link at a joint's ``parent`` or ``child`` end; empty where it names none."""
    element = joint.find(end)
    return "" if element is None else element.get("link", "")


def read_urdf(path: Path) -> Urdf:
    """The joints of a URDF file. Raises ValueError, naming the file, for one that can't be used."""
    where = f"URDF {path}"
    missing = explained(f"{where}: ", OSError, after="; give its path relative to the robot file")
    with missing, explained(f"{where}: not readable as text: "):
        text = read_text(path, errors="replace")  # of other encodings only comments and names of links have bytes
    return parse_urdf(text, where)


def parse_urdf(text: str, where: str) -> Urdf:
    """The joints of a URDF's ``text``. Raises ValueError, beginning with ``where``, for any but an expanded URDF."""
    check_count(where, "characters", text, MAX_TEXT_BYTES)
    for markup in REFUSED_MARKUP:
        if markup in text:
            raise ValueError(f"{where} contains {markup}; expected none: remove the document type")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"{where} is not readable as XML: {error}") from error
    if root.tag != "robot":
        raise ValueError(f"{where} begins with <{quoted(root.tag)}>; expected <robot>")
    for element in root.iter():
        namespace, _, tag = element.tag.rpartition("}")
        if namespace.endswith("xacro"):
            raise ValueError(f"{where} contains <xacro:{quoted(tag)}>; {EXPAND_XACRO}")
    joints: dict[str, UrdfJoint] = {}
    # Only those right below <robot>: <transmission> and <ros2_control> name joints, too.
    for element in root.findall("joint"):
        name = element.get("name", "")
        if name in joints:
            raise ValueError(f"{where} has joint '{quoted(name)}' twice; expected every name once")
        joints[name] = _joint(element, f"{where}: joint '{quoted(name)}'")
    return Urdf(where, joints, root)


def _joint(element: ElementTree.Element, where: str) -> UrdfJoint:
    kind, mimics = element.get("type", "of no type"), element.find("mimic") is not None
    limit = element.find("limit")
    if limit is None:
        return UrdfJoint(kind, None, None, None, mimics)
    lower, upper, velocity = (_number(limit, key, where) for key in ("lower", "upper", "velocity"))
    # A continuous joint turns without end. Of the two, URDF takes one left out as 0; exporters write 0 for both, and
    # for the velocity, where they know nothing.
    if kind == "continuous" or not (lower or upper):
        lower = upper = None
    else:
        lower, upper = lower or 0.0, upper or 0.0
    return UrdfJoint(kind, lower, upper, velocity or None, mimics)


def _number(limit: ElementTree.Element, key: str, where: str) -> float | None:
    text = limit.get(key)
    if text is None:
        return None
    if "${" in text or "$(" in text:
        raise ValueError(f"{where} has {key} '{quoted(text)}'; {EXPAND_XACRO}")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where} has {key} '{quoted(text)}'; expected a finite number")
    return value
