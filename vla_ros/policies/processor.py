"""The host side of a policy directory: observation to request, actions to chunk. Imports no torch.

A policy directory holds ``policy.yaml``, ``model.safetensors``, ``norm_stats.json``, ``processor/tokenizer.json``,
``processor/processor.json`` and ``golden.safetensors``.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tokenizers import Tokenizer

from vla_ros.policies.config import DataConfig
from vla_ros.policies.golden import GoldenCase, preprocessing_drift, read_golden
from vla_ros.policies.modules.vlm_bridge.processor import ProcessorConfig, VLMProcessor
from vla_ros.policies.modules.vlm_bridge.registry import BACKBONES
from vla_ros.policies.pi.config import PiConfig
from vla_ros.strict import config_to_dict, parse_config
from vla_ros.transforms.chunking import guidance_weights
from vla_ros.transforms.normalize import FieldStats, Normalizer, load_stats, save_stats
from vla_ros.transforms.sample import PolicyRequest
from vla_ros.types import ActionChunk, ChunkShape, Continuation, Observation

CONFIG_FILE = "policy.yaml"
WEIGHTS_FILE = "model.safetensors"
STATS_FILE = "norm_stats.json"
TOKENIZER_FILE = "processor/tokenizer.json"
PROCESSOR_FILE = "processor/processor.json"
GOLDEN_FILE = "golden.safetensors"
POLICY_FILES = (CONFIG_FILE, WEIGHTS_FILE, STATS_FILE, TOKENIZER_FILE, PROCESSOR_FILE, GOLDEN_FILE)


@dataclass(frozen=True)
class PolicyFiles:
    """What a policy directory holds besides weights and golden case; keys of ``stats`` are ``state`` and ``action``."""

    policy: PiConfig
    data: DataConfig
    processor: ProcessorConfig
    tokenizer: Tokenizer
    stats: Mapping[str, FieldStats]

    def __post_init__(self) -> None:
        _check_sizes(self.policy, self.data)

    def make_processor(self) -> VLMProcessor:
        """The backbone's processor."""
        return make_processor(self.processor, self.policy, self.tokenizer, len(self.data.camera_names))


def make_processor(config: ProcessorConfig, policy: PiConfig, tokenizer: Tokenizer, num_cameras: int) -> VLMProcessor:
    """The processor of the policy's backbone; raises ValueError where its parts don't fit together."""
    return BACKBONES[policy.vlm_type].processor_class()(config, policy, tokenizer, num_cameras)


