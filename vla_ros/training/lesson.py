"""What a run teaches beside actions, handed in by its caller."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from vla_ros.robot import RobotConfig
from vla_ros.transforms.sample import TextTarget


class Lesson(ABC):
    """A question about each scene, and the tokenizer of a policy that starts from random weights."""

    @abstractmethod
    def prepare(self, folder: Path, robot: RobotConfig, num_workers: int, report: Callable[[str], None]) -> None:
        """Make the bags of ``folder`` that are missing, before it is read."""

    @abstractmethod
    def make_tokenizer(self, tasks: Iterable[str], vocab_size: int) -> Tokenizer:
        """Of at most ``vocab_size`` tokens; ``tasks`` are the bags' instructions."""

    @abstractmethod
    def ask(self, scene: Mapping[str, tuple[float, float]], rng: np.random.Generator) -> TextTarget:
        """About a scene of which it is known where things are, x and y in m by name."""
