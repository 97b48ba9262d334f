"""Training and the robot turn one recorded observation into the same tensors, whatever the backbone."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import paligemma_helpers
import policy_helpers
import pytest
import smolvlm_helpers
from bag_samples import at, image, joint_state, jpeg, string, trajectory, write_bag
from policy_helpers import CAMERAS, HORIZON, JOINTS, TASKS

from vla_ros.bags.read import BagReader
from vla_ros.observing.observe import Observer
from vla_ros.policies.config import DataConfig
from vla_ros.policies.modules.vlm_bridge.processor import VLMProcessor
from vla_ros.policies.pi.processor import PiProcessor
from vla_ros.recordings.feed import Feed, observe_event
from vla_ros.robot import RobotConfig
from vla_ros.robot.parts import CameraConfig, JointConfig, OutputConfig
from vla_ros.training.config import LearningRates, OptimizerConfig, TrainConfig
from vla_ros.training.dataset import load_bags
from vla_ros.training.run import frame_rule
from vla_ros.training.samples import SampleMaker, Split, compute_split_stats
from vla_ros.types import Observation

HEIGHT, WIDTH = 24, 32
ROBOT = RobotConfig(
    name="three_joints",
    control_rate_hz=20.0,
    joints=tuple(JointConfig(name, -3.0, 3.0, 1.0, 5.0) for name in JOINTS),
    cameras=(
        CameraConfig("front", "front/image", WIDTH, HEIGHT, 0.3),
        CameraConfig("top", "top/image", WIDTH, HEIGHT, 0.3, compressed=True),
    ),
    outputs=(OutputConfig("arm", JOINTS),),
)
PROCESSORS = {
    "qwen": policy_helpers.make_processor(policy_helpers.pi_config()),
    "paligemma": paligemma_helpers.make_processor(paligemma_helpers.paligemma_config()),
    "smolvlm": smolvlm_helpers.make_processor(smolvlm_helpers.smol_config()),
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    """Two instructions, and images with edges and noise, on which every way of resizing differs."""
    rng, messages = np.random.default_rng(0), []
    for step in range(40):
        positions, now_ns = rng.uniform(-1, 1, len(JOINTS)), at(0.05 * step)
        messages.append(("/joint_states", joint_state(now_ns, JOINTS, positions), now_ns))
        messages.append((f"/{ROBOT.outputs[0].command_topic}", trajectory(0, JOINTS, [positions], 0.05), now_ns + 3))
        if step % 20 == 0:
            messages.append(("/vla_policy/task", string(TASKS[step // 20]), now_ns))
        if step % 4 == 1:
            for topic, make in (("/front/image", image), ("/top/image", jpeg)):
                pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
                messages.append((topic, make(now_ns, pixels), now_ns + 2))
    return write_bag(tmp_path_factory.mktemp("recorded") / "bag", messages)


def first_on_the_robot(path: Path) -> Observation:
    observer = Observer(ROBOT)
    found = (observe_event(observer, event) for event in Feed(BagReader(path), ROBOT))
    return next(match for match in found if match is not None).observation()


def train_config(processor: VLMProcessor, data: DataConfig) -> TrainConfig:
    optimizer = OptimizerConfig(num_steps=1, batch_size=1, warmup_steps=1)
    return TrainConfig(
        "", (), "", "", processor.policy, data, optimizer, LearningRates(0.1), processor=processor.config
    )


@pytest.mark.parametrize("backbone", PROCESSORS)
def test_one_observation_gives_the_same_tensors_in_training_and_on_the_robot(recorded, backbone):
    processor, data = PROCESSORS[backbone], DataConfig(JOINTS, CAMERAS, HORIZON, chunk_dt_s=0.1)
    frames = load_bags([recorded], ROBOT, frame_rule(train_config(processor, data))).frames
    everything = np.arange(len(frames))
    stats = compute_split_stats(frames, Split(everything, everything), data)
    made = PiProcessor(processor.policy, data, processor.config, processor.tokenizer, stats)
    trained = SampleMaker(frames, made).batch(everything[:1], [np.random.default_rng(0)])
    request = made.process(first_on_the_robot(recorded))
    for field in fields(request.policy_input):
        ours, theirs = (getattr(made, field.name) for made in (trained.policy_input.sample(0), request.policy_input))
        assert type(ours) is type(theirs) and np.array_equal(ours, theirs), field.name
        if isinstance(ours, np.ndarray):
            assert ours.dtype == theirs.dtype, field.name
    assert np.array_equal(trained.state[0], request.state) and trained.state.dtype == request.state.dtype


def test_the_backbones_do_not_all_resize_alike():
    pixels = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    smolvlm, qwen = PROCESSORS["smolvlm"], type(PROCESSORS["qwen"])
    assert not np.array_equal(smolvlm.resize_image(smolvlm.config, pixels), qwen.resize_image(smolvlm.config, pixels))
