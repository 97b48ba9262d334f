"""Frames to normalised training batches, through the policy's own processor, and what is taught beside actions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
from tokenizers import Tokenizer

from vla_ros.policies.config import DataConfig
from vla_ros.policies.processor import PolicyProcessor
from vla_ros.robot import RobotConfig
from vla_ros.strict import explained, quoted
from vla_ros.training.dataset import Frames
from vla_ros.transforms.normalize import FieldStats, Normalizer, compute_stats
from vla_ros.transforms.sample import TextTarget, TrainingBatch

BLOCK = 4096


class Lesson(ABC):
    """What a run teaches beside actions, handed in by its caller: a question about each scene, and the tokenizer of a
    policy that starts from random weights."""

    @abstractmethod
    def prepare(self, folder: Path, robot: RobotConfig, num_workers: int, report: Callable[[str], None]) -> None:
        """Make the bags of ``folder`` that are missing, before it is read."""

    @abstractmethod
    def make_tokenizer(self, tasks: Iterable[str], vocab_size: int) -> Tokenizer:
        """Of at most ``vocab_size`` tokens; ``tasks`` are the bags' instructions."""

    @abstractmethod
    def ask(self, scene: Mapping[str, tuple[float, float]], rng: np.random.Generator) -> TextTarget:
        """About a scene of which it is known where things are, x and y in m by name."""


@dataclass(frozen=True)
class Split:
    """Which samples train and which judge; no episode is in both. ``share`` is how often each of ``train`` is drawn, as
    a share of all draws; None: all alike."""

    train: np.ndarray
    validation: np.ndarray
    share: np.ndarray | None = None

    def num_drawn(self, num: int) -> int:
        """How many of ``num`` there are for a batch."""
        return min(num, len(self.train)) if self.share is None else num

    def draw(self, rng: np.random.Generator, num: int) -> np.ndarray:
        """``num`` samples of ``train`` for a batch; some of them twice where they are drawn by their share."""
        if self.share is None:
            return rng.choice(self.train, self.num_drawn(num), replace=False)
        return rng.choice(self.train, num, p=self.share)


def split_by_episode(frames: Frames, validation_share: float) -> Split:
    """The last ``validation_share`` of the episodes with samples, at least one, judge; the others are drawn by their
    weight. Of the episodes with interventions no greater share judges: they may be few, and all the last. Raises
    ValueError where no episode is left to train on, or all weigh nothing."""
    episodes = np.unique(frames.episode)
    num_episodes = len(episodes)
    num_judging = num_episodes - min(num_episodes - 1, int(num_episodes * (1.0 - validation_share)))
    if num_judging >= num_episodes:
        raise ValueError(
            f"{num_episodes} episode(s) and validation_share {validation_share:g} leave none to train on; record more, "
            "or split them: see episodes"
        )
    corrected = np.unique(frames.episode[frames.is_intervention])
    first = len(corrected) - int(len(corrected) * validation_share)
    others = [*corrected[:first], *np.setdiff1d(episodes, corrected)]
    judging = [*corrected[first:], *others[len(others) - (num_judging - len(corrected[first:])) :]]
    held_out = np.isin(frames.episode, judging)
    train = np.flatnonzero(~held_out)
    weights = frames.weight[train]
    if not weights.any():
        raise ValueError(
            "all that is left to train on has weight 0; expected some above 0: see the weights of bags and sets"
        )
    share = None if (weights == weights[0]).all() else weights / weights.sum()
    return Split(train, np.flatnonzero(held_out), share)


def compute_split_stats(frames: Frames, split: Split, data: DataConfig) -> dict[str, FieldStats]:
    """Of states and actions in the training split alone, as far as they lie within their episodes."""
    states, labels = _encode(frames, data)
    known = frames.num_known[split.train]
    return {"state": compute_stats(states[split.train]), "action": compute_stats(labels[split.train], known)}


