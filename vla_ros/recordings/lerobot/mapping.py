"""Which of a robot's joints and cameras the features of a LeRobot data set are. The format has no units, so a space
says what its numbers mean; what can't be of this robot is refused before anything is learned from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vla_ros.recordings.lerobot.dataset import LeRobotSet, Rows
from vla_ros.recordings.lerobot.info import ACTION, IMAGES, NOTES, STATE, Feature
from vla_ros.recordings.lerobot.poses import joints_along, without_what_is_known
from vla_ros.recordings.plausible import SHARE, plausible_bounds
from vla_ros.robot import RobotConfig
from vla_ros.spaces.components import Line, RobotJoints
from vla_ros.spaces.space import Space, joints_space
from vla_ros.strict import explained, listed, parse_json, read_text

NEARER = 0.25
MISSED_SHARE = 0.05
"""Of poses: so many may be out of the robot's reach."""
MAX_POSED = 20
"""Of episodes: joints that go along a pose take their time."""


@dataclass(frozen=True)
class SetSpace:
    """What a set's numbers mean: ``state`` and ``action`` as declared for this robot, ``cameras`` the robot's camera by
    the feature's key, or by its last part. Empty: nobody says it, and names of features decide."""

    name: str = "names, in rad and m"
    state: Space | None = None
    action: Space | None = None
    cameras: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SetMapping:
    """``state`` and ``action`` make joints of a row's numbers, taken in the order ``state_columns`` and
    ``action_columns``; ``cameras`` has the feature of each of the robot's cameras. ``name`` is what says so."""

    state: Space
    action: Space
    state_columns: Sequence[int]
    action_columns: Sequence[int]
    cameras: Mapping[str, Feature]
    name: str

    def positions(self, states: np.ndarray) -> np.ndarray:
        """Measured joints ``[num_rows, num_joints]`` of the ``states`` of an episode ``[num_rows, size]``."""
        if self.state.needs_kinematics:
            return joints_along(self.state, states[:, self.state_columns])
        nothing = np.full((len(states), len(self.state.robot.names)), np.nan)
        return self.state.decode(states[:, None, self.state_columns], nothing)[:, 0]

    def targets(self, actions: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Commands ``[num_rows, num_joints]`` of ``actions`` ``[num_rows, size]`` given at ``positions``."""
        return self.action.decode(actions[:, None, self.action_columns], positions)[:, 0]


def read_notes(source: LeRobotSet) -> Mapping[str, Any]:
    """What this package wrote beside a set of its own: ``state`` and ``action`` as a space file has them. Empty of
    another's."""
    path = source.folder / NOTES
    if not path.is_file():
        return {}
    with explained(f"{path}: ", OSError, ValueError, after="; restore it, or delete it and give --space"):
        notes = parse_json(read_text(path))
        if not isinstance(notes, dict):
            raise ValueError(f"it holds {type(notes).__name__}; expected an object")
    return notes


def map_set(source: LeRobotSet, robot: RobotConfig, joints: RobotJoints, space: SetSpace) -> SetMapping:
    """Raises ValueError, naming the set and the feature, for joints of another robot, numbers that nobody explains, a
    camera that is missing, doubled or of another size."""
    problems: list[str] = []
    mapping = map_what_fits(source, robot, joints, space, problems.append)
    if mapping is None or problems:
        raise ValueError(problems[0])
    return mapping


def map_what_fits(
    source: LeRobotSet, robot: RobotConfig, joints: RobotJoints, space: SetSpace, report: Callable[[str], object]
) -> SetMapping | None:
    """As ``map_set``, where all that it refuses is told to ``report``: without the cameras that don't fit, and None
    where the numbers don't."""
    where = f"{source.folder}: "
    is_declared = space.state is not None and space.action is not None
    state, action = (space.state, space.action) if is_declared else (joints_space(joints),) * 2
    assert state is not None and action is not None
    columns: list[Sequence[int]] = []
    for key, one in ((STATE, state), (ACTION, action)):
        try:
            columns.append(_checked(source, key, one) if is_declared else _by_name(source, key, robot))
        except ValueError as error:
            report(str(error))
    try:
        state = without_what_is_known(state)
        for one in (state, action):
            one.check_fit(one.size, space.name)
        names = {STATE: state.joint_names, ACTION: action.joint_names}
    except ValueError as error:
        report(f"{where}{space.name}: {error}")
        names, columns = {}, []
    for key, wanted in ((STATE, robot.joint_names), (ACTION, robot.driven_names)):
        missing = [name for name in wanted if name not in names.get(key, ())]
        if missing and columns:
            report(f"{where}{key} doesn't say where joint '{missing[0]}' is; expected {listed(wanted)}: {_FIX}")
            columns = []
    cameras = _cameras(source, robot, space.cameras, report)
    return SetMapping(state, action, columns[0], columns[1], cameras, space.name) if len(columns) == 2 else None


_FIX = "say what its numbers mean with --space PRESET or FILE"


def check_poses(rows: Sequence[Rows], positions: Sequence[np.ndarray], source: LeRobotSet, mapping: SetMapping) -> None:
    """Raises ValueError where the robot's tip can't be where rows have poses of one, as with another tip or unit;
    ``positions`` are the measured joints of each of ``rows``."""
    if not (mapping.state.needs_kinematics or mapping.action.needs_kinematics):
        return
    num, missed = 0, {STATE: 0, ACTION: 0}
    for each, measured in zip(rows, positions, strict=True):
        states, actions = each.states[:, mapping.state_columns], each.actions[:, None, mapping.action_columns]
        targets = mapping.targets(each.actions, measured)
        num += len(states)
        missed[STATE] += int(mapping.state.missed(states, measured[0], measured).sum())
        missed[ACTION] += int(mapping.action.missed(actions, measured, targets[:, None]).sum())
    for key, num_missed in missed.items():
        if num_missed > MISSED_SHARE * num:
            got = f"{key} has {num_missed} of {num} poses that the robot's tip can't have by {mapping.name}"
            expected = "expected those of its own tip and base, within its joints' limits"
            raise ValueError(f"{source.folder}: {got}; {expected}: are these another link's, or in another unit?")


def check_limits(source: LeRobotSet, mapping: SetMapping, robot: RobotConfig) -> None:
    """Raises ValueError where the joints that the rows' numbers make, measured or commanded, are beyond the robot's
    limits, as degrees are that are taken for rad. Reads all numbers, of sets with poses those of ``MAX_POSED``
    episodes, and no picture."""
    posed = mapping.state.needs_kinematics or mapping.action.needs_kinematics
    step = max(1, len(source.episodes) // MAX_POSED) if posed else 1
    check_rows([source.rows(episode) for episode in source.episodes[::step]], source, mapping, robot)


def check_rows(rows: Sequence[Rows], source: LeRobotSet, mapping: SetMapping, robot: RobotConfig) -> None:
    """As ``check_limits``, of these episodes' rows alone."""
    each_positions = [mapping.positions(each.states) for each in rows]
    check_poses(rows, each_positions, source, mapping)
    positions = np.concatenate(each_positions)
    actions = np.concatenate([each.actions for each in rows])
    if seem_absolute(mapping, actions, positions):
        raise ValueError(f"{source.folder}: {not_relative(mapping)}")
    targets = mapping.targets(actions, positions)
    driven, bounds = robot.columns(robot.driven_names), plausible_bounds(robot)
    every = range(len(robot.joint_names))
    for key, values, columns in ((STATE, positions, every), (ACTION, targets, driven)):
        for column in columns:
            low, high = np.quantile(values[:, column], [SHARE, 1 - SHARE])
            if low < bounds.lowest[column] or high > bounds.highest[column]:
                name = robot.joint_names[column]
                lower, upper = robot.joint_limits[name]
                got = f"{key} has joint '{name}' from {low:.3g} to {high:.3g} by {mapping.name}"
                limits = f"expected it within its limits, {lower:.3g} to {upper:.3g} (rad or m)"
                raise ValueError(f"{source.folder}: {got}; {limits}: are these degrees or another range? {_FIX}")


def seem_absolute(mapping: SetMapping, actions: np.ndarray, positions: np.ndarray) -> bool:
    """Whether actions that the space says are relative are far nearer to what was measured than to nothing."""
    robot, first = mapping.action.robot, 0
    apart, size = [np.zeros(0)], [np.zeros(0)]
    for part in mapping.action.components:
        numbers = actions[:, [mapping.action_columns[i] for i in range(first, first + part.size)]]
        first += part.size
        if isinstance(part, Line) and part.reference == "observation":
            measured = replace(part, reference="absolute").encode(positions[:, None], positions, robot)[:, 0]
            apart.append(np.abs(numbers - measured).reshape(-1))
            size.append(np.abs(numbers).reshape(-1))
    return len(size) > 1 and bool(np.median(np.concatenate(apart)) < NEARER * np.median(np.concatenate(size)))


def not_relative(mapping: SetMapping) -> str:
    """What to say where actions seem absolute."""
    got = f"{ACTION} follows {STATE}, and {mapping.name} takes it for relative to that"
    return f"{got}; expected absolute: say with --data-space what the set's are"


def _checked(source: LeRobotSet, key: str, space: Space) -> Sequence[int]:
    """All columns as they stand, where ``space`` has as many numbers, and none that the set calls otherwise."""
    feature = source.info.features[key]
    size = feature.shape[0]
    if space.size != size:
        named = f" ({listed(feature.names)})" if feature.names else ""
        raise ValueError(f"{source.folder}: {key} has {size} numbers{named}; the space has {space.size}: {_FIX}")
    ours = list(_names_of(space))
    for place, (theirs, own) in enumerate(zip(map(_plain, feature.names), ours, strict=False)):
        if own is not None and theirs != own and theirs in space.robot.names:
            got = f"{key} has joint '{theirs}' as number {place}, where the space has '{own}'"
            raise ValueError(f"{source.folder}: {got}; expected the same order: {_FIX}")
    return range(size)


def _names_of(space: Space) -> Iterator[str | None]:
    for part in space.components:
        names = part.joint_names
        yield from names if len(names) == part.size else (None,) * part.size


def _by_name(source: LeRobotSet, key: str, robot: RobotConfig) -> Sequence[int]:
    """Where each joint of the robot is among the set's numbers, by its name."""
    names = [_plain(name) for name in source.info.features[key].names]
    wanted = robot.joint_names
    if not names:
        raise ValueError(f"{source.folder}: {key} has numbers without names; {_FIX}")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"{source.folder}: {key} names joint '{twice[0]}' twice; expected each once: {_FIX}")
    missing, more = ([name for name in one if name not in other] for one, other in ((wanted, names), (names, wanted)))
    if missing or more:
        got = " and ".join(f"{what} {listed(those)}" for what, those in (("lacks", missing), ("has", more)) if those)
        raise ValueError(f"{source.folder}: {key} {got}; expected joints {listed(wanted)}: {_FIX}")
    return [names.index(name) for name in wanted]


def _plain(name: str) -> str:
    return name.removesuffix(".pos").removesuffix("_pos")


def _cameras(
    source: LeRobotSet, robot: RobotConfig, given: Mapping[str, str], report: Callable[[str], object]
) -> dict[str, Feature]:
    features = {feature.key: feature for feature in source.info.cameras}
    short = {_short(key): feature for key, feature in features.items()}
    there = listed([_short(key) for key in features], "none")
    found: dict[str, Feature] = {}
    for key, name in given.items():
        feature = features.get(key) or short.get(key)
        if feature is None:
            report(f"{source.folder}: it has no camera '{key}', which is to be '{name}'; it has {there}")
        elif name not in robot.camera_names:
            report(f"{source.folder}: camera '{key}' is to be '{name}'; the robot has {listed(robot.camera_names)}")
        elif name in found:
            report(f"{source.folder}: two cameras are to be '{name}'; expected one: '{key}' and another")
        else:
            found[name] = feature
    fitting: dict[str, Feature] = {}
    for camera in robot.cameras:
        feature = found.get(camera.name) or short.get(camera.name)
        if feature is None or (camera.name not in found and feature in found.values()):
            fix = f"say which with --camera FEATURE={camera.name}"
            report(f"{source.folder}: none of its cameras ({there}) is the robot's '{camera.name}': {fix}")
        elif feature.image_size != (camera.height, camera.width):
            got = "{1}x{0}".format(*feature.image_size)
            expected = f"{camera.width}x{camera.height}, as camera '{camera.name}' of the robot file"
            report(f"{source.folder}: {feature.key} has {got} pixels; expected {expected}")
        else:
            found[camera.name] = fitting[camera.name] = feature
    return fitting


def _short(key: str) -> str:
    return key.removeprefix(IMAGES).rpartition(".")[2]
