"""What a checkpoint's numbers mean, which it doesn't say: its user's declaration, checked against what it does say."""

from __future__ import annotations

import re
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
_NO_WORD = re.compile(r"[^a-z0-9]")


@dataclass(frozen=True)
class Declaration:
    """A space of a robot: both vectors, declared and parsed."""

    file: SpaceFile
    state: Space
    action: Space


def declare(
    name: str | None, robot: RobotJoints, sizes: Mapping[str, int | None], relative: Sequence[bool], what: str
) -> Declaration:
    """The space ``name`` for ``robot``, its actions relative where the checkpoint ``what`` says so in ``relative``, of
    each number, empty where it doesn't say.

    ``sizes`` are how many numbers the checkpoint has of ``state`` and ``action``, None where it doesn't say. Raises
    ValueError for no name, saying which presets fit, for a space of another size, and for one with actions relative to
    the observation that the checkpoint has absolute.
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
        if relative:
            _check_absolute(file.action, declared.action, relative, what)
        if any(relative):
            action = make_relative(file.action, declared.action, relative)
            declared = _parsed(SpaceFile(file.state, action, file.cameras, file.chunk_dt_s), robot)
    return declared


def _check_absolute(action: Sequence[Mapping[str, Any]], space: Space, relative: Sequence[bool], what: str) -> None:
    """Raises ValueError where a component is relative to the observation and the checkpoint makes a number of it
    absolute: the arm would go as far beyond where it is as that is from 0."""
    first = 0
    for index, (entry, component) in enumerate(zip(action, space.components, strict=True)):
        mask = relative[first : first + component.size]
        first += component.size
        if entry.get("reference") == "observation" and not all(mask):
            got = f"action[{index}] is relative to the observation, and {what} says that its actions there are absolute"
            raise ValueError(f"{got} (relative_actions_processor); leave reference out, or give another space")


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
    space does. Its names may have more around a joint's, or less (``main_shoulder_pan.pos``)."""
    ours = [name.lower() for name in space.joint_names]
    meant = [_meant(name.removesuffix(".pos").removesuffix("_pos"), ours) for name in named]
    told = [names[0] for names in meant if len(names) == 1]
    if len(set(told)) == len(told) and told != [name for name in ours if name in told]:
        expected = f"the space has {listed(ours)}: put its joints in that order"
        raise ValueError(f"{where} names its actions {listed(tuple(named))}; {expected}")


def _meant(theirs: str, ours: Sequence[str]) -> list[str]:
    """Which of our names is theirs, or else has more words around it, or fewer."""
    if theirs in ours:
        return [theirs]
    one, *others = (f"_{_NO_WORD.sub('_', name)}_" for name in (theirs, *ours))
    return [name for name, other in zip(ours, others, strict=True) if one in other or other in one]


def assign_cameras(
    keys: Sequence[str],
    given: Sequence[str],
    declared: Sequence[Mapping[str, Any]],
    robot: Mapping[str, CameraSettings],
) -> dict[str, CameraSettings]:
    """The robot's camera of each of the checkpoint's ``keys``, by what the user says (``SLOT=NAME``), else by what the
    space declares; a slot that gets ``none`` has no camera.

    A key may be said by its last part. Raises ValueError for a slot that nobody assigns or that is assigned twice, an
    unknown slot or camera.
    """
    assigned = {key: slot.camera or NO_CAMERA for key, slot in _slots(keys, declared).items()}
    said: set[str] = set()
    for text in given:
        slot, _, name = text.partition("=")
        if not name:
            raise ValueError(f"--camera is '{quoted(text)}'; expected SLOT=NAME")
        known = _full(slot, keys)
        if known is None:
            raise ValueError(f"--camera {quoted(text)}: the checkpoint has {listed(keys)}, and no such slot")
        if known in said:
            raise ValueError(f"--camera {quoted(text)}: {quoted(known)} has a camera already; give each slot one")
        said.add(known)
        assigned[known] = name
    for key in keys:
        if key not in assigned:
            asked = f"which camera is {quoted(key)}? say it with --camera {_short(key, keys)}=NAME"
            raise ValueError(f"{asked}; the robot has {listed(tuple(robot))}, and {NO_CAMERA} is for none")
        if assigned[key] not in (*robot, NO_CAMERA):
            got = f"--camera {_short(key, keys)}={quoted(assigned[key])}"
            raise ValueError(f"{got}: the robot has {listed(tuple(robot))}; give one of these, or {NO_CAMERA}")
    chosen = {key: robot[assigned[key]] for key in keys if assigned[key] != NO_CAMERA}
    if not chosen:
        raise ValueError("no slot has a camera; the policy needs at least one: --camera SLOT=NAME")
    return chosen


def black_slots(
    keys: Sequence[str], cameras: Mapping[str, CameraSettings], declared: Sequence[Mapping[str, Any]]
) -> tuple[str, ...]:
    """The checkpoint's ``keys`` without one of the assigned ``cameras`` that the space has ``missing: zeros`` for."""
    slots = _slots(keys, declared)
    return tuple(key for key in keys if key not in cameras and key in slots and slots[key].missing == "zeros")


def refuse_black(slots: Sequence[str], whom: str) -> None:
    """Raises ValueError where there are ``black_slots`` for a policy that sees nothing there."""
    if slots:
        got = f"the space has missing: zeros for slot '{quoted(slots[0])}'"
        raise ValueError(f"{got}, and {whom} gets no picture without a camera; expected missing: mask")


def _slots(keys: Sequence[str], declared: Sequence[Mapping[str, Any]]) -> dict[str, CameraSlot]:
    """By the checkpoint's ``keys``, those slots of a space that say what is seen there. Raises ValueError for a slot
    that the space has twice."""
    slots: dict[str, CameraSlot] = {}
    for entry in declared:
        slot = parse_config(CameraSlot, entry, "a camera of the space")
        key = _full(slot.key, keys)
        if key in slots:
            raise ValueError(f"the space has the camera slot '{quoted(slot.key)}' twice; expected one")
        if key is not None:
            slots[key] = slot
    return {key: slot for key, slot in slots.items() if slot.camera or slot.missing != "refuse"}


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
    """The one of ``keys`` that is meant, by itself or by its last part."""
    meant = [key for key in keys if key == slot] or [key for key in keys if _short(key, keys) == slot]
    return meant[0] if meant else None


def _short(key: str, keys: Sequence[str]) -> str:
    """Its last part, where no other of ``keys`` has the same."""
    last = key.rpartition(".")[2]
    return last if sum(last == other.rpartition(".")[2] for other in keys) == 1 else key
