"""Frames to normalised training batches, through the policy's own processor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vla_ros.policies.config import DataConfig
from vla_ros.policies.modules.vlm_bridge.processor import VLMProcessor
from vla_ros.training.dataset import Frames
from vla_ros.training.lesson import Lesson, Question
from vla_ros.transforms.normalize import FieldStats, Normalizer, compute_stats
from vla_ros.transforms.sample import TrainingBatch


@dataclass(frozen=True)
class Split:
    """Which samples train and which judge; no episode is in both. ``share`` is how often each of ``train`` is drawn, as
    a share of all draws; None: all alike."""

    train: np.ndarray
    validation: np.ndarray
    share: np.ndarray | None = None

    def draw(self, rng: np.random.Generator, num: int) -> np.ndarray:
        """``num`` samples of ``train`` for a batch; some of them twice where they are drawn by their share."""
        if self.share is None:
            return rng.choice(self.train, min(num, len(self.train)), replace=False)
        return rng.choice(self.train, num, p=self.share)


def split_by_episode(frames: Frames, validation_share: float, intervention_weight: float = 1.0) -> Split:
    """The last ``validation_share`` of the episodes, at least one, judge; interventions among the others are drawn
    ``intervention_weight`` times as often as the rest. Raises ValueError where no episode is left to train on."""
    num_episodes = len(frames.tasks)
    first = min(num_episodes - 1, int(num_episodes * (1.0 - validation_share)))
    if first < 1:
        raise ValueError(
            f"{num_episodes} episode(s) and validation_share {validation_share:g} leave none to train on; record more, "
            "or split them: see episodes"
        )
    held_out = frames.episode >= first
    train = np.flatnonzero(~held_out)
    weights = np.where(frames.is_intervention[train], intervention_weight, 1.0)
    share = None if (weights == weights[0]).all() else weights / weights.sum()
    return Split(train, np.flatnonzero(held_out), share)


class SampleMaker:
    """Makes batches of ``frames``; its statistics come from the training split alone."""

    def __init__(
        self, frames: Frames, split: Split, data: DataConfig, processor: VLMProcessor, lesson: Lesson | None = None
    ) -> None:
        self._frames = frames
        self._processor = processor
        self._lesson = lesson
        self._space = data.action_space
        self._labels = self._space.encode(frames.actions, frames.joint_positions)
        self._states = data.state_space.encode(frames.joint_positions[:, None], frames.joint_positions)
        self.stats: dict[str, FieldStats] = {
            "state": compute_stats(self._states[split.train]),
            "action": compute_stats(self._labels[split.train]),
        }
        self._state = Normalizer(data.normalization, self.stats["state"])
        self.action = Normalizer(data.normalization, self.stats["action"])

    def errors(self, vectors: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """How far actions, not normalised, ``[batch, horizon, action_dim]`` are from what was commanded, by joint:
        ``[batch, horizon, num_joints]``, rad or m."""
        targets = self._space.decode(vectors, self._frames.joint_positions[indices])
        return np.abs(targets - self._frames.actions[indices])

    def batch(self, indices: np.ndarray, rng: np.random.Generator) -> TrainingBatch:
        """A batch; where the bags say where things are, the lesson's question and its answer come with it."""
        episodes = self._frames.episode[indices]
        questions = [self._ask(self._frames.scenes[episode], rng) for episode in episodes]
        policy_input = self._processor.make_batch(
            self._frames.images[indices],
            [self._frames.tasks[episode] for episode in episodes],
            [question.prompt for question in questions],
            [question.answer for question in questions],
        )
        return TrainingBatch(
            policy_input, self._state.normalize(self._states[indices]), self.action.normalize(self._labels[indices])
        )

    def _ask(self, scene: Mapping[str, tuple[float, float]], rng: np.random.Generator) -> Question:
        return self._lesson.ask(scene, rng) if self._lesson is not None and scene else Question()
