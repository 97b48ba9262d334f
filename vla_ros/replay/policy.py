"""A policy as a replay runs it: the processor of the policy node, the runner of the model node."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from vla_ros.execution.runner import PolicyRunner
from vla_ros.policies.directory import load_policy
from vla_ros.policies.processor import PolicyProcessor
from vla_ros.replay.offline import Infer


@dataclass(frozen=True)
class ReplayPolicy:
    """``name`` is what a report calls it; ``drift`` is one line where its golden case no longer holds."""

    name: str
    processor: PolicyProcessor
    infer: Infer
    drift: str = ""


def load_replay_policy(name: str, policy_dir: Path, device: torch.device) -> ReplayPolicy:
    """A policy that drifted is replayed too: that is how it shows what it does. Raises ValueError as ``load_policy``
    does."""
    loaded = load_policy(policy_dir, device, refuse_drift=False)
    runner = PolicyRunner(loaded.policy, device)
    return ReplayPolicy(name, loaded.processor, lambda request: runner.run(request).actions, loaded.drift)
