"""Every space through everything that a policy's numbers go through: golden case, continued chunks, training labels,
and a recorded episode with a human in it, which the whole node replays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from policy_helpers import TASKS, pi_config, policy_processor, processor_config

from vla_ros.policies.base import BasePolicy
from vla_ros.policies.config import DataConfig
from vla_ros.policies.directory import infer, load_policy, save_policy
from vla_ros.policies.files import load_processor
from vla_ros.policies.fill import build_policy
from vla_ros.policies.pi.processor import PiProcessor
from vla_ros.replay.offline import ReplayPolicy
from vla_ros.replay.run import replay_bag
from vla_ros.replay.settings import ReplaySettings
from vla_ros.robot import load_robot
from vla_ros.share import share_path
from vla_ros.training.dataset import Frames
from vla_ros.training.pictures import HeldPictures
from vla_ros.training.samples import SampleMaker
from vla_ros.transforms.normalize import compute_stats
from vla_ros.transforms.sample import TextTarget
from vla_ros.types import Continuation, Observation

BAG = Path(__file__).parents[1] / "data" / "tabletop_touch"
ROBOT = load_robot(share_path("config/robots/tabletop.yaml"))
HORIZON, CHUNK_DT_S, NUM_SAMPLES = 8, 0.1, 40
HOME = np.array([0.2, 0.4, 1.6, 1.1, 0.1, 0.3])
ARM, HAND = list(ROBOT.joint_names[:-1]), ROBOT.joint_names[-1]
JOINTS = {"type": "joints", "joints": ARM}
RANGED = {"type": "joint", "joint": HAND, "range": [0, 100]}
GRIPPER = {"type": "gripper", "joint": HAND, "open": -1, "closed": 1}
BINARY = GRIPPER | {"threshold": 0, "hysteresis": 0.2}
VELOCITY = {"type": "joint_velocity", "joints": ARM}
SCALED = {"translation": "scale", "translation_scale": 0.05, "rotation_scale": 0.5, "frame": "tip"}
POSE = {"type": "pose"}
STATES = ((JOINTS | {"unit": "deg"}, RANGED), (POSE | {"rotation": "quat_xyzw"}, GRIPPER))
ACTIONS = {
    "joints": (JOINTS, RANGED),
    "degrees, relative to the observation": (JOINTS | {"unit": "deg", "reference": "observation"}, GRIPPER),
    "millirange, each from the one before": (
        {"type": "joints", "joints": ARM, "range": [-1000, 1000], "reference": "previous"},
        GRIPPER,
        {"type": "constant", "size": 2},
    ),
    "velocities of a group that is scaled down": (VELOCITY | {"scale": 0.2, "norm_limit": True}, BINARY),
    "velocities in rad/s": (VELOCITY | {"unit": "rad_per_s"}, RANGED),
    "poses": (POSE | {"rotation": "quat_wxyz", "translation": "mm"}, RANGED),
    "poses from the observation": (POSE | {"reference": "observation"}, BINARY),
    "poses from the one before": (POSE | SCALED | {"rotation": "rpy", "reference": "previous"}, GRIPPER),
    "poses from the tip": (POSE | {"rotation": "rot6d", "reference": "observation", "frame": "tip"}, GRIPPER),
}


def motions(seed: int, num: int = NUM_SAMPLES) -> tuple[np.ndarray, np.ndarray]:
    """Joints ``[num, num_joints]`` about home and slow targets from there ``[num, horizon, num_joints]``; the gripper
    is at one end or the other."""
    rng, limits = np.random.default_rng(seed), ROBOT.joint_limits[HAND]
    joints = HOME + rng.uniform(-0.2, 0.2, (num, 6))
    steps = rng.uniform(-0.05, 0.05, (num, 1, 6)) * np.ones((1, HORIZON, 1))
    targets = joints[:, None] + np.cumsum(steps, axis=1)
    joints[:, -1] = rng.choice(limits, num)
    targets[..., -1] = joints[:, None, -1]
    return joints, targets


def observation(joints: np.ndarray, stamp_ns: int = 5_000) -> Observation:
    rng = np.random.default_rng(stamp_ns)
    images = {name: rng.integers(0, 256, (128, 128, 3), np.uint8) for name in ROBOT.camera_names}
    return Observation(stamp_ns, dict.fromkeys(images, stamp_ns), images, joints, TASKS[0])


def make_policy(actions: tuple[Mapping[str, Any], ...], state: int) -> tuple[PiProcessor, BasePolicy]:
    """A processor of these numbers and a network of random weights."""
    declared = DataConfig(
        ROBOT.joint_names,
        ROBOT.camera_names,
        HORIZON,
        CHUNK_DT_S,
        normalization="mean_std",
        state=STATES[state],
        action=actions,
    )
    data = declared.bind(ROBOT)
    sizes = {"action_dim": data.action_space.size, "state_dim": data.state_space.size, "action_horizon": HORIZON}
    config = replace(pi_config(num_steps=2), **sizes)
    joints, targets = motions(0)
    stats = {
        "state": compute_stats(data.state_space.encode(joints[:, None], joints)),
        "action": compute_stats(data.action_space.encode(targets, joints)),
    }
    images = processor_config(camera_height=128, camera_width=128)
    processor = PiProcessor(config, data, images, policy_processor(pi_config()).tokenizer, stats)
    torch.manual_seed(0)
    return processor, build_policy(config)


@pytest.mark.parametrize(("name", "state"), [(name, index % 2) for index, name in enumerate(ACTIONS)])
def test_a_policy_of_any_space_goes_through_everything(name: str, state: int, tmp_path: Path) -> None:
    processor, policy = make_policy(ACTIONS[name], state)
    check_directory(processor, policy, tmp_path / "policy")
    check_continuation(processor)
    check_labels(processor)
    check_replay(tmp_path / "policy")


def check_directory(processor: PiProcessor, policy: BasePolicy, folder: Path) -> None:
    """The golden case holds without a robot file, and with the robot's own actions mean the same."""
    seen = observation(motions(1)[0][0])
    save_policy(folder, policy, processor, seen)
    loaded = load_policy(folder, "cpu", with_guidance=True)
    actions = infer(loaded.policy, loaded.processor.process(seen), torch.device("cpu"))
    alone = loaded.processor.decode(actions, seen).positions
    bound = load_processor(folder)
    bound.bind(ROBOT)
    np.testing.assert_allclose(bound.decode(actions, seen).positions, alone, atol=1e-6)


