"""One training run: bags, tokenizer, samples, training, policy directory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer

from vla_ros.bags.files import find_bags
from vla_ros.observing.observe import match_policy
from vla_ros.policies.base import BasePolicy
from vla_ros.policies.config import PolicyConfig
from vla_ros.policies.directory import find_device, save_policy
from vla_ros.policies.families import family_of
from vla_ros.policies.files import WEIGHTS_FILE, open_policy
from vla_ros.policies.fill import build_on_meta, build_policy, check_shapes
from vla_ros.policies.importing.backbone import find_backbone
from vla_ros.robot import RobotConfig, load_robot
from vla_ros.strict import explained, listed
from vla_ros.training.backbone import policy_on
from vla_ros.training.cache import PictureCache
from vla_ros.training.config import CACHE_OFF, VISION_POS_EMB_GAIN, TrainConfig, with_absolute_paths
from vla_ros.training.dataset import LoadedBags, first_observation, load_bags
from vla_ros.training.episodes import FrameRule
from vla_ros.training.groups import freeze, parameter_groups
from vla_ros.training.lock import locked
from vla_ros.training.pictures import DecodedPictures, Pictures
from vla_ros.training.processes import Processes
from vla_ros.training.samples import Lesson, SampleMaker, compute_split_stats, split_by_episode
from vla_ros.training.shards import read_header
from vla_ros.training.trainer import Trainer, Validation, check_resumable


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
    config: TrainConfig,
    robot_file: Path,
    processes: Processes,
    report: Callable[[str], None] = print,
    lesson: Lesson | None = None,
) -> TrainingReport:
    """Train and export to ``config.output_dir``; ``report`` gets a line for each stage and each problem. Of several
    ``processes`` one reports and writes.

    Raises ValueError for a configuration that doesn't fit the robot, and where no usable bag is found.
    """
    report = report if processes.is_first else _tell_nobody
    torch.set_num_threads(max(1, config.num_threads // processes.num_local))
    config = with_absolute_paths(config)
    robot = load_robot(robot_file)
    if config.data.cameras is not None:
        names = tuple(slot.camera for slot in config.data.slots if slot.camera is not None)
        robot = match_policy(robot, config.data.joint_names, names)
    rule = frame_rule(config)
    _check_fit(config, robot, lesson, rule)
    data = config.data.bind(robot)
    data.action_space.check_fit(config.policy.action_dim, "policy.action_dim")
    if config.policy.state_history:
        data.state_space.check_fit(config.policy.state_dim, "policy.state_dim")
    _check_places(config)
    with locked(Path(config.run_dir)) if processes.is_first else nullcontext():
        return _train(config, robot, rule, processes, lesson, report)


def _train(
    config: TrainConfig,
    robot: RobotConfig,
    rule: FrameRule,
    processes: Processes,
    lesson: Lesson | None,
    report: Callable[[str], None],
) -> TrainingReport:
    """The rest of ``train``: all that reads or writes the run's folder."""
    started = time.perf_counter()
    data = config.data.bind(robot)
    check_resumable(config)
    processes.share(config.optimizer.batch_size)
    policy = _start(config, processes, report)
    bags = _find_bags(config, robot, lesson, processes, report) if _bag_places(config) else ()
    loaded = _load(config, bags, robot, rule, processes, report)
    frames = loaded.frames
    weight = config.intervention_weight if config.interventions == "upweight" else 1.0
    split = split_by_episode(frames, config.validation_share, weight)
    if split.share is None and len(split.train) < config.optimizer.batch_size:
        report(f"optimizer.batch_size is {config.optimizer.batch_size}; each step takes all {len(split.train)} samples")
    stats = compute_split_stats(frames, split, data)
    tokenizer = _tokenizer(config, lesson, frames.tasks)
    processor_class = family_of(config.policy).processor_class()
    processor = processor_class.for_training(config.policy, data, stats, config.processor, tokenizer)
    samples = SampleMaker(frames, processor, lesson)
    samples.check_texts()
    if frames.num_answers and not processor.learns_text:
        report(f"a {config.policy.type} says no words: the answers of {frames.num_answers} samples are not learned")
    trainer = Trainer(config, policy, samples, split, processes)
    validation = trainer.run(report)
    lost = _lost(samples, processes, report)

    trained = trainer.whole_policy()
    if processes.is_first:
        save_policy(config.output_dir, trained, processor, first_observation(loaded, robot, rule))
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
        problems=(*loaded.problems, *lost),
        validation=validation,
    )


