"""What lies beyond the end of an episode is learned by no family: neither in the sum of its loss nor in its count."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from sharded_families import make, sample_of  # noqa: E402

from vla_ros.policies.base import BasePolicy, LossTerm  # noqa: E402
from vla_ros.policies.modules.flow_loss import FlowDraws  # noqa: E402


def loss_of(policy: BasePolicy, sample: Any, draws: Any, num_known: int | None) -> dict[str, LossTerm]:
    known = None if num_known is None else np.array([num_known])
    cut = sample._replace(num_known=known) if hasattr(sample, "_replace") else replace(sample, num_known=known)
    with torch.no_grad():
        return dict(policy.compute_loss(cut, draws).terms)


def without_frozen(draws: Any) -> Any:
    if not isinstance(draws, FlowDraws) or draws.num_frozen is None:
        return draws
    return replace(draws, num_frozen=torch.zeros_like(draws.num_frozen))


@pytest.mark.parametrize("name", ["pi-qwen", "pi0", "smolvla", "act"])
def test_the_loss_is_of_the_actions_within_the_episode(name: str) -> None:
    policy, request = make(name)
    sample, drawn = sample_of(policy, request, 0)
    draws, horizon = without_frozen(drawn), policy.config.action_horizon
    term = "l1" if name == "act" else "flow_mse"
    num_draws = 1 if name == "act" else draws.noise.shape[1]
    found = [loss_of(policy, sample, draws, num)[term] for num in range(horizon + 1)]
    whole = loss_of(policy, sample, draws, None)[term]
    assert [each.num_values for each in found] == [
        num * num_draws * policy.config.action_dim for num in range(horizon + 1)
    ]
    assert float(found[0].sum) == 0.0 and whole.num_values == found[-1].num_values
    torch.testing.assert_close(found[-1].sum, whole.sum)
    assert 0 < float(found[1].sum) < float(whole.sum)


def test_frozen_actions_and_those_beyond_the_end_are_left_out_together() -> None:
    policy, request = make("pi-qwen")
    sample, draws = sample_of(policy, request, 0)
    num_draws, dim = draws.noise.shape[1], policy.config.action_dim
    frozen = replace(draws, num_frozen=torch.full((1, num_draws), 2))
    counts = [loss_of(policy, sample, frozen, num)["flow_mse"].num_values for num in (1, 2, 3, None)]
    horizon = policy.config.action_horizon
    assert counts == [0, 0, num_draws * dim, num_draws * (horizon - 2) * dim]


def test_act_never_sees_what_is_held_beyond_the_end() -> None:
    policy, request = make("act")
    sample, draws = sample_of(policy, request, 0)
    other = replace(sample, actions=sample.actions.clone())
    other.actions[:, 2:] += 1.0
    for term, value in loss_of(policy, sample, draws, 2).items():
        torch.testing.assert_close(value.sum, loss_of(policy, other, draws, 2)[term].sum)
    changed = loss_of(policy, other, draws, 3)["kl"].sum, loss_of(policy, sample, draws, 3)["kl"].sum
    assert not torch.allclose(*changed), "the style is that of the actions"
