"""What a checkpoint's numbers mean, which it doesn't say: its user's declaration, checked against what it does say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vla_ros.policies.importing.settings import CameraSettings
from vla_ros.spaces.cameras import CameraSlot
from vla_ros.spaces.components import Constant, RobotJoints
from vla_ros.spaces.files import SpaceFile, presets, read_space
from vla_ros.spaces.space import Space, parse_space
from vla_ros.strict import explained, listed, parse_config, quoted

NO_CAMERA = "none"


@dataclass(frozen=True)
class Declaration:
    """A space of a robot: both vectors, declared and parsed."""

    file: SpaceFile
    state: Space
    action: Space


def declare(
    name: str | None, robot: RobotJoints, sizes: Mapping[str, int | None], relative: Sequence[bool], what: str
) -> Declaration:
    """The space ``name`` for ``robot``, its actions relative where the checkpoint ``what`` says so.

    ``sizes`` are how many numbers the checkpoint has of ``state`` and ``action``, None where it doesn't say. Raises
    ValueError for no name, saying which presets fit, and for a space of another size.
    """
    if name is None:
        fitting = [preset for preset in presets() if _fits(preset, robot, sizes)]
        got = ", ".join(f"{size} numbers of {key}" for key, size in sizes.items() if size is not None)
        asked = f"{what} doesn't say what its {got or 'numbers'} mean; say it with --space PRESET or FILE"
        raise ValueError(f"{asked} (presets that fit {listed(robot.names)}: {listed(fitting)})")
    file = read_space(name)
    with explained(f"--space {quoted(name)}: "):
        declared = _parsed(file, robot)
        for key, size in sizes.items():
            got = getattr(declared, key).size
            if size is not None and got != size:
                raise ValueError(f"{key} makes {got} numbers; {what} has {size}: give the space it was trained with")
        if any(relative):
            action = make_relative(file.action, declared.action, relative)
            declared = _parsed(SpaceFile(file.state, action, file.cameras, file.chunk_dt_s), robot)
    return declared


def make_relative(
    action: Sequence[Mapping[str, Any]], space: Space, relative: Sequence[bool]
) -> tuple[Mapping[str, Any], ...]:
    """The declaration with ``reference: observation`` for the numbers that are ``relative``; the others stay. Raises
    ValueError for a component of which only some are, and which isn't a list of joints."""
    changed: list[Mapping[str, Any]] = []
    first = 0
    for entry, component in zip(action, space.components, strict=True):
        mask = list(relative[first : first + component.size])
        first += component.size
        if not any(mask) or isinstance(component, Constant):
            changed.append(entry)
        elif all(mask):
            changed.append({**entry, "reference": "observation"})
        elif entry["type"] == "joints":
            own = {key: value for key, value in entry.items() if key not in ("joints", "type")}
            for joint, is_relative in zip(entry["joints"], mask, strict=True):
                reference = {"reference": "observation"} if is_relative else {}
                changed.append({"type": "joint", "joint": joint, **own, **reference})
        else:
            raise ValueError(f"a component of {component.size} numbers is relative in parts; declare them apart")
    return tuple(changed)


def check_order(named: Sequence[str], space: Space, where: str) -> None:
    """Raises ValueError where a checkpoint names the joints of its actions, in lower case, in another order than the
    space does."""
    theirs = [name.removesuffix(".pos").removesuffix("_pos") for name in named]
    ours = [name.lower() for name in space.joint_names]
    if sorted(theirs) == sorted(ours) and theirs != ours:
        raise ValueError(
            f"{where} names its actions {listed(theirs)}; the space has {listed(ours)}: put its joints in that order"
        )


def assign_cameras(
    keys: Sequence[str],
    given: Sequence[str],
    declared: Sequence[Mapping[str, Any]],
    robot: Mapping[str, CameraSettings],
) -> dict[str, CameraSettings]:
    """The robot's camera of each of the checkpoint's ``keys``, by what the user says (``SLOT=NAME``), else by what the
    space declares; a slot that gets ``none`` has no camera.

    A key may be said by its last part. Raises ValueError for a slot that nobody assigns, an unknown slot or camera.
    """
    slots = [parse_config(CameraSlot, slot, "a camera of the space") for slot in declared]
    named = {slot.key: slot.camera or NO_CAMERA for slot in slots if slot.camera or slot.missing != "refuse"}
    for text in given:
        slot, _, name = text.partition("=")
        if not name:
            raise ValueError(f"--camera is '{quoted(text)}'; expected SLOT=NAME")
        if _full(slot, keys) is None:
            raise ValueError(f"--camera {quoted(text)}: the checkpoint has {listed(keys)}, and no such slot")
        named[slot] = name
    assigned = {_full(slot, keys): name for slot, name in named.items()}
    for key in keys:
        if key not in assigned:
            asked = f"which camera is {quoted(key)}? say it with --camera {_short(key)}=NAME"
            raise ValueError(f"{asked}; the robot has {listed(tuple(robot))}, and {NO_CAMERA} is for none")
        if assigned[key] not in (*robot, NO_CAMERA):
            got = f"--camera {_short(key)}={quoted(assigned[key])}"
            raise ValueError(f"{got}: the robot has {listed(tuple(robot))}; give one of these, or {NO_CAMERA}")
    chosen = {key: robot[assigned[key]] for key in keys if assigned[key] != NO_CAMERA}
    if not chosen:
        raise ValueError("no slot has a camera; the policy needs at least one: --camera SLOT=NAME")
    return chosen


def _fits(preset: str, robot: RobotJoints, sizes: Mapping[str, int | None]) -> bool:
    try:
        declared = _parsed(read_space(preset), robot)
    except ValueError:
        return False
    return all(size is None or getattr(declared, key).size == size for key, size in sizes.items())


def _parsed(file: SpaceFile, robot: RobotJoints) -> Declaration:
    robot = replace(robot, chunk_dt_s=file.chunk_dt_s or robot.chunk_dt_s)
    state, action = parse_space(file.state, "data.state", robot), parse_space(file.action, "data.action", robot)
    return Declaration(file, state, action)


def _full(slot: str, keys: Sequence[str]) -> str | None:
    return next((key for key in keys if slot in (key, _short(key))), None)


def _short(key: str) -> str:
    return key.rpartition(".")[2]