class SampleMaker:
    """Makes batches of ``frames`` for the policy of ``processor``."""

    def __init__(self, frames: Frames, processor: PolicyProcessor, lesson: Lesson | None = None) -> None:
        self._frames = frames
        self._processor = processor
        self._lesson = lesson
        data, self.stats = processor.data, processor.stats
        self._space = data.action_space
        self._states, self._labels = _encode(frames, data)
        self._state = Normalizer(data.normalization, self.stats["state"])
        self.action = Normalizer(data.normalization, self.stats["action"])

    def __str__(self) -> str:
        """How many there are, and a checksum of their instructions and actions."""
        tasks, actions = self._frames.tasks, np.ascontiguousarray(self._frames.actions)
        texts = repr(self._frames.texts) if self._frames.num_answers else ""
        checksum = crc32(actions.data, crc32((repr(tasks) + texts).encode()))
        return f"{len(actions)} of {len(tasks)} episodes ({checksum:08x})"

    def check_texts(self) -> None:
        """Raises ValueError for the first sample whose instruction, question and answer the policy can't take."""
        frames, seen = self._frames, set()
        for index, episode in enumerate(frames.episode):
            if (words := (frames.tasks[episode], frames.texts[index])) not in seen:
                seen.add(words)
                with explained(f"episode {episode} '{quoted(words[0])}', sample {index}: "):
                    self._processor.check_text(*words)

    def errors(self, vectors: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """How far actions, not normalised, ``[batch, horizon, action_dim]`` are from what was commanded, by joint:
        ``[batch, horizon, num_joints]``, rad or m."""
        targets = self._space.decode(vectors, self._frames.joint_positions[indices])
        return np.abs(targets - self._frames.actions[indices])

    def last_errors(self, vectors: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Those of each sample's last action within its episode, ``[batch, num_joints]``."""
        last = self._frames.num_known[indices] - 1
        return self.errors(vectors, indices)[np.arange(len(indices)), last]

    def batch(self, indices: np.ndarray, rngs: Sequence[np.random.Generator]) -> TrainingBatch:
        """A batch, with the questions and answers of the bags; where these have none but say where things are, those of
        the lesson. What is random in a sample comes of its own one of ``rngs``. Of one whose pictures can't be decoded
        nothing is to be learned."""
        frames, episodes = self._frames, self._frames.episode[indices]
        states, views = self._state.normalize(self._states[indices]), self._views(indices)
        is_lost = frames.images.lost[indices]
        asked = [self._ask(index, rng) for index, rng in zip(indices, rngs, strict=True)]
        policy_input = self._processor.make_batch(
            views,
            [frames.tasks[episode] for episode in episodes],
            states,
            [TextTarget() if lost else text for text, lost in zip(asked, is_lost, strict=True)],
        )
        num_known = np.where(is_lost, 0, frames.num_known[indices])
        return TrainingBatch(policy_input, states, self.action.normalize(self._labels[indices]), num_known)

    def _views(self, indices: np.ndarray) -> np.ndarray:
        """The images of each slot, black where it has no camera."""
        images, slots = self._frames.images[indices], self._processor.data.slots
        views = np.zeros((len(images), len(slots), *images.shape[2:]), images.dtype)
        views[:, [slot.camera is not None for slot in slots]] = images
        return views

    @property
    def num_lost(self) -> int:
        """How many samples there are whose pictures turned out not to be readable."""
        return int(self._frames.images.lost.sum())

    @property
    def problems(self) -> tuple[str, ...]:
        """Why."""
        return self._frames.images.problems

    def _ask(self, index: int, rng: np.random.Generator) -> TextTarget:
        text, scene = self._frames.texts[index], self._frames.scenes[self._frames.episode[index]]
        return text if text.answer or self._lesson is None or not scene else self._lesson.ask(scene, rng)


def _encode(frames: Frames, data: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """States ``[num_samples, 1, state_dim]`` and actions ``[num_samples, horizon, action_dim]``, those float32: there
    are many."""
    states = data.state_space.encode(frames.joint_positions[:, None], frames.joint_positions)
    labels = np.empty((*frames.actions.shape[:2], data.action_space.size), np.float32)
    for start in range(0, len(labels), BLOCK):
        block = slice(start, start + BLOCK)
        labels[block] = data.action_space.encode(frames.actions[block], frames.joint_positions[block])
    return states, labels
