"""Frames to normalised training batches, through the policy's own processor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_ros.policies.config import DataConfig
from vla_ros.policies.modules.vlm_bridge.processor import VLMProcessor
from vla_ros.training import grounding
from vla_ros.training.dataset import Frames
from vla_ros.transforms.actions import encode_actions
from vla_ros.transforms.normalize import FieldStats, Normalizer, compute_stats
from vla_ros.transforms.sample import TrainingBatch


@dataclass(frozen=True)
class Split:
    """Which samples train and which judge; no episode is in both."""

    train: np.ndarray
    validation: np.ndarray


def split_by_episode(frames: Frames, validation_share: float) -> Split:
    """The last ``validation_share`` of the episodes, at least one, judge."""
    num_episodes = len(frames.tasks)
    first = min(num_episodes - 1, int(num_episodes * (1.0 - validation_share)))
    held_out = frames.episode >= first
    return Split(np.flatnonzero(~held_out), np.flatnonzero(held_out))


class SampleMaker:
    """Makes batches of ``frames``; its statistics come from the training split alone."""

    def __init__(self, frames: Frames, split: Split, data: DataConfig, processor: VLMProcessor) -> None:
        self._frames = frames
        self._processor = processor
        self._grid = grounding.CellGrid()
        self._labels = encode_actions(frames.actions, frames.joint_positions, data.action_mode)
        self._states = frames.joint_positions[:, None]
        self.stats: dict[str, FieldStats] = {
            "state": compute_stats(self._states[split.train]),
            "action": compute_stats(self._labels[split.train]),
        }
        self._state = Normalizer(data.normalization, self.stats["state"])
        self.action = Normalizer(data.normalization, self.stats["action"])

    def labels(self, indices: np.ndarray) -> np.ndarray:
        """What the policy should say, in SI units: ``[batch, horizon, num_joints]``."""
        return self._labels[indices]

    def batch(self, indices: np.ndarray, rng: np.random.Generator) -> TrainingBatch:
        """A batch; where the bags say where the blocks are, the question and its answer come with it."""
        episodes = self._frames.episode[indices]
        blocks = [self._frames.blocks[episode] for episode in episodes]
        policy_input = self._processor.make_batch(
            self._frames.images[indices],
            [self._frames.tasks[episode] for episode in episodes],
            [grounding.QUESTION if known else "" for known in blocks],
            [grounding.answer(known, self._grid, rng) if known else "" for known in blocks],
        )
        return TrainingBatch(
            policy_input, self._state.normalize(self._states[indices]), self.action.normalize(self._labels[indices])
        )