def _load(
    config: TrainConfig,
    bags: Sequence[Path],
    robot: RobotConfig,
    rule: FrameRule,
    processes: Processes,
    report: Callable[[str], None],
) -> LoadedBags:
    """What there is to learn from, reported; its pictures are in the cache, where one is to be."""

    def keep(decoded: DecodedPictures) -> Pictures:
        if config.cache_dir is None:
            return decoded
        return PictureCache(config.cache_dir, report).pictures(decoded, is_shown=processes.is_first)

    num_workers = max(1, config.num_workers // processes.num_local)
    # The last are judged on: rather the robot's own than those of an earlier arm.
    loaded = load_bags((*config.sets, *bags), robot, rule, num_workers, keep)
    for line in (*loaded.problems, *loaded.lines):
        report(line)
    return loaded


def _lost(samples: SampleMaker, processes: Processes, report: Callable[[str], None]) -> tuple[str, ...]:
    """A line for each reason why samples taught nothing after all, and how many those were."""
    num = int(processes.sum(samples.num_lost))
    lines = (*samples.problems, f"{num} samples were left out while training, for such reasons") if num else ()
    for line in lines:
        report(line)
    return lines


def _tell_nobody(line: str) -> None:
    """Where another process tells."""


def _check_places(config: TrainConfig) -> None:
    """What can't be written is not to be found out when the training has ended."""
    for name in ("run_dir", "output_dir", *(["cache"] if config.cache not in ("", CACHE_OFF) else [])):
        path = Path(getattr(config, name)).resolve()
        there = next(folder for folder in (path, *path.parents) if folder.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise ValueError(f"{name} is {path}; expected a folder, and {there} is none that can be written to")
        for place in (*_bag_places(config), *(Path(each.path) for each in config.sets)):
            if path.is_relative_to(place.resolve()):
                got = f"{name} {getattr(config, name)} lies among the bags of {place}"
                raise ValueError(f"{got}; expected a folder outside of it")
    sets = [Path(each.path).resolve() for each in config.sets]
    if twice := [path for number, path in enumerate(sets) if path in sets[:number]]:
        got = f"sets has {twice[0]} twice, so that its episodes would be trained on and judged by"
        raise ValueError(f"{got}; expected each once: give it another weight")
    if Path.cwd().is_relative_to(path := Path(config.output_dir).resolve()):
        raise ValueError(f"output_dir {path} is the folder that this runs in; expected another one")


def _bag_places(config: TrainConfig) -> tuple[Path, ...]:
    made = "" if config.lesson is None else config.lesson.demonstrations_dir
    if config.sets and not config.bags:
        return ()
    if not (config.bags or made):
        raise ValueError("bags and lesson.demonstrations_dir are empty; expected a folder of bags: set bags=FOLDER")
    return tuple(Path(place) for place in config.bags or (made,))


def _start(config: TrainConfig, processes: Processes, report: Callable[[str], None]) -> BasePolicy:
    """The policy as training begins with it, before any bag is read: what it can't be is to be known at once. Of
    several processes none holds the weights of a policy directory of the same sizes: they are read when it is
    sharded."""
    find_device(config.device, "device")
    torch.manual_seed(config.seed)
    backbone = find_backbone(config.start_from) if config.start_from else None
    if backbone is not None:
        policy = policy_on(config.policy, backbone)
    elif config.start_from and processes.num > 1 and is_as_stored(config.policy, Path(config.start_from)):
        policy = build_on_meta(config.policy, "policy")
    elif config.start_from:
        policy = policy_from(config.policy, Path(config.start_from))
    else:
        policy = build_policy(config.policy)
        lesson = config.lesson
        policy.init_vision(VISION_POS_EMB_GAIN if lesson is None else lesson.vision_pos_emb_init_gain)
    if processes.num > 1 and not next(policy.parameters()).is_meta:
        report("no policy directory has these weights as they are: each process holds all of them while it starts")
    freeze(policy, config.frozen)
    parameter_groups(policy, config.lr)
    return policy


def is_as_stored(config: PolicyConfig, policy_dir: Path) -> bool:
    """Whether a policy directory has the weights of ``config`` as they are."""
    open_policy(policy_dir)
    with explained(f"start_from {policy_dir}: {WEIGHTS_FILE}: damaged (", ValueError, OSError, KeyError, after=")"):
        stored = {name: tuple(weight.shape) for name, weight in read_header(policy_dir / WEIGHTS_FILE).items()}
    wanted = {name: tuple(weight.shape) for name, weight in build_on_meta(config, "policy").named_parameters()}
    return stored == wanted


def policy_from(config: PolicyConfig, policy_dir: Path) -> BasePolicy:
    """The policy of ``config`` with the weights of a policy directory, as far as these can be made to fit.

    Raises ValueError for a directory that cannot be read, and weights of other names or shapes.
    """
    open_policy(policy_dir)
    policy = build_policy(config)
    with explained(f"start_from {policy_dir}: {WEIGHTS_FILE}: damaged (", SafetensorError, OSError, after=")"):
        weights = policy.adapt_weights(load_file(policy_dir / WEIGHTS_FILE))
    stored = {name: weight.shape for name, weight in weights.items()}
    with explained(f"start_from {policy_dir}: "):
        check_shapes(stored, policy, "expected the same policy group, but for what goes in and comes out")
    policy.load_state_dict(weights, strict=False)
    return policy


def _tokenizer(config: TrainConfig, lesson: Lesson | None, tasks: Sequence[str]) -> Tokenizer | None:
    """Where weights come from somewhere, theirs: its ids are what they know."""
    if config.start_from and (backbone := find_backbone(config.start_from)) is not None:
        return backbone.tokenizer()
    if config.start_from:
        return open_policy(Path(config.start_from)).processor.tokenizer
    return None if lesson is None or config.lesson is None else lesson.make_tokenizer(tasks, config.lesson.vocab_size)


def frame_rule(config: TrainConfig) -> FrameRule:
    """Images are resized as the policy's own processor does it, which can be made only when the bags have been read."""
    return FrameRule(
        horizon=config.data.action_horizon,
        chunk_dt_s=config.data.chunk_dt_s,
        offset=config.data.action_offset,
        resize=family_of(config.policy).processor_class().resizer(config.policy, config.processor),
        min_gap_s=config.min_frame_gap_s,
        namespace=config.namespace,
        episodes=config.episodes,
        keep_failures=config.keep_failures,
        interventions=config.interventions,
    )


def _find_bags(
    config: TrainConfig,
    robot: RobotConfig,
    lesson: Lesson | None,
    processes: Processes,
    report: Callable[[str], None],
) -> tuple[Path, ...]:
    """The user's, where nothing is written; without any, the demonstrations, which are made first."""
    places = _bag_places(config)
    if lesson is not None and not config.bags:
        if processes.is_first:
            lesson.prepare(places[0], robot, config.num_workers, report)
        processes.wait()
    elif config.lesson is not None and config.lesson.demonstrations is not None:
        report(f"bags are given, so no demonstrations are made in {config.lesson.demonstrations_dir}, their own folder")
    found, where = find_bags(*places), listed([str(place) for place in places])
    if found.others:
        report(f"skipped in {where}, not a bag: {', '.join(found.others)}")
    if not found.bags:
        raise ValueError(
            f"{where}: no rosbag2 bag in it; expected folders of bags, .mcap or .db3 files: set bags=FOLDER"
        )
    report(f"reading {len(found.bags)} bags from {where}")
    return found.bags


def _check_fit(config: TrainConfig, robot: RobotConfig, lesson: Lesson | None, rule: FrameRule) -> None:
    needs_tokenizer = family_of(config.policy).processor_class().settings_type is not None
    if needs_tokenizer and not config.start_from and lesson is None:
        raise ValueError("start_from and lesson are empty; expected one of them: a tokenizer comes from there")
    for what, given, expected in (
        ("data.joint_names", config.data.joint_names, robot.joint_names),
        *([("data.camera_names", config.data.camera_names, robot.camera_names)] if config.data.cameras is None else []),
    ):
        if given != expected:
            raise ValueError(f"{what} is {list(given)}; robot '{robot.name}' has {list(expected)}: make them equal")
    for camera in robot.cameras:
        with explained(f"camera '{camera.name}': ", after=", or the processor group of the train config"):
            rule.resize(np.zeros((camera.height, camera.width, 3), np.uint8))
