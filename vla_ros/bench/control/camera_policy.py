"""What the control bench's cameras are for: a robot file with three, and a policy with random weights for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import yaml

from vla_ros.policies.directory import save_policy
from vla_ros.policies.files import open_policy
from vla_ros.policies.fill import build_policy
from vla_ros.robot import RobotConfig, load_robot
from vla_ros.share import policy_dir, robot_file
from vla_ros.transforms.normalize import compute_stats
from vla_ros.types import Observation

TASK = "touch the red block"
NUM_CAMERAS, CAMERA_WIDTH, CAMERA_HEIGHT = 3, 640, 480
# What the model sees, as published policies do: the host's part, resizing, costs what it costs with a large model.
IMAGE_SIZE = 224
PATCH_SIZE, MERGE_SIZE = 16, 2
BUCKET = 256
NUM_STEPS = 4
ACTION_STD_RAD = 0.05


def write_robot(path: Path, packaged: str) -> RobotConfig:
    """Write the packaged robot's file with three cameras of 640x480 in place of its own; returns it as read."""
    document = yaml.safe_load(robot_file(packaged).read_text())
    names = [f"camera_{i}" for i in range(NUM_CAMERAS)]
    size = {"width": CAMERA_WIDTH, "height": CAMERA_HEIGHT}
    document["cameras"] = [{"name": name, "topic": f"{name}/image_raw", **size, "max_age_s": 0.4} for name in names]
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return load_robot(path)


def write_policy(folder: Path, robot: RobotConfig) -> None:
    """Write a policy directory for the robot: tiny_touch's network, in which random weights move the joints at random
    about the middle of their ranges."""
    tiny = open_policy(policy_dir("tiny_touch")).processor
    vision = {**tiny.config.vlm_config["vision_config"], "patch_size": PATCH_SIZE, "spatial_merge_size": MERGE_SIZE}
    config = replace(tiny.config, vlm_config={**tiny.config.vlm_config, "vision_config": vision}, num_steps=NUM_STEPS)
    data = replace(
        tiny.data,
        joint_names=robot.joint_names,
        camera_names=robot.camera_names,
        chunk_dt_s=0.1,
        action_mode="absolute",
        normalization="mean_std",
    )
    images = type(tiny.settings)(tiny.settings.type, CAMERA_HEIGHT, CAMERA_WIDTH, IMAGE_SIZE, IMAGE_SIZE, (BUCKET,))
    middle = (robot.joint_values("lower") + robot.joint_values("upper")) / 2
    spread = np.stack([middle - ACTION_STD_RAD, middle + ACTION_STD_RAD])[:, None]
    horizons = {"state": 1, "action": config.action_horizon}
    stats = {name: compute_stats(spread.repeat(horizon, axis=1)) for name, horizon in horizons.items()}
    processor = type(tiny)(config, data, images, tiny.tokenizer, stats)
    torch.manual_seed(0)
    save_policy(folder, build_policy(config), processor, _observation(robot, middle))


def _observation(robot: RobotConfig, positions: np.ndarray) -> Observation:
    rng = np.random.default_rng(0)
    shape = (CAMERA_HEIGHT, CAMERA_WIDTH, 3)
    images = {name: rng.integers(0, 256, shape, np.uint8) for name in robot.camera_names}
    headers_ns = dict.fromkeys(robot.camera_names, 0)
    return Observation(stamp_ns=0, headers_ns=headers_ns, images=images, joint_positions=positions, task=TASK)
