"""Prints docs/robot_file.md, the reference of every key of a robot file, from the dataclasses that read it.

python docs/robot_file.py > docs/robot_file.md
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from vla_ros.outputs import INTERFACES
from vla_ros.robot import RobotConfig
from vla_ros.robot.parts import FAULT_KINDS, LEADS, STAMPS, TELEOP_TYPES

INTRODUCTION = """# The robot file

Made by `python docs/robot_file.py` from the dataclasses in `vla_ros/robot`; a test keeps it so. `config/robots` has
examples, `vla_ros new robot --from-urdf FILE` writes a draft, `vla_ros check FILE` compares one with the running robot.
Unknown, missing and mistyped keys are refused by name. A key without a default is required. Numbers are SI: rad, m, s,
Hz."""
KINDS = {float: "number", int: "whole number", str: "text", bool: "true or false"}
ANY_JOINT = "by the robot's joint"
NOTES = {
    "watchdogs": f"\n\n{FAULT_KINDS[0]} to {FAULT_KINDS[-1]} are each `hold`, or `recover`: brake, and go on when that "
    "is over."
}
MEANINGS = {
    "": {
        "name": "what the robot is called in reports",
        "control_rate_hz": "commands a second, 1 to 1000",
        "joints": "every joint that is measured or driven; their order is the order of state and action",
        "cameras": "every camera, by the name that the policy knows",
        "outputs": "one for each controller",
        "joint_states": "where measured joints come from; one mapping, or a list of them",
        "max_camera_skew_s": "how far apart in time the images of one observation may be",
        "watchdogs": "what faults do while the policy drives",
        "urdf": "URDF, its path relative to the robot file: limits that joints leave out come from it",
        "urdf_topic": "topic of the URDF, instead of `urdf`",
        "kinematics": "the chain that a policy's poses are of",
        "teleop": "the device of the human who takes over; one mapping, or a list of leaders that are one device",
    },
    "joints": {
        "name": "as in the URDF, where limits come from it",
        "lower": "lower limit; may be left out with a URDF",
        "upper": "upper limit; may be left out with a URDF",
        "max_velocity": "velocity limit; may be left out with a URDF",
        "max_acceleration": "acceleration limit: faults brake this hard",
        "max_jerk": "jerk limit, at least twice `max_acceleration`; none: not limited",
        "max_tracking_error": "how far it may be measured from where it is commanded; none: 0.2 s at `max_velocity`, "
        "or all its range for a joint that crosses it within a second",
        "fixed": "measured and never driven: in no output",
    },
    "cameras": {
        "name": "as the policy calls it",
        "topic": "`sensor_msgs/Image`, or `CompressedImage`",
        "width": "pixels, as published",
        "height": "pixels, as published",
        "max_age_s": "age at which it is stale",
        "compressed": "the topic has `CompressedImage`",
        "max_frozen_s": "for how long its pixels may stay exactly the same; 0: for ever",
        "rate_hz": "its expected rate, which `check` and `record` compare",
    },
    "outputs": {
        "name": "what the output is called in reports",
        "joints": "those that the controller has",
        "interface": "how commands reach it: see below",
        "topic": "command topic, or name of the action; empty: the interface's usual one",
        "stamp": f"{' or '.join(STAMPS)}: stamped with the control tick, or 0 for a controller on another clock",
        "lead_periods": f"{' or '.join(map(str, LEADS))}: how many control periods after its tick a command is due",
        "min_change": "gripper: a new goal only where the target moved by this much; none: a hundredth of its range",
        "max_rate_hz": "gripper: goals a second at most",
        "max_effort": "gripper: N or Nm; none: the action server's own",
        "rename": "what the controller calls a joint, to what the robot file calls it",
    },
    "joint_states": {
        "topic": "`sensor_msgs/JointState`",
        "joints": "those of the robot that come from here; empty: all of them, where there is one source",
        "rename": "what messages call a joint, to what the robot file calls it",
        "max_age_s": "age at which it is stale",
    },
    "watchdogs": {
        "camera": "a camera that is stale",
        "frozen_camera": "pixels that stay exactly the same",
        "joints": "joint states that are stale or jump",
        "tracking": "an arm that isn't where it is commanded",
        "result": "an answer that doesn't come in time",
        "answer": "an answer that cannot be used",
        "chunk": "a chunk that is used up before the next",
        "model": "a silent model node",
        "clock": "a jump of ROS time",
        "overrun": "missed control ticks",
        "max_recovery_s": "what lasts longer ends in HOLD",
        "max_overrun_s": "ticks missed for so long are a fault",
    },
    "kinematics": {
        "urdf": "URDF, its path relative to the robot file",
        "base": "link that poses are given in",
        "tip": "link that poses are of",
    },
    "teleop": {
        "type": f"{' or '.join(TELEOP_TYPES)}: messages in the robot's joints, or a leader arm's joint states",
        "topic": "where it is heard; empty: the policy node's `teleop`",
        "joints": "those of the robot that a leader leads; empty: any that it names, where there is one leader",
        "rename": "what the leader calls a joint, to what the robot file calls it",
        "sign": f"1 or -1, {ANY_JOINT}",
        "offset": f"rad or m, {ANY_JOINT}",
        "scale": f"a number above 0, {ANY_JOINT}: joint = scale · sign · leader + offset",
        "max_distance": "how near the leader must be to take over at once; none: from anywhere, through the ramp",
    },
}


def page() -> str:
    """The whole page. Raises KeyError for a key without a meaning, and for a meaning without a key."""
    sections = [INTRODUCTION]
    for where, kind in _kinds("", RobotConfig):
        meanings = MEANINGS[where]
        unknown = meanings.keys() - {field.name for field in fields(kind)}
        if unknown:
            raise KeyError(f"{where}.{unknown.pop()}")
        rows = [_row(field, get_type_hints(kind)[field.name], meanings[field.name]) for field in fields(kind)]
        title = f"## `{where}`" if where else "## The file"
        sections.append(
            f"{title}{NOTES.get(where, '')}\n\n| key | | default | |\n|---|---|---|---|\n" + "\n".join(rows)
        )
    return "\n\n".join([*sections, _interfaces()]) + "\n"


def _kinds(where: str, kind: Any) -> Iterator[tuple[str, Any]]:
    """``kind`` and every dataclass in it, with the key that it is at."""
    yield where, kind
    for name, hint in get_type_hints(kind).items():
        inner = next((part for part in (hint, *get_args(hint)) if is_dataclass(part)), None)
        if inner is not None:
            yield from _kinds(f"{where}.{name}".strip("."), inner)


def _row(field: Field[Any], hint: Any, meaning: str) -> str:
    return f"| `{field.name}` | {_type(hint)} | {_default(field)} | {meaning} |"


def _type(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _type(inner[0])
    if origin is tuple:
        return f"list of {'mappings' if is_dataclass(inner[0]) else _type(inner[0]) + 's'}"
    if origin is Mapping or is_dataclass(hint):
        return "mapping" if is_dataclass(hint) else f"mapping to {_type(inner[1])}s"
    return KINDS[hint]


def _default(field: Field[Any]) -> str:
    if field.default is MISSING and field.default_factory is MISSING:
        return ""
    if field.default_factory is not MISSING or field.default in ("", ()):
        return "empty"
    if field.default is None:
        return "none"
    if is_dataclass(field.default) or isinstance(field.default, tuple):
        return "its defaults"
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


def _interfaces() -> str:
    rows = [
        f"| `{name}` | `{kind.msgtype}` | `{kind.topic}` | {', '.join(f'`{key}`' for key in kind.keys)} |"
        for name, kind in INTERFACES.items()
    ]
    head = "| interface | type | usual topic or action | keys of its own |\n|---|---|---|---|\n"
    return "## Interfaces of outputs\n\n" + head + "\n".join(rows)


if __name__ == "__main__":
    print(page(), end="")
