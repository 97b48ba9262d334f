"""A train config from what its user has: a robot file, recordings, and the name of a policy or one to go on from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vla_ros.bags.files import find_bags
from vla_ros.observing.observe import match_policy
from vla_ros.policies.config import DataConfig, PolicyConfig
from vla_ros.policies.families import config_names, family_of, find_config, find_policy
from vla_ros.policies.files import open_policy
from vla_ros.policies.importing.backbone import PublishedBackbone, find_backbone
from vla_ros.policies.modules.vlm_bridge.registry import BACKBONES
from vla_ros.policies.processor import PolicyProcessor
from vla_ros.recordings.description import load_robot_of
from vla_ros.recordings.feed import has_markers
from vla_ros.robot import RobotConfig
from vla_ros.spaces.cameras import CameraSlot
from vla_ros.spaces.files import read_space
from vla_ros.strict import config_to_dict, explained, listed, parse_config
from vla_ros.training.config import SetConfig
from vla_ros.training.weights import bag_weights, paths_of

DEFAULT_POLICY = "tiny_touch"
DEFAULT_DT_S = 0.1
RUN_SUFFIX = "_run"


@dataclass(frozen=True)
class Wanted:
    """``robot`` is a robot file's path, ``bags`` are bags and folders of them, each perhaps with its weight
    (``Weighted``), ``sets`` LeRobot data sets,
    ``out`` is the policy directory to be made; the run goes into a folder beside it. ``policy`` names a size or a
    packaged policy, ``start_from`` is a policy directory or a published backbone (a folder, or ``hf:org/repo``),
    ``space`` a space file or preset: that of the policy."""

    robot: Path
    bags: tuple[str, ...]
    out: Path
    policy: str | None = None
    start_from: str | None = None
    space: str | None = None
    sets: tuple[SetConfig, ...] = ()

    @property
    def run_dir(self) -> Path:
        return self.out.with_name(self.out.name + RUN_SUFFIX)


class Misfit(ValueError):
    """A policy has other joints or cameras than the robot, or numbers that can't be its."""


@dataclass(frozen=True)
class _Start:
    """What to go on from: a policy directory, of which this is the processor, or a backbone."""

    folder: Path
    processor: PolicyProcessor | None = None
    backbone: PublishedBackbone | None = None

    def settings(self, config: PolicyConfig, sizes: Sequence[tuple[int, int]], num_images: int) -> Any:
        """The ``processor`` group of a train config for cameras with images of these (height, width)."""
        if self.processor is not None:
            return self.processor.settings_for(sizes, num_images)
        assert self.backbone is not None
        if not sizes:
            raise ValueError("the policy looks at no camera; expected at least one")
        tokenizer, processor_class = self.backbone.tokenizer(), family_of(config).processor_class()
        return processor_class.settings_on(config, sizes, num_images, tokenizer, self.backbone.image_config)


def derive(wanted: Wanted) -> dict[str, Any]:
    """The train config, as a file would have it.

    Raises ValueError for what doesn't fit together. Of the bags nothing is read but what they hold, and of data sets no
    picture.
    """
    bags = _bags(wanted.bags)
    robot = load_robot_of(wanted.robot, bags)
    start, config = _find(wanted)
    data = _data(wanted, robot, config, start)
    config = _fitted(config, data, robot)
    sizes = _sizes(data, robot)
    _check_sets(wanted, data, robot)
    document: dict[str, Any] = {
        "defaults": ["/train/base", "_self_"],
        "robot": str(wanted.robot),
        "bags": list(wanted.bags),
        "sets": [config_to_dict(each) for each in wanted.sets],
        "run_dir": str(wanted.run_dir),
        "output_dir": str(wanted.out),
        "start_from": "" if start is None else str(start.folder),
        "episodes": "marker" if not bags or has_markers(bags) else "task",
        "policy": config_to_dict(config),
        # Whoever overrides the policy's needs no second override.
        "data": config_to_dict(data) | {"action_horizon": "${policy.action_horizon}"},
    }
    if config.recipe is not None:
        recipe = config_to_dict(config.recipe)
        document |= {"lr": {"base": recipe.pop("learning_rate")}, "optimizer": recipe}
    if start is not None:
        with explained(f"{start.folder} for cameras of {listed([f'{w}x{h}' for h, w in sizes])} pixels: "):
            document["processor"] = config_to_dict(start.settings(config, sizes, len(data.slots)))
    return document


def find_data(wanted: Wanted, robot: RobotConfig) -> DataConfig:
    """What a training reads of recordings: joints, cameras, chunks, what their numbers mean. Raises ValueError for a
    policy that can't be read, Misfit for one that is none for ``robot``."""
    start, config = _find(wanted)
    try:
        data = _data(wanted, robot, config, start)
        data.bind(robot)
    except ValueError as error:
        raise Misfit(str(error)) from error
    return data


def _bags(places: Sequence[str]) -> tuple[Path, ...]:
    with explained("--bags: "):
        found = find_bags(*paths_of(places))
        bag_weights(places)
        if places and not found.bags:
            raise ValueError(f"{listed(places)} holds no rosbag2 bag; expected folders of bags, .mcap or .db3 files")
    return found.bags


