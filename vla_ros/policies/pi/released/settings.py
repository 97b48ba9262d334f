"""What a policy directory says besides weights: joints, cameras, image sizes, the length of a prompt. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vla_ros.policies.config import DataConfig
from vla_ros.policies.importing.declaring import assign_cameras, black_slots, declare
from vla_ros.policies.importing.settings import ACTION_OFFSET, CameraSettings
from vla_ros.policies.modules.vlm_bridge.processor import ProcessorConfig, read_int
from vla_ros.policies.modules.vlm_bridge.registry import BACKBONES
from vla_ros.policies.pi.config import PiConfig
from vla_ros.policies.pi.released.config import ReleasedConfig
from vla_ros.robot import RobotConfig
from vla_ros.spaces.cameras import CameraSlot
from vla_ros.spaces.files import SpaceFile, joints_of
from vla_ros.strict import explained, parse_json, read_text

# Qwen3-VL's preprocessor_config.json where a release comes without one: least and most pixels of an image.
PIXEL_RANGE = (65536, 16777216)


@dataclass(frozen=True)
class RobotSettings:
    """What a release doesn't say and the robot does.

    ``camera_size`` is (height, width) in pixels, of every camera; ``chunk_dt_s`` the time between actions;
    ``action_mode`` is ``relative`` (to the joints measured at the observation) or ``absolute``. With a ``space`` that
    says what the numbers are, and so has ``slots`` where it names cameras, and its ``robot``.
    """

    joint_names: tuple[str, ...]
    camera_names: tuple[str, ...]
    camera_size: tuple[int, int]
    chunk_dt_s: float
    action_mode: str
    space: SpaceFile | None = None
    slots: tuple[CameraSlot, ...] | None = None
    robot: RobotConfig | None = None

    def declared(
        self, name: str, robot: RobotConfig, cameras: Sequence[str] = (), chunk_dt_s: float | None = None
    ) -> RobotSettings:
        """With the space ``name`` for a ``robot``; slots are those of the space, their cameras those of ``cameras``
        (``SLOT=NAME``) before its own. Raises ValueError for what doesn't fit."""
        file = declare(name, joints_of(robot), {"state": None, "action": None}, (), "the run").file
        keys = [str(slot.get("key")) for slot in file.cameras]
        if cameras and not keys:
            raise ValueError(f"--space {name} names no slots of cameras; leave --camera out: it sees the robot's")
        sizes = {camera.name: CameraSettings(camera.name, camera.height, camera.width) for camera in robot.cameras}
        chosen = assign_cameras(keys, cameras, file.cameras, sizes) if keys else {}
        named = {key: CameraSlot(key, camera.name) for key, camera in chosen.items()}
        named |= {key: CameraSlot(key, missing="zeros") for key in black_slots(keys, chosen, file.cameras)}
        slots = tuple(named[key] for key in keys if key in named) or None
        dt_s = chunk_dt_s or file.chunk_dt_s or self.chunk_dt_s
        return replace(self, chunk_dt_s=dt_s, space=file, slots=slots, robot=robot)


def data_config(config: PiConfig, robot: RobotSettings) -> DataConfig:
    """The ``data:`` group; raises ValueError where the robot's joints are not those the policy was trained for."""
    data = DataConfig(
        joint_names=robot.joint_names,
        action_horizon=config.action_horizon,
        chunk_dt_s=robot.chunk_dt_s,
        action_offset=ACTION_OFFSET,
        state_history=config.state_history,
        normalization="quantile",
        **_meaning(robot),
    )
    data = data if robot.robot is None else data.bind(robot.robot)
    sizes = data.state_space.size if config.state_history else config.state_dim, data.action_space.size
    if (config.state_dim, config.action_dim) != sizes:
        got = f"the policy has {config.state_dim} state and {config.action_dim} action dimensions"
        has = f"the robot {len(robot.joint_names)} joints ({', '.join(robot.joint_names)})"
        fix = "give the one it was trained for: --robot, or what its numbers are: --space"
        raise ValueError(f"{got}, {has} that make {sizes[0]} and {sizes[1]}; {fix}")
    return data


def _meaning(robot: RobotSettings) -> dict[str, Any]:
    looks: dict[str, Any] = {"camera_names": robot.camera_names} if robot.slots is None else {"cameras": robot.slots}
    if robot.space is None:
        return looks | {"action_mode": robot.action_mode}
    return looks | {"state": robot.space.state, "action": robot.space.action}


def processor_config(
    config: PiConfig, released: ReleasedConfig, image_config: Path | None, camera_size: tuple[int, int]
) -> ProcessorConfig:
    """``processor.json``: images of the size the release saw, prompts padded to the length it was trained with.

    ``image_config`` is the VLM's preprocessor_config.json. Raises ValueError where that or the VLM's configuration
    lacks a size.
    """
    height, width = released.image_size or seen_size(config.vlm_config, image_config, camera_size)
    return ProcessorConfig(
        type=BACKBONES[config.vlm_type].processor,
        camera_height=camera_size[0],
        camera_width=camera_size[1],
        image_height=height,
        image_width=width,
        buckets=(released.max_length,),
    )


def seen_size(
    vlm_config: Mapping[str, Any], image_config: Path | None, camera_size: tuple[int, int]
) -> tuple[int, int]:
    """(height, width) of what the model sees of images of ``camera_size``; ``image_config`` is the VLM's
    preprocessor_config.json. Raises ValueError where that or the VLM's configuration lacks a size."""
    if "image_size" in vlm_config["vision_config"]:  # position embeddings for images of one size
        side = read_int(vlm_config, "vision_config", "image_size")
        return side, side
    patch, merge = (read_int(vlm_config, "vision_config", key) for key in ("patch_size", "spatial_merge_size"))
    return fit_size(camera_size, patch * merge, _pixel_range(image_config))


def fit_size(size: tuple[int, int], unit: int, pixels: tuple[int, int]) -> tuple[int, int]:
    """(height, width) near ``size`` in multiples of ``unit``, with at least and at most so many pixels, as Qwen's
    image processor of transformers chooses it."""
    rounded = [round(side / unit) * unit for side in size]
    area, (least, most) = math.prod(size), pixels
    if math.prod(rounded) > most:
        shrink = math.sqrt(area / most)
        rounded = [max(unit, math.floor(side / shrink / unit) * unit) for side in size]
    elif math.prod(rounded) < least:
        grow = math.sqrt(least / area)
        rounded = [math.ceil(side * grow / unit) * unit for side in size]
    return rounded[0], rounded[1]


def _pixel_range(path: Path | None) -> tuple[int, int]:
    if path is None:
        return PIXEL_RANGE
    what = "not readable as the settings of an image processor"
    with explained(f"{path}: {what} (", OSError, AttributeError, ValueError, after="); restore it"):
        document = parse_json(read_text(path))
        size = document.get("size") or {}
        least = size.get("shortest_edge", document.get("min_pixels", PIXEL_RANGE[0]))
        most = size.get("longest_edge", document.get("max_pixels", PIXEL_RANGE[1]))
    if type(least) is not int or type(most) is not int or not 1 <= least <= most:
        raise ValueError(f"{path}: images of {least!r} to {most!r} pixels; expected two increasing numbers above 0")
    return least, most