class PolicyProcessor:
    """Turns observations into requests and normalised actions into chunks. Not for use by two threads at once."""

    def __init__(self, files: PolicyFiles, digest: str) -> None:
        self.digest = digest
        self._data, self._policy = files.data, files.policy
        self._processor = files.make_processor()
        self._state = Normalizer(files.data.normalization, files.stats["state"])
        self._action = Normalizer(files.data.normalization, files.stats["action"])

    def bind(self, limits: Mapping[str, Sequence[float]]) -> None:
        """From now on the joints have these lower and upper ``limits``: those of the robot that is driven."""
        self._data = self._data.bind(limits)

    @property
    def joint_names(self) -> tuple[str, ...]:
        return self._data.joint_names

    @property
    def camera_names(self) -> tuple[str, ...]:
        return self._data.camera_names

    @property
    def action_horizon(self) -> int:
        return self._policy.action_horizon

    @property
    def action_dim(self) -> int:
        return self._policy.action_dim

    @property
    def chunk_dt_s(self) -> float:
        return self._data.chunk_dt_s

    @property
    def action_offset(self) -> float:
        return self._data.action_offset

    @property
    def chunk_shape(self) -> ChunkShape:
        return ChunkShape(self.action_horizon, self.chunk_dt_s, self.action_offset)

    @property
    def num_steps(self) -> int:
        return self._policy.num_steps

    def process(self, observation: Observation, continuation: Continuation | None = None) -> PolicyRequest:
        """The request for one observation; its noise depends on ``header_ns`` alone, so that a replay repeats it.

        With ``continuation`` it is guided, for real-time chunking.

        Raises ValueError for a missing camera, an image of another size or type, joints of another number or not
        finite, an empty task, or one that is too long.
        """
        missing = [name for name in self.camera_names if name not in observation.images]
        if missing:
            got = ", ".join(observation.images) or "none"
            raise ValueError(f"camera '{missing[0]}' is missing; the observation has {got}: name it in the robot file")
        joints = np.asarray(observation.joint_positions, np.float64)
        if joints.shape != (len(self.joint_names),) or not np.isfinite(joints).all():
            got = f"joint positions are {joints.tolist()}"
            expected = f"{len(self.joint_names)} finite numbers, one for each joint of the policy"
            raise ValueError(f"{got}; expected {expected}")
        images = [observation.images[name] for name in self.camera_names]
        request = PolicyRequest(
            stamp_ns=observation.stamp_ns,
            policy_input=self._processor.process(images, observation.task),
            state=self._state.normalize(self._data.state_space.encode(joints[None], joints)),
            noise=self._noise(observation.header_ns),
        )
        if continuation is None:
            return request
        weights = guidance_weights(self.action_horizon, continuation.num_executed, continuation.num_frozen)
        return self.guide(request, observation, continuation.positions, np.where(continuation.is_known, weights, 0.0))

    def requests_of_every_bucket(
        self, observation: Observation, with_guidance: bool = False
    ) -> tuple[PolicyRequest, ...]:
        """One request for each padded length, shortest first: ``observation`` with instructions that grow.

        ``with_guidance`` adds each of them once more, guided.
        """
        requests: dict[int, PolicyRequest] = {}
        for num_words in itertools.count(1):
            try:
                request = self.process(replace(observation, task=" ".join(["a"] * num_words)))
            except ValueError:  # beyond the largest bucket
                plain = tuple(requests.values())
                return (*plain, *map(self._guided, plain)) if with_guidance else plain
            requests.setdefault(len(request.policy_input.input_ids), request)
        raise AssertionError("a prompt outgrows every bucket in the end")

    def guide(
        self, request: PolicyRequest, observation: Observation, targets: np.ndarray, weights: np.ndarray
    ) -> PolicyRequest:
        """The request of ``observation``, drawn towards absolute joint targets [horizon, num_joints] at its due times.

        ``weights`` [horizon] are those of ``transforms.chunking``; targets of weight 0 may be anything.
        """
        joints = np.asarray(observation.joint_positions, np.float64)
        known = np.where(weights[:, None] > 0, targets, joints)
        actions = self._action.normalize(self._data.action_space.encode(known, joints))
        return replace(request, previous_actions=actions, guidance_weights=weights.astype(np.float32))

    def decode(self, actions: np.ndarray, observation: Observation) -> ActionChunk:
        """Absolute joint targets from normalised actions [horizon, action_dim] and the observation they answer.

        Raises ValueError for another shape or values that are not finite.
        """
        expected = (self.action_horizon, self.action_dim)
        if actions.shape != expected or not np.isfinite(actions).all():
            got = f"shape {actions.shape}" if actions.shape != expected else "values that are not finite"
            raise ValueError(f"actions have {got}; expected finite values of shape {expected}")
        joints = np.asarray(observation.joint_positions, np.float64)
        targets = self._data.action_space.decode(self._action.denormalize(actions), joints)
        return ActionChunk(observation.stamp_ns, self.chunk_dt_s, self.action_offset, targets)

    def _guided(self, request: PolicyRequest) -> PolicyRequest:
        """The same request, guided towards a chunk of zeros."""
        weights = np.ones(self.action_horizon, np.float32)
        return replace(request, previous_actions=np.zeros_like(request.noise), guidance_weights=weights)

    def _noise(self, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed % 2**64)
        return rng.standard_normal((self.action_horizon, self.action_dim), np.float32)


def load_processor(policy_dir: str | Path) -> PolicyProcessor:
    """The processor of a policy directory, after recomputing the preprocessing of its golden case.

    Raises ValueError, in one line that names the file, for a missing or damaged file, a key that doesn't exist, sizes
    that contradict each other, or preprocessing that drifted.
    """
    return open_policy(Path(policy_dir)).processor


@dataclass(frozen=True)
class OpenPolicy:
    """A policy directory as read: its files, its processor and its golden case; ``drift`` is one line where the
    preprocessing of that has changed, else empty."""

    files: PolicyFiles
    processor: PolicyProcessor
    golden: GoldenCase
    drift: str = ""


