"""What is measured: a policy by its name, a request for it, and the preprocessing that makes such a request."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from vla_ros.policies.base import BasePolicy
from vla_ros.policies.config import PolicyConfig
from vla_ros.policies.directory import load_policy
from vla_ros.policies.families import family_of, find_policy
from vla_ros.policies.files import open_policy
from vla_ros.policies.fill import build_on, build_on_meta, build_policy
from vla_ros.policies.trials import NUM_CAMERAS
from vla_ros.transforms.sample import PolicyRequest

ROOM = 0.15  # of the weights, for what is laid out once more and what an inference makes


@dataclass(frozen=True)
class Subject:
    """``policy`` is on its device, not yet packed; ``preprocess`` turns camera images and a task into a policy input,
    and is None where the processor of a backbone cannot be made up."""

    name: str
    policy: BasePolicy
    request: PolicyRequest
    preprocess: Callable[[], object] | None

    @property
    def config(self) -> PolicyConfig:
        return self.policy.config

    @property
    def dtype(self) -> torch.dtype:
        return next(self.policy.parameters()).dtype


def open_subject(name: str, device: torch.device, dtype: torch.dtype) -> Subject:
    """A policy directory (or a packaged one by name) as it is, else a configuration by name with random weights.

    Raises ValueError where there is neither.
    """
    found = find_policy(name)
    if not isinstance(found, Path):
        return random_subject(Sizes(name, found), device, dtype)
    opened = open_policy(found)
    if not opened.processor.config.runs_here:
        got = f"{name} is computed by {opened.processor.config.waits_for}"
        raise ValueError(f"{got}; measure it there, and the way there by the stages on /diagnostics")
    policy, golden = load_policy(found, device, dtype).policy, opened.golden
    return Subject(found.name, policy, golden.request, lambda: opened.processor.process(golden.observation))


@dataclass(frozen=True)
class Sizes:
    """A policy without its weights; ``image_size`` is (height, width) in pixels of what the model sees, None where that
    is what the policy was published for."""

    name: str
    config: PolicyConfig
    image_size: tuple[int, int] | None = None


def sizes_of(name: str) -> Sizes:
    """Those of what ``open_subject`` would open."""
    found = find_policy(name)
    if not isinstance(found, Path):
        return Sizes(name, found)
    processor = open_policy(found).processor
    return Sizes(found.name, processor.config, processor.image_size)


def random_subject(sizes: Sizes, device: torch.device, dtype: torch.dtype, num_cameras: int = NUM_CAMERAS) -> Subject:
    """A policy with random weights, and a request with random pixels and text of about 80 tokens."""
    trials, policy = family_of(sizes.config).make_trials(), random_policy(sizes.config, device, dtype)
    given = (sizes.config, num_cameras, sizes.image_size)
    return Subject(sizes.name, policy, trials.make_request(*given), trials.make_preprocessing(*given))


def random_policy(config: PolicyConfig, device: torch.device, dtype: torch.dtype, num_copies: int = 1) -> BasePolicy:
    """The same weights each time. Raises ValueError where ``num_copies`` of them don't fit into the memory that is
    free."""
    num_parameters = sum(parameter.numel() for parameter in build_on_meta(config, "its configuration").parameters())
    needed, free = (1 + ROOM) * num_copies * num_parameters * dtype.itemsize, free_bytes(device)
    if needed > free:
        got = f"{num_parameters / 1e6:.0f} M parameters need {needed / 1e9:.1f} GB of memory"
        raise ValueError(f"{got}, of which {free / 1e9:.1f} are free; end other programs, or give a smaller policy")
    torch.manual_seed(0)
    policy = build_on(device, dtype, lambda: build_policy(config))
    family_of(config).make_trials().randomize(policy)
    return policy.to(dtype).requires_grad_(False)  # some weights have a type of their own


def free_bytes(device: torch.device) -> float:
    """How much memory of the device can be had; infinite where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", meminfo.read_text() if meminfo.exists() else "", re.MULTILINE)
    return 1024 * int(found[1]) if found else math.inf