def _find(wanted: Wanted) -> tuple[_Start | None, PolicyConfig]:
    """What to start from, and the policy's configuration before it is made to fit."""
    if wanted.start_from is not None and (backbone := find_backbone(wanted.start_from)) is not None:
        return _find_on(backbone, wanted)
    folder, config = None if wanted.start_from is None else Path(wanted.start_from), None
    if wanted.policy is not None or folder is None:
        name = wanted.policy or DEFAULT_POLICY
        found = find_policy(name) if folder is None else find_config(name)
        if isinstance(found, Path):
            folder = found
        else:
            config = found
    if folder is None:
        assert config is not None
        if family_of(config).processor_class().settings_type is not None:
            trained = listed([name for name in config_names() if _starts_anew(name)])
            raise ValueError(
                f"--policy {wanted.policy} has no weights to start from, and its tokenizer comes with them; give "
                f"--start-from DIR, a policy directory or its published backbone, or one of {DEFAULT_POLICY}, {trained}"
            )
        return None, config
    processor = open_policy(folder).processor
    if not processor.config.runs_here:
        raise ValueError(f"{folder} is computed by another program; expected a policy directory that has weights")
    if config is not None and config.type != processor.config.type:
        got = f"--policy {wanted.policy} is a {config.type}, --start-from {folder} a {processor.config.type}"
        raise ValueError(f"{got}; expected the same, or --start-from alone: it says which policy it is")
    return _Start(folder.resolve(), processor), config or processor.config


def _find_on(backbone: PublishedBackbone, wanted: Wanted) -> tuple[_Start, PolicyConfig]:
    """The expert's sizes are those of the policy that is named, or else of the one that has this backbone."""
    config = find_config(wanted.policy or BACKBONES[backbone.kind].size)
    with explained(f"--start-from {backbone.folder}: "):
        config = family_of(config).processor_class().on_backbone(config, backbone.kind, backbone.config)
    return _Start(backbone.folder.resolve(), backbone=backbone), config


def _starts_anew(name: str) -> bool:
    return family_of(find_config(name)).processor_class().settings_type is None


def _data(wanted: Wanted, robot: RobotConfig, config: PolicyConfig, start: _Start | None) -> DataConfig:
    """What the numbers mean: as ``--space`` says, else as the policy's did where it knows this robot's joints, else
    each joint in SI units, relative to where it was observed."""
    known = None if start is None or start.processor is None else start.processor.data
    fields: dict[str, Any] = {"state": None, "action": None, "action_mode": "relative", "action_offset": 1.0}
    if robot.driven_names != robot.joint_names:
        driven = {"type": "joints", "joints": list(robot.driven_names), "reference": "observation"}
        fields |= {"action": (driven,), "action_mode": None}
    if known is not None and known.joint_names == robot.joint_names:
        fields = {name: getattr(known, name) for name in fields}
    dt_s = _camera_period_s(robot) if known is None else known.chunk_dt_s
    slots = None if known is None else known.cameras
    if wanted.space is not None:
        file = read_space(wanted.space)
        fields |= {"state": file.state, "action": file.action, "action_mode": None}
        dt_s = file.chunk_dt_s or dt_s
        if file.cameras:
            slots = tuple(parse_config(CameraSlot, slot, f"--space {wanted.space}: a camera") for slot in file.cameras)
    looks = {"camera_names": robot.camera_names} if slots is None else {"cameras": _check_slots(slots, robot)}
    with explained("" if wanted.space is None else f"--space {wanted.space}: "):
        return DataConfig(
            joint_names=robot.joint_names,
            action_horizon=config.action_horizon,
            chunk_dt_s=dt_s,
            state_history=config.state_history,
            normalization=config.normalization if known is None else known.normalization,
            state_normalization=None if known is None else known.state_normalization,
            **looks,
            **fields,
        )


def _camera_period_s(robot: RobotConfig) -> float:
    """An action for each image of the slowest camera, as most data sets have it."""
    rates = [camera.rate_hz for camera in robot.cameras if camera.rate_hz]
    return 1.0 / min(rates) if rates else DEFAULT_DT_S


def _check_slots(slots: Sequence[CameraSlot], robot: RobotConfig) -> tuple[CameraSlot, ...]:
    wanted = [slot.camera for slot in slots if slot.camera is not None]
    if not set(wanted) <= set(robot.camera_names):
        got = f"the policy looks at cameras {listed(wanted)}; robot '{robot.name}' has {listed(robot.camera_names)}"
        raise ValueError(f"{got}: rename them there, or say in a --space file which camera each slot gets")
    return tuple(slots)


def _fitted(config: PolicyConfig, data: DataConfig, robot: RobotConfig) -> PolicyConfig:
    """As many numbers as the spaces make, and cameras as the robot has them."""
    bound = data.bind(robot)
    config = replace(config, action_dim=bound.action_space.size)  # type: ignore[type-var]
    if config.state_history:
        config = replace(config, state_dim=bound.state_space.size)  # type: ignore[type-var]
    return family_of(config).processor_class().config_for(config, _sizes(data, robot))


def _sizes(data: DataConfig, robot: RobotConfig) -> list[tuple[int, int]]:
    """(height, width) of each camera that the policy looks at, in its order."""
    cameras = {camera.name: (camera.height, camera.width) for camera in robot.cameras}
    return [cameras[slot.camera] for slot in data.slots if slot.camera is not None]


def _check_sets(wanted: Wanted, data: DataConfig, robot: RobotConfig) -> None:
    """Every set is read, but for its pictures, before anything else is: what it can't be is known at once."""
    if wanted.sets:
        from vla_ros.training.sets import open_set  # takes libraries that bags don't need

        names = [slot.camera for slot in data.slots if slot.camera is not None]
        for each in wanted.sets:
            open_set(each, match_policy(robot, data.joint_names, names))