def open_policy(policy_dir: Path, refuse_drift: bool = True) -> OpenPolicy:
    """Read everything but the weights and check the preprocessing; errors as ``load_processor``."""
    if not policy_dir.is_dir():
        raise ValueError(f"policy directory {policy_dir} does not exist; give one that vla_ros train or import made")
    missing = [name for name in POLICY_FILES if not (policy_dir / name).is_file()]
    if missing:
        raise ValueError(f"policy directory {policy_dir}: file {missing[0]} is missing; restore it or export again")
    try:
        files = _read_files(policy_dir)
        processor = PolicyProcessor(files, digest_of(policy_dir))
        golden = read_golden(policy_dir / GOLDEN_FILE)
        drift = preprocessing_drift(golden, processor.process(golden.observation))
    except ValueError as error:
        raise ValueError(f"policy directory {policy_dir}: {error}") from error
    if drift and refuse_drift:
        raise ValueError(f"policy directory {policy_dir}: {drift}")
    return OpenPolicy(files, processor, golden, drift)


def write_files(policy_dir: Path, files: PolicyFiles) -> None:
    """Everything of a policy directory but weights and golden case."""
    (policy_dir / "processor").mkdir(parents=True, exist_ok=True)
    groups = {"policy": config_to_dict(files.policy), "data": config_to_dict(files.data)}
    (policy_dir / CONFIG_FILE).write_text(yaml.safe_dump(groups, sort_keys=False, width=120))
    save_stats(policy_dir / STATS_FILE, files.stats)
    files.tokenizer.save(str(policy_dir / TOKENIZER_FILE))
    (policy_dir / PROCESSOR_FILE).write_text(json.dumps(config_to_dict(files.processor), indent=1) + "\n")


def digest_of(policy_dir: Path) -> str:
    """SHA-256 over names and contents of the policy's files: equal where two nodes have the same policy."""
    digest = hashlib.sha256()
    for name in POLICY_FILES:
        with (policy_dir / name).open("rb") as file:
            digest.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _read_files(policy_dir: Path) -> PolicyFiles:
    document = _parse_text(policy_dir, CONFIG_FILE, yaml.safe_load)
    if not isinstance(document, dict) or set(document) != {"policy", "data"}:
        got = ", ".join(map(str, document)) if isinstance(document, dict) else type(document).__name__
        raise ValueError(f"{CONFIG_FILE}: has {got}; expected the two groups policy and data")
    policy = parse_config(PiConfig, document["policy"], f"{CONFIG_FILE}: policy")
    data = parse_config(DataConfig, document["data"], f"{CONFIG_FILE}: data")
    _check_sizes(policy, data)  # first, so that the sizes of the statistics are not blamed for it
    sizes = _parse_text(policy_dir, PROCESSOR_FILE, json.loads)
    try:
        tokenizer = Tokenizer.from_file(str(policy_dir / TOKENIZER_FILE))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"{TOKENIZER_FILE}: not readable: {' '.join(str(error).split())}") from error
    shapes = {
        "state": (policy.state_history, policy.state_dim),
        "action": (policy.action_horizon, policy.action_dim),
    }
    return PolicyFiles(
        policy=policy,
        data=data,
        processor=parse_config(ProcessorConfig, sizes, PROCESSOR_FILE),
        tokenizer=tokenizer,
        stats=load_stats(policy_dir / STATS_FILE, shapes),
    )


def _check_sizes(policy: PiConfig, data: DataConfig) -> None:
    data.action_space.check_fit(policy.action_dim, f"{CONFIG_FILE}: policy.action_dim")
    data.state_space.check_fit(policy.state_dim, f"{CONFIG_FILE}: policy.state_dim")
    for name in ("action_horizon", "state_history"):
        values = getattr(policy, name), getattr(data, name)
        if values[0] != values[1]:
            raise ValueError(f"{CONFIG_FILE}: policy.{name} is {values[0]}, data.{name} {values[1]}; make them equal")
    if policy.state_history != 1:
        got = f"state_history is {policy.state_history}"
        raise ValueError(f"{CONFIG_FILE}: {got}; an observation holds one measured state, so it must be 1")


def _parse_text(policy_dir: Path, name: str, parse: Any) -> Any:
    try:
        return parse((policy_dir / name).read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{name}: not readable: {' '.join(str(error).split())}") from error
