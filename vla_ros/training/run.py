"""One training run: bags, tokenizer, samples, training, policy directory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer

from vla_ros.bags.files import find_bags
from vla_ros.policies.directory import save_policy
from vla_ros.policies.modules.vlm_bridge.registry import BACKBONES
from vla_ros.policies.pi.processor import PiProcessor, make_vlm_processor
from vla_ros.robot import RobotConfig, load_robot
from vla_ros.training.config import TrainConfig
from vla_ros.training.dataset import LoadedBags, first_observation, load_bags
from vla_ros.training.episodes import FrameRule
from vla_ros.training.initial import policy_from, random_policy, tokenizer_of
from vla_ros.training.lesson import Lesson
from vla_ros.training.samples import SampleMaker, split_by_episode
from vla_ros.training.trainer import Trainer, Validation


@dataclass(frozen=True)
class TrainingReport:
    """What a run came to; ``seconds`` is the whole command, ``training_seconds`` the loop over all resumptions.

    ``num_left_out`` counts images and observations by the reason why they are no samples.
    """

    num_episodes: int
    num_samples: int
    num_by_driver: dict[str, int]
    num_interventions: int
    num_left_out: dict[str, int]
    num_parameters: int
    num_steps: int
    seconds: float
    training_seconds: float
    problems: tuple[str, ...]
    validation: Validation


def train(
    config: TrainConfig, robot_file: Path, report: Callable[[str], None] = print, lesson: Lesson | None = None
) -> TrainingReport:
    """Train and export to ``config.output_dir``; ``report`` gets a line for each stage and each problem.

    Raises ValueError for a configuration that doesn't fit the robot, and where no usable bag is found.
    """
    started = time.perf_counter()
    torch.set_num_threads(config.num_threads)
    robot = load_robot(robot_file)
    _check_fit(config, robot, lesson)
    data = config.data.bind(robot.joint_limits)
    data.action_space.check_fit(config.policy.action_dim, "policy.action_dim")
    if config.policy.state_history:
        data.state_space.check_fit(config.policy.state_dim, "policy.state_dim")
    start = Path(config.initial_policy) if config.initial_policy else None
    if lesson is not None:
        lesson.prepare(Path(config.bags), robot, config.num_workers, report)
    rule = frame_rule(config)
    loaded = _read_bags(config, robot, rule, report)
    frames = loaded.frames
    tokenizer = _make_tokenizer(lesson, frames.tasks, config.vocab_size) if start is None else tokenizer_of(start)
    processor = make_vlm_processor(config.processor, config.policy, tokenizer, len(robot.cameras))
    weight = config.intervention_weight if config.interventions == "upweight" else 1.0
    split = split_by_episode(frames, config.validation_share, weight)
    samples = SampleMaker(frames, split, data, processor, lesson)
    torch.manual_seed(config.seed)
    gain = config.vision_pos_emb_init_gain
    policy = random_policy(config.policy, gain) if start is None else policy_from(config.policy, start)
    trainer = Trainer(config, policy, samples, split)
    validation = trainer.run(report)

    exported = PiProcessor(config.policy, data, config.processor, tokenizer, samples.stats)
    save_policy(config.output_dir, policy, exported, first_observation(loaded, robot, rule))
    report(f"policy directory: {config.output_dir}")
    return TrainingReport(
        num_episodes=len(frames.tasks),
        num_samples=len(frames),
        num_by_driver=frames.num_by_driver,
        num_interventions=int(frames.is_intervention.sum()),
        num_left_out=loaded.num_left_out,
        num_parameters=sum(parameter.numel() for parameter in policy.parameters()),
        num_steps=config.optimizer.num_steps,
        seconds=time.perf_counter() - started,
        training_seconds=trainer.seconds,
        problems=loaded.problems,
        validation=validation,
    )


def _make_tokenizer(lesson: Lesson | None, tasks: Sequence[str], vocab_size: int) -> Tokenizer:
    assert lesson is not None, "_check_fit has looked"
    return lesson.make_tokenizer(tasks, vocab_size)


def frame_rule(config: TrainConfig) -> FrameRule:
    """Images are resized by the policy's own processor, which can be made only of the tokenizer, later."""
    processor = BACKBONES[config.policy.vlm_type].processor_class()
    return FrameRule(
        horizon=config.data.action_horizon,
        chunk_dt_s=config.data.chunk_dt_s,
        offset=config.data.action_offset,
        resize=partial(processor.resize_image, config.processor),
        min_gap_s=config.min_frame_gap_s,
        namespace=config.namespace,
        episodes=config.episodes,
        keep_failures=config.keep_failures,
    )


def _read_bags(config: TrainConfig, robot: RobotConfig, rule: FrameRule, report: Callable[[str], None]) -> LoadedBags:
    folder = Path(config.bags)
    found = find_bags(folder)
    if found.others:
        report(f"passed over in {folder}, not a bag: {', '.join(found.others)}")
    if not found.bags:
        raise ValueError(
            f"{folder}: no rosbag2 bag in it; expected folders of bags, .mcap or .db3 files: set bags=FOLDER"
        )
    report(f"reading {len(found.bags)} bags from {folder}")
    loaded = load_bags(found.bags, robot, rule, config.num_workers, config.interventions)
    for line in (*loaded.problems, *loaded.lines):
        report(line)
    return loaded


def _check_fit(config: TrainConfig, robot: RobotConfig, lesson: Lesson | None) -> None:
    if not config.initial_policy and lesson is None:
        raise ValueError("initial_policy and lesson are empty; expected one of them: a tokenizer comes from there")
    for what, given, expected in (
        ("data.joint_names", config.data.joint_names, robot.joint_names),
        ("data.camera_names", config.data.camera_names, robot.camera_names),
    ):
        if given != expected:
            raise ValueError(f"{what} is {list(given)}; robot '{robot.name}' has {list(expected)}: make them equal")
    for camera in robot.cameras:
        size = (config.processor.camera_width, config.processor.camera_height)
        if (camera.width, camera.height) != size:
            raise ValueError(
                f"camera '{camera.name}' is {camera.width}x{camera.height}; the processor expects {size[0]}x{size[1]}: "
                "set processor.camera_width and camera_height"
            )