def check_continuation(processor: PiProcessor) -> None:
    """What the last chunk wants is said for the state of the next observation, in the policy's numbers."""
    joints, targets = motions(2)
    known = targets[0].copy()
    known[-2:] = np.nan
    seen = observation(joints[0] + [0.01, -0.01, 0.01, -0.01, 0.01, 0.0])
    request = processor.process(seen, Continuation(known, num_frozen=1))
    assert request.previous_actions is not None and (request.guidance_weights[-2:] == 0).all()
    guided = processor.guide(request, seen, targets[0], np.ones(HORIZON))
    np.testing.assert_allclose(processor.decode(guided.previous_actions, seen).positions, targets[0], atol=1e-5)


def check_labels(processor: PiProcessor) -> None:
    joints, targets = motions(3)
    frames = Frames(
        images=HeldPictures(np.zeros((NUM_SAMPLES, 2, 16, 16, 3), np.uint8)),
        joint_positions=joints,
        actions=targets,
        num_known=np.full(NUM_SAMPLES, HORIZON),
        episode=np.zeros(NUM_SAMPLES, np.int64),
        driver=np.array([""] * NUM_SAMPLES),
        is_intervention=np.zeros(NUM_SAMPLES, bool),
        weight=np.ones(NUM_SAMPLES),
        tasks=(TASKS[0],),
        texts=(TextTarget(),) * NUM_SAMPLES,
        scenes=({},),
    )
    everything = np.arange(NUM_SAMPLES)
    samples = SampleMaker(frames, processor)
    batch = samples.batch(everything, [np.random.default_rng(0)] * len(everything))
    said = samples.action.denormalize(batch.actions)
    np.testing.assert_allclose(samples.errors(said, everything), 0.0, atol=2e-5)


def check_replay(folder: Path) -> None:
    """Chunks are continued, a human takes over and gives back, and what is commanded is the robot's."""
    loaded = load_policy(folder, "cpu")

    def answer(request: Any) -> np.ndarray:
        return infer(loaded.policy, request, torch.device("cpu"))

    policy = ReplayPolicy("tiny", loaded.processor, answer)
    found = replay_bag(BAG, ROBOT, policy, ReplaySettings(strategy="rtc", latency_ms=100.0))
    assert len(found.chunks) > 10
    trouble = [event.line for event in found.events if event.kind == "processor" and "are missed by" not in event.line]
    assert trouble == []
    below = ROBOT.joint_values("lower") - found.commands.values
    above = found.commands.values - ROBOT.joint_values("upper")
    assert max(below.max(), above.max()) < 1e-3  # the gripper was measured so far outside
