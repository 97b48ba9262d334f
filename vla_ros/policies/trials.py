"""What audit and bench make up of a family where there is no policy directory: sizes, requests, things to compare with.

Nothing of it is needed to run a policy. ``Trials`` itself makes up nothing: enough for a family that is measured from
policy directories only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vla_ros.policies.config import PolicyConfig
from vla_ros.policies.processor import PolicyProcessor
from vla_ros.transforms.sample import PolicyRequest
from vla_ros.types import Observation

NUM_CAMERAS = 2


@dataclass(frozen=True)
class LeRobotForm:
    """How LeRobot builds the same policy: ``type`` and ``settings`` are those of its configuration, features and device
    apart, ``backbone`` are sizes that it takes from elsewhere.

    ``our_name`` turns the name of one of its tensors into the name here, or into None. An instruction is padded to
    ``num_tokens``, None where it reads none; ``pictures`` are each picture's mean and std where it normalises them.
    """

    type: str
    settings: Mapping[str, Any]
    our_name: Callable[[str], str | None]
    backbone: Mapping[str, Any] = field(default_factory=dict)
    num_tokens: int | None = None
    pictures: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = ()


class Trials:
    """A family's; each part may be left as it is here. ``num_words`` are those of a made-up instruction."""

    num_words = 12

    def make_request(
        self, config: PolicyConfig, num_cameras: int = NUM_CAMERAS, image_size: tuple[int, int] | None = None
    ) -> PolicyRequest:
        """Random pixels and text. ``image_size`` is (height, width) in pixels of what the policy sees, by default what
        it was published for. Raises ValueError where no request can be made up."""
        raise ValueError(f"a {config.type} can be measured from a policy directory only; give one with --policy")

    def shrink(self, config: PolicyConfig, request: PolicyRequest) -> tuple[PolicyConfig, PolicyRequest]:
        """A small version of the same classes and switches, which runs at once on a CPU, and a request for it."""
        return config, request

    def resize(self, config: PolicyConfig, horizon: int, num_steps: int) -> PolicyConfig:
        """The same policy with chunks of ``horizon`` actions made in ``num_steps``. Raises ValueError where it has no
        steps."""
        raise ValueError(f"a {config.type} has no stages to sweep; leave --scale out")

    def randomize(self, policy: Any) -> None:
        """What a fresh network needs besides for its arithmetic to be that of a trained one."""

    def make_processor(self, config: PolicyConfig, num_cameras: int = NUM_CAMERAS) -> PolicyProcessor | None:
        """One for cameras of 640x480, whose tokenizer knows no word; None where none can be made up."""
        return None

    def make_observation(self, processor: PolicyProcessor) -> Observation:
        """Random pictures, joints at 0, an instruction of words that nobody knows."""
        rng, sizes = np.random.default_rng(0), processor.camera_sizes
        images = {name: rng.integers(0, 256, (*size, 3), np.uint8) for name, size in sizes.items()}
        joints, task = np.zeros(len(processor.joint_names)), " ".join(["word"] * self.num_words)
        return Observation(0, dict.fromkeys(sizes, 0), images, joints, task)

    def make_preprocessing(
        self, config: PolicyConfig, num_cameras: int = NUM_CAMERAS, image_size: tuple[int, int] | None = None
    ) -> Callable[[], object] | None:
        """What turns camera images and a task into inputs; None where no processor can be made up."""
        processor = self.make_processor(config, num_cameras)
        if processor is None:
            return None
        observation = self.make_observation(processor)
        return lambda: processor.process(observation)

    def as_lerobot(self, config: PolicyConfig) -> LeRobotForm:
        """Raises ValueError where LeRobot has no such policy."""
        raise ValueError(f"LeRobot has no {config.type}; expected a policy of a family that it has")

    def num_tokens(self, request: PolicyRequest) -> int | None:
        """How many the policy reads, padding included; None where it reads no tokens."""
        return None

    def compositions(self, policy: Any) -> Mapping[str, Callable[[Any], Any]]:
        """Other ways from a policy's inputs to the same actions, by name, to compare with."""
        return {}

    def stock_prefix(self, policy: Any, inputs: Any) -> Callable[[], Any] | None:
        """The prefix as the library that the backbone is of runs it; None where there is none."""
        return None
