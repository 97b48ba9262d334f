"""What is measured: a policy by its name, a request for it, and the preprocessing that makes such a request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from vla_ros.policies.base import BasePolicy
from vla_ros.policies.config import PolicyConfig
from vla_ros.policies.directory import load_policy
from vla_ros.policies.families import read_policy_config
from vla_ros.policies.files import open_policy
from vla_ros.policies.fill import build_policy
from vla_ros.policies.trials import NUM_CAMERAS, published_policies, trials_of
from vla_ros.share import policy_dir, share_path
from vla_ros.transforms.sample import PolicyRequest


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


def open_subject(name: str, device: torch.device, dtype: torch.dtype) -> Subject:
    """A policy directory (or a packaged one by name) as it is, else a configuration by name with random weights.

    Raises ValueError where there is neither.
    """
    if _is_directory(name):
        return _from_directory(policy_dir(name), device, dtype)
    return random_subject(sizes_of(name), device, dtype)


@dataclass(frozen=True)
class Sizes:
    """A policy without its weights; ``image_size`` is (height, width) in pixels of what the model sees, None where that
    is what the policy was published for."""

    name: str
    config: PolicyConfig
    image_size: tuple[int, int] | None = None


def sizes_of(name: str) -> Sizes:
    """Those of what ``open_subject`` would open."""
    if _is_directory(name):
        folder = policy_dir(name)
        processor = open_policy(folder).processor
        return Sizes(folder.name, processor.config, processor.image_size)
    return Sizes(name, find_config(name))


def random_subject(sizes: Sizes, device: torch.device, dtype: torch.dtype, num_cameras: int = NUM_CAMERAS) -> Subject:
    """A policy with random weights, and a request with random pixels and text of about 80 tokens."""
    trials = trials_of(sizes.config)
    torch.manual_seed(0)
    with device:
        policy = build_policy(sizes.config)
    trials.randomize(policy)
    policy = policy.to(dtype).eval().requires_grad_(False)
    given = (sizes.config, num_cameras, sizes.image_size)
    return Subject(sizes.name, policy, trials.make_request(*given), trials.make_preprocessing(*given))


def find_config(name: str) -> PolicyConfig:
    """A published policy's configuration, or that of ``config/policy/NAME.yaml``; raises ValueError for another
    name."""
    published = published_policies()
    if name in published:
        return published[name]
    known = {path.stem: path for path in sorted(share_path("config/policy").glob("*.yaml"))}
    if name not in known:
        raise ValueError(
            f"policy '{name}' is no policy directory and no configuration; expected one of "
            f"{', '.join((*published, *known))} or a directory that vla_ros train or import made"
        )
    return read_policy_config(yaml.safe_load(known[name].read_text()), known[name].name)


def _is_directory(name: str) -> bool:
    """Whether a name is meant as a policy directory: a path, or a packaged policy."""
    if len(Path(name).parts) > 1:
        return True
    try:
        return name not in published_policies() and policy_dir(name).is_dir()
    except ValueError:
        return False


def _from_directory(folder: Path, device: torch.device, dtype: torch.dtype) -> Subject:
    opened = open_policy(folder)
    policy = load_policy(folder, device, dtype).policy
    golden = opened.golden
    return Subject(folder.name, policy, golden.request, lambda: opened.processor.process(golden.observation))
