"""What any processor is, the host side of a policy: observation to request, actions to chunk. Imports no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from vla_ros import strict
from vla_ros.policies.config import CONFIG_FILE, DataConfig, PolicyConfig
from vla_ros.robot import RobotConfig
from vla_ros.spaces.cameras import check_slots
from vla_ros.strict import explained
from vla_ros.transforms.chunking import guidance_weights
from vla_ros.transforms.normalize import NO_STATS, FieldStats, Normalizer
from vla_ros.transforms.sample import PolicyRequest, TextTarget
from vla_ros.types import ActionChunk, ChunkShape, Continuation, Observation, check_task


class PolicyProcessor(ABC):
    """Turns observations into requests and normalised actions into chunks. Not for use by two threads at once.

    A family gives ``request_type``, ``camera_size``, ``make_request`` and, where its policies have several shapes of
    request or take guidance, ``every_shape`` and ``is_guidable``. ``files`` are what it keeps in a policy
    directory besides, which it has to ``read`` and ``write``.
    """

    files: ClassVar[tuple[str, ...]] = ()
    request_type: ClassVar[type[PolicyRequest]]
    settings_type: ClassVar[type | None] = None  # what the ``processor`` group of a train config is; None: nothing
    is_guidable: ClassVar[bool] = False  # whether its policies take requests that continue a chunk
    learns_text: ClassVar[bool] = False  # whether its policies learn to answer questions, too
    why_not_guidable: ClassVar[str] = "it was not made for that"
    tokenizer: Any = None  # where it has one, a ``tokenizers.Tokenizer``

    def __init__(
        self, config: PolicyConfig, data: DataConfig, stats: Mapping[str, FieldStats], digest: str = ""
    ) -> None:
        """``stats`` are those of ``action`` and, where the policy sees one, ``state``, none of one that is computed
        elsewhere; ``digest`` is the policy directory's."""
        check_sizes(config, data)
        self.config, self.data, self.stats, self.digest = config, data, stats, digest
        state_mode = data.state_normalization or data.normalization
        self._state = Normalizer(state_mode, stats.get("state", NO_STATS)) if config.state_history else None
        self._action = Normalizer(data.normalization, stats.get("action", NO_STATS))

    @classmethod
    def read(
        cls, policy_dir: Path, config: PolicyConfig, data: DataConfig, stats: Mapping[str, FieldStats], digest: str
    ) -> Self:
        """From a policy directory; raises ValueError for a file of its own that is damaged or doesn't fit."""
        return cls(config, data, stats, digest)

    def write(self, policy_dir: Path) -> None:  # noqa: B027
        """Its own files into a policy directory."""

    @property
    @abstractmethod
    def camera_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the images it takes; 0 where each camera has its own."""

    @property
    def camera_sizes(self) -> Mapping[str, tuple[int, int]]:
        """Those of each camera."""
        return dict.fromkeys(self.camera_names, self.camera_size)

    @property
    def taken_sizes(self) -> Mapping[str, tuple[int, int]]:
        """Those that each camera must have; 0 where any will do."""
        return self.camera_sizes

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels of what the policy sees of them."""
        return self.camera_size

    @property
    def black_size(self) -> tuple[int, int]:
        """(height, width) of an image that stands for no camera."""
        height, width = self.camera_size
        return (height, width) if height else self.image_size

    @abstractmethod
    def make_request(
        self, stamp_ns: int, images: Sequence[np.ndarray], task: str, state: np.ndarray, noise: np.ndarray
    ) -> PolicyRequest:
        """The request for uint8 RGB ``images`` [height, width, 3] in the order of ``camera_names``, ``state`` float32
        [state_history, state_dim] normalised and ``noise`` float32 [horizon, noise_dim].

        Raises ValueError for what it cannot use.
        """

    @classmethod
    def for_training(
        cls, config: PolicyConfig, data: DataConfig, stats: Mapping[str, FieldStats], settings: Any, tokenizer: Any
    ) -> Self:
        """A new policy's; ``settings`` are of its ``settings_type``, and a family without takes no tokenizer."""
        return cls(config, data, stats)

    @classmethod
    def config_for(cls, config: PolicyConfig, sizes: Sequence[tuple[int, int]]) -> PolicyConfig:
        """``config`` of a policy that is to be trained on cameras with images of these (height, width), in its order;
        for a family whose network depends on them."""
        return config

    @classmethod
    def on_backbone(cls, config: PolicyConfig, kind: str, document: Mapping[str, Any]) -> PolicyConfig:
        """``config`` with the backbone of class ``kind`` in transformers whose config.json is ``document``, for a
        family that has one which is published alone. Raises ValueError where it has no such backbone."""
        raise ValueError(f"a {config.type} has no backbone of {kind}; start from a policy directory, or choose another")

    @classmethod
    def settings_on(
        cls,
        config: PolicyConfig,
        sizes: Sequence[tuple[int, int]],
        num_images: int,
        tokenizer: Any,
        image_config: Path | None,
    ) -> Any:
        """As ``settings_for``, of a new policy on a backbone (``on_backbone``) with its tokenizer and, where it comes
        with one, its preprocessor_config.json."""
        return None

    def settings_for(self, sizes: Sequence[tuple[int, int]], num_images: int) -> Any:
        """What ``for_training`` takes as ``settings`` for a policy that goes on from this one with cameras whose images
        have these (height, width), in its order, and so many images in all, those that stand for no camera too."""
        return None

    @classmethod
    def resizer(cls, config: PolicyConfig, settings: Any) -> Callable[[np.ndarray], np.ndarray]:
        """What training does to each camera's image before it keeps it, and ``make_batch`` then doesn't; picklable.

        It raises ValueError for an image of another size or type than the policy takes.
        """
        return np.asarray

    def make_batch(
        self, images: np.ndarray, tasks: Sequence[str], states: np.ndarray, targets: Sequence[TextTarget]
    ) -> Any:
        """The ``policy_input`` of a training batch, all [batch, ...]: the tensors of ``make_request``, stacked.

        ``images`` are resized, ``states`` normalised.
        """
        noise = np.zeros((self.config.action_horizon, self.noise_dim), np.float32)
        seen = zip(images, tasks, states, strict=True)
        rows = [self.make_request(0, list(views), task, state, noise).to_tensors() for views, task, state in seen]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def check_text(self, task: str, target: TextTarget) -> None:  # noqa: B027
        """Before training: raises ValueError for an instruction with a question and an answer that don't fit in."""

    def every_shape(self, observation: Observation) -> Sequence[PolicyRequest]:
        """One request for each shape that there can be, of ``observation`` or something like it."""
        return (self.process(observation),)

    def warm_up_requests(self, observation: Observation, with_guidance: bool = False) -> tuple[PolicyRequest, ...]:
        """One request for each shape; ``with_guidance`` adds each once more, guided towards a chunk of zeros.

        Raises ValueError where the family takes no guidance.
        """
        plain = tuple(self.every_shape(observation))
        if not with_guidance:
            return plain
        self._check_guidable()
        zeros = np.zeros((self.config.action_horizon, self.config.action_dim), np.float32)
        weights = np.ones(self.config.action_horizon, np.float32)
        return (*plain, *(replace(request, previous_actions=zeros, guidance_weights=weights) for request in plain))

    def bind(self, robot: RobotConfig) -> None:
        """From now on limits and links are those of ``robot``, which is driven. Raises ValueError where its joints
        can't be those that the policy learned about, or it is one to be trained first."""
        if self.data.for_training:
            got = f"{CONFIG_FILE}: data.for_training is on: a base checkpoint, which nothing can be driven with"
            raise ValueError(f"{got}; train it on the robot's data: vla_ros train --start-from DIR")
        data = self.data.bind(robot)
        known = replace(data, joint_limits=robot.joint_limits)
        spaces = {"state": known.state_space, "action": known.action_space}
        for key in stats_shapes(self.config):
            spaces[key].check_values(self.stats[key].q01.min(0), self.stats[key].q99.max(0))
        self.data = data

    @property
    def noise_dim(self) -> int:
        """How many numbers of an action are made of noise; more than an action has where a network pads actions."""
        return self.config.action_dim

    @property
    def joint_names(self) -> tuple[str, ...]:
        return self.data.joint_names

    @property
    def camera_names(self) -> tuple[str, ...]:
        """The robot's cameras that it looks at, in the order of its images."""
        return tuple(slot.camera for slot in self.data.slots if slot.camera is not None)

    @property
    def chunk_shape(self) -> ChunkShape:
        return ChunkShape(self.config.action_horizon, self.data.chunk_dt_s, self.data.action_offset)

    def process(self, observation: Observation, continuation: Continuation | None = None) -> PolicyRequest:
        """The request for one observation; its noise depends on ``header_ns`` alone, so that a replay repeats it.

        With ``continuation`` it is guided, for real-time chunking.

        Raises ValueError for a missing camera, an image of another size or type, joints of another number or not
        finite, an empty task, or one that is too long.
        """
        check_task(observation.task)
        missing = [name for name in self.camera_names if name not in observation.images]
        if missing:
            got = ", ".join(observation.images) or "none"
            raise ValueError(f"camera '{missing[0]}' is missing; the observation has {got}: name it in the robot file")
        joints = np.asarray(observation.joint_positions, np.float64)
        if joints.shape != (len(self.joint_names),) or not np.isfinite(joints).all():
            got = f"joint positions are {joints.tolist()}"
            expected = f"{len(self.joint_names)} finite numbers, one for each joint of the policy"
            raise ValueError(f"{got}; expected {expected}")
        images = self.fill_slots([observation.images[name] for name in self.camera_names])
        state = np.zeros((0, self.config.state_dim), np.float32)
        if self._state is not None:
            state = self._state.normalize(self.data.state_space.encode(joints[None], joints))
        noise = self._noise(observation.header_ns)
        request = self.make_request(observation.stamp_ns, images, observation.task, state, noise)
        if continuation is None:
            return request
        weights = guidance_weights(self.config.action_horizon, continuation.num_executed, continuation.num_frozen)
        return self.guide(request, observation, continuation.positions, np.where(continuation.is_known, weights, 0.0))

    def fill_slots(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """``images`` of the cameras, in their order, and a black one for each slot that has none."""
        given = iter(images)
        black = np.zeros((*self.black_size, 3), np.uint8)
        return [black if slot.camera is None else next(given) for slot in self.data.slots]

    def guide(
        self, request: PolicyRequest, observation: Observation, targets: np.ndarray, weights: np.ndarray
    ) -> PolicyRequest:
        """The request of ``observation``, drawn towards absolute joint targets [horizon, num_joints] at its due times.

        ``weights`` [horizon] are those of ``transforms.chunking``; targets of weight 0 may be anything.
        """
        self._check_guidable()
        joints = np.asarray(observation.joint_positions, np.float64)
        known = np.where(weights[:, None] > 0, targets, joints)
        actions = self._action.normalize(self.data.action_space.encode(known, joints))
        return replace(request, previous_actions=actions, guidance_weights=weights.astype(np.float32))

    def decode(self, actions: np.ndarray, observation: Observation) -> ActionChunk:
        """Absolute joint targets from normalised actions [horizon, action_dim] and the observation they answer.

        Raises ValueError for another shape or values that are not finite.
        """
        expected = (self.config.action_horizon, self.config.action_dim)
        if actions.shape != expected or not np.isfinite(actions).all():
            got = f"shape {actions.shape}" if actions.shape != expected else "values that are not finite"
            raise ValueError(f"actions have {got}; expected finite values of shape {expected}")
        joints = np.asarray(observation.joint_positions, np.float64)
        vectors, space = self._action.denormalize(actions), self.data.action_space
        targets = space.decode(vectors, joints)
        return ActionChunk(
            observation.stamp_ns,
            self.data.chunk_dt_s,
            self.data.action_offset,
            targets,
            space.shortfall(vectors, joints, targets),
        )

    def _check_guidable(self) -> None:
        if not self.is_guidable:
            why = f"cannot continue a chunk ({self.why_not_guidable})"
            raise ValueError(f"policy type {self.config.type} {why}; choose another strategy than rtc")

    def _noise(self, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed % 2**64)
        return rng.standard_normal((self.config.action_horizon, self.noise_dim), np.float32)


def stats_shapes(config: PolicyConfig) -> dict[str, tuple[int, int]]:
    """The [horizon, dim] of each key of the statistics; a policy without state needs none of it, one that is computed
    elsewhere none at all."""
    if not config.runs_here:
        return {}
    shapes = {"state": (config.state_history, config.state_dim)} if config.state_history else {}
    return shapes | {"action": (config.action_horizon, config.action_dim)}


def check_sizes(policy: PolicyConfig, data: DataConfig) -> None:
    """Raises ValueError where the groups policy and data contradict each other."""
    check_slots(data.cameras or ())
    data.action_space.check_fit(policy.action_dim, f"{CONFIG_FILE}: policy.action_dim")
    if policy.state_history:
        data.state_space.check_fit(policy.state_dim, f"{CONFIG_FILE}: policy.state_dim")
    for name in ("action_horizon", "state_history"):
        values = getattr(policy, name), getattr(data, name)
        if values[0] != values[1]:
            raise ValueError(f"{CONFIG_FILE}: policy.{name} is {values[0]}, data.{name} {values[1]}; make them equal")
    if policy.state_history not in (0, 1):
        got = f"state_history is {policy.state_history}"
        raise ValueError(
            f"{CONFIG_FILE}: {got}; an observation holds one measured state, so it must be 1, or 0 for none"
        )


def read_text(path: Path, name: str, parse: Callable[[str], Any]) -> Any:
    """A file of a policy directory as ``parse`` reads it; raises ValueError with its ``name``."""
    with explained(f"{name}: not readable: ", OSError, ValueError):
        return parse(strict.read_text(path))
