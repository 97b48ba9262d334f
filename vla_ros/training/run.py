"""One training run from nothing: demonstrations where they are missing, tokenizer, samples, training, policy
directory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tqdm import tqdm

from vla_ros.policies.directory import PolicyFiles, save_policy
from vla_ros.policies.modules.vlm_bridge.qwen.processor import train_tokenizer
from vla_ros.policies.processor import make_processor
from vla_ros.robot import RobotConfig, load_robot
from vla_ros.sim.demonstrations import write_demonstrations
from vla_ros.sim.scene import COLORS, EVAL_PHRASES, TRAIN_PHRASES
from vla_ros.training import grounding
from vla_ros.training.config import TrainConfig
from vla_ros.training.dataset import Frames, first_observation, load_bags
from vla_ros.training.episodes import FrameRule
from vla_ros.training.initial import policy_from, random_policy, tokenizer_of
from vla_ros.training.samples import SampleMaker, split_by_episode
from vla_ros.training.trainer import Trainer, Validation


@dataclass(frozen=True)
class TrainingReport:
    """What a run came to; ``seconds`` is the whole command, ``training_seconds`` the loop over all resumptions.

    ``num_left_out`` counts observations by the reason why they are no samples.
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


def train(config: TrainConfig, robot_file: Path, report: Callable[[str], None] = print) -> TrainingReport:
    """Train and export to ``config.output_dir``; ``report`` gets a line for each stage and each problem.

    Raises ValueError for a configuration that doesn't fit the robot, and where no usable bag is found.
    """
    started = time.perf_counter()
    torch.set_num_threads(config.num_threads)
    robot = load_robot(robot_file)
    _check_fit(config, robot)
    bags = _collect_bags(config, robot, report)
    rule = FrameRule(
        horizon=config.data.action_horizon,
        chunk_dt_s=config.data.chunk_dt_s,
        offset=config.data.action_offset,
        image_size=(config.processor.image_height, config.processor.image_width),
        min_gap_s=config.min_frame_gap_s,
        namespace=config.namespace,
        episodes=config.episodes,
        keep_failures=config.keep_failures,
    )
    report(f"reading {len(bags)} bags from {config.bags}")
    loaded = load_bags(bags, robot, rule, config.num_workers, config.interventions)
    for problem in loaded.problems:
        report(problem)
    frames = loaded.frames
    report(str(loaded))

    start = Path(config.initial_policy) if config.initial_policy else None
    tokenizer = make_tokenizer(frames, config.vocab_size) if start is None else tokenizer_of(start)
    processor = make_processor(config.processor, config.policy, tokenizer, len(robot.cameras))
    weight = config.intervention_weight if config.interventions == "upweight" else 1.0
    split = split_by_episode(frames, config.validation_share, weight)
    samples = SampleMaker(frames, split, config.data, processor)
    torch.manual_seed(config.seed)
    if start is None:
        policy = random_policy(config.policy, config.vision_pos_emb_init_gain)
    else:
        policy = policy_from(config.policy, start)
    trainer = Trainer(config, policy, samples, split)
    validation = trainer.run(report)

    files = PolicyFiles(config.policy, config.data, config.processor, tokenizer, samples.stats)
    save_policy(config.output_dir, policy, files, first_observation(loaded, robot, rule))
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


def make_tokenizer(frames: Frames, vocab_size: int) -> Tokenizer:
    """A tokenizer of the instructions in the bags, the simulated task's phrases, and the location tokens."""
    phrases = [phrase.format(color) for phrase in TRAIN_PHRASES + EVAL_PHRASES for color in COLORS]
    cells = [grounding.location_token(cell) for cell in range(grounding.CellGrid().num_cells)]
    return train_tokenizer(sorted(set(frames.tasks)) + phrases + [grounding.QUESTION], vocab_size, cells)


def _collect_bags(config: TrainConfig, robot: RobotConfig, report: Callable[[str], None]) -> list[Path]:
    folder = Path(config.bags)
    if config.demonstrations is not None:
        report(f"demonstrations: {config.demonstrations.num_episodes} episodes into {folder}")
        written = write_demonstrations(folder, robot, config.demonstrations, config.num_workers)
        list(tqdm(written, total=config.demonstrations.num_bags, unit="bag", dynamic_ncols=True))
    bags = sorted(path.parent for path in folder.glob("*/metadata.yaml"))
    if not bags:
        raise ValueError(f"{folder}: no rosbag2 bag in it; expected folders that hold a metadata.yaml: set bags=FOLDER")
    return bags


def _check_fit(config: TrainConfig, robot: RobotConfig) -> None:
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
