"""The weights of a policy directory to go on from."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from vla_ros.policies.base import BasePolicy
from vla_ros.policies.config import PolicyConfig
from vla_ros.policies.files import WEIGHTS_FILE, open_policy
from vla_ros.policies.fill import build_policy


def policy_from(config: PolicyConfig, policy_dir: Path) -> BasePolicy:
    """The policy of ``config`` with the weights of a policy directory, as far as these can be made to fit.

    Raises ValueError for a directory that cannot be read, and weights of other names or shapes.
    """
    open_policy(policy_dir)
    policy = build_policy(config)
    weights = policy.adapt_weights(load_file(policy_dir / WEIGHTS_FILE))
    own = dict(policy.named_parameters())
    wrong = sorted(own.keys() ^ weights.keys()) or [n for n in own if own[n].shape != weights[n].shape]
    if wrong:
        raise ValueError(
            f"initial_policy {policy_dir}: weight {wrong[0]} doesn't fit the policy that is to be trained; expected "
            "the same policy group, but for action_horizon, which may be larger"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])
    return policy
