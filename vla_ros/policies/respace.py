"""A policy directory whose numbers are declared otherwise: the same network, the same motion. No torch."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.policies.families import family_of
from vla_ros.policies.files import GOLDEN_FILE, WEIGHTS_FILE, open_policy, replaced_whole, write_files
from vla_ros.policies.golden import GoldenCase, decode_golden, write_golden
from vla_ros.policies.processor import PolicyProcessor
from vla_ros.robot import RobotConfig
from vla_ros.spaces.space import Space
from vla_ros.strict import explained
from vla_ros.transforms.normalize import EPSILON, FieldStats

NUM_PROBES = 64
TOLERANCE = 1e-9  # of numbers, by their size
SAME_MOTION = 1e-6  # rad or m


def respace(policy_dir: Path, out: Path, declared: Mapping[str, Any], robot: RobotConfig) -> PolicyProcessor:
    """Make the policy directory ``out`` of ``policy_dir`` with the ``state`` and ``action`` that are ``declared``.

    Each number must be a positive multiple of what it was, and more: the network, which sees and says normalised
    numbers, then stays as it is, and the statistics take the change. ``mean``, ``q01`` and ``q99`` go along; ``std`` so
    that with what is added to it against division by 0 it is the same multiple.

    Raises ValueError where a number is anything else, and where the directory can't be read or written.
    """
    opened = open_policy(policy_dir)
    old = opened.processor
    if not old.config.runs_here:
        raise ValueError(
            f"{policy_dir}: its numbers are those of {old.config.waits_for}; import it with another --space"
        )
    document = {name: declared[name] for name in ("state", "action") if name in declared}
    with explained("the declared space: "):
        mode = {"action_mode": None} if "action" in document else {}
        before, data = old.data.bind(robot), replace(old.data, **document, **mode).bind(robot)
        stats = dict(old.stats)
        spaces = {"state": (before.state_space, data.state_space), "action": (before.action_space, data.action_space)}
        for key in stats.keys() & spaces.keys():
            stats[key] = _follow(stats[key], *_line(*spaces[key], robot))
    processor = family_of(old.config).processor_class().read(policy_dir, old.config, data, stats, "")
    observation, actions = opened.golden.observation, opened.golden.actions
    moved = np.abs(processor.decode(actions, observation).positions - old.decode(actions, observation).positions).max()
    if moved > SAME_MOTION:
        raise ValueError(f"the declared space moves a joint by {moved:.2g} more; expected at most {SAME_MOTION}")
    with replaced_whole(out) as folder:
        write_files(folder, processor)
        shutil.copyfile(policy_dir / WEIGHTS_FILE, folder / WEIGHTS_FILE)
        decoded = decode_golden(processor, observation, actions)
        write_golden(folder / GOLDEN_FILE, GoldenCase(observation, processor.process(observation), actions, decoded))
        return open_policy(folder).processor


def _line(old: Space, new: Space, robot: RobotConfig) -> tuple[np.ndarray, np.ndarray]:
    """Scale and offset ``[size]`` that make the new numbers of the old, found on random joints."""
    if old.size != new.size:
        raise ValueError(f"{new.where} makes {new.size} numbers, the policy has {old.size}; make them equal")
    rng = np.random.default_rng(0)
    low, high = robot.joint_values("lower"), robot.joint_values("upper")
    joints = low + (high - low) * rng.uniform(0.3, 0.7, (NUM_PROBES, 3, len(low)))
    was, becomes = (space.encode(joints[:, 1:], joints[:, 0]).reshape(-1, space.size) for space in (old, new))
    spread = was - was.mean(0)
    moves = (spread**2).sum(0) > 0
    scale = np.where(moves, (spread * becomes).sum(0) / np.where(moves, (spread**2).sum(0), 1.0), 1.0)
    offset = (becomes - scale * was).mean(0)
    off = np.abs(scale * was + offset - becomes).max(0) > TOLERANCE * (1 + np.abs(becomes).max(0))
    if (off | (scale <= 0)).any():
        index = int(np.flatnonzero(off | (scale <= 0))[0])
        got = f"{new.where}: number {index} is no positive multiple of what it was"
        raise ValueError(f"{got}; expected the same joints in the same order, in another unit or range")
    return scale, offset


def _follow(stats: FieldStats, scale: np.ndarray, offset: np.ndarray) -> FieldStats:
    """Statistics by which the new numbers are normalised to what the old ones were."""
    std = scale * (stats.std + EPSILON) - EPSILON
    if not (std > 0).all():
        raise ValueError("a number becomes so small that its deviation vanishes; declare it in a smaller unit")
    middle, span = (stats.q01 + stats.q99) / 2.0, np.maximum(stats.q99 - stats.q01, EPSILON)
    ends = (scale * (middle + sign * span / 2.0) + offset for sign in (-1, 1))
    return FieldStats(*(x.astype(np.float32) for x in (scale * stats.mean + offset, std, *ends)))
