"""Policies trained with the first actions of a chunk given: those are clean, the others are learned and sampled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from policy_helpers import HORIZON, JOINTS, observation, pi_config, policy_processor, rngs, training_batch

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from vla_ros.execution.runner import PolicyRunner  # noqa: E402
from vla_ros.policies.modules.action_expert.modulation import BlockModulation, Modulation, embed_time  # noqa: E402
from vla_ros.policies.modules.flow_loss import FlowDraws, FlowSettings  # noqa: E402
from vla_ros.policies.modules.guidance import Guidance  # noqa: E402
from vla_ros.policies.modules.vlm_bridge.data_types import PolicySample  # noqa: E402
from vla_ros.policies.pi.policy import PiPolicy  # noqa: E402

NUM_STEPS = 4


def make_policy(max_frozen_actions: int = 2, **changes: Any) -> PiPolicy:
    torch.manual_seed(0)
    policy = PiPolicy(pi_config(max_frozen_actions=max_frozen_actions, **changes)).eval()
    with torch.no_grad():  # modulations start at zero, which would hide mistakes in them
        for parameter in policy.action_expert.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return policy


def make_sample(policy: PiPolicy) -> PolicySample:
    return policy.unpack_batch(training_batch(policy.config, with_answers=False))


def make_draws(num_frozen: list[list[int]] | None) -> FlowDraws:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(2, 2, HORIZON, len(JOINTS), generator=generator)
    counts = None if num_frozen is None else torch.tensor(num_frozen)
    return FlowDraws(noise, torch.rand(2, 2, generator=generator), counts)


def velocity_of_rows(policy: PiPolicy, sample: PolicySample, actions: Tensor, times: Tensor) -> Tensor:
    """The velocity with a time embedding for each row of the suffix; ``times`` is [batch, draws, suffix]."""
    embedded = policy.time_mlp(embed_time(times, policy.config.action_expert_cfg.hidden_size))

    def modulate(linear: torch.nn.Linear) -> Modulation:
        shift, scale, gate = linear(torch.nn.functional.silu(embedded)).chunk(3, dim=-1)
        return Modulation(shift, 1 + scale, gate)

    modulations = tuple(
        BlockModulation(modulate(block.ada_mod1.modulation), modulate(block.ada_mod2.modulation))
        for block in policy.action_expert.blocks
    )
    prepared = policy.prepare_suffix(policy.encode_prefix(sample.observation), policy.make_time_grid(1))
    hidden = policy.action_expert(policy._embed_suffix(sample.observation.state, actions), prepared, modulations)
    return policy.action_out_proj(hidden[:, :, -HORIZON:])


@pytest.mark.parametrize("use_state", [True, False])
def test_the_loss_is_over_the_other_actions_with_time_0_for_the_frozen(use_state: bool) -> None:
    policy, counts = make_policy(use_state=use_state), [[0, 1], [2, 2]]
    sample, draws = make_sample(policy), make_draws(counts)
    is_frozen = torch.arange(HORIZON) < torch.tensor(counts)[..., None]
    actions = sample.actions[:, None].expand_as(draws.noise)
    times = torch.where(is_frozen, 0.0, draws.time[..., None])
    noisy = actions + times[..., None] * (draws.noise - actions)
    rows = torch.cat((draws.time[..., None], times), dim=-1) if use_state else times
    error = velocity_of_rows(policy, sample, noisy, rows) - (draws.noise - actions)
    torch.testing.assert_close(policy.compute_loss(sample, draws).parts["flow_mse"], error[~is_frozen].square().mean())


def test_without_frozen_actions_the_loss_is_the_plain_one() -> None:
    policy = make_policy()
    sample = make_sample(policy)
    none, zero = (policy.compute_loss(sample, make_draws(counts)) for counts in (None, [[0, 0], [0, 0]]))
    torch.testing.assert_close(zero.parts["flow_mse"], none.parts["flow_mse"])


def test_draws_are_the_same_with_and_without_and_freeze_each_number_of_actions() -> None:
    shape = HORIZON, len(JOINTS)
    drawn, plain = (FlowSettings(1, shape, 1.5, 1.0, max_frozen).draw(rngs(300)) for max_frozen in (2, 0))
    assert plain.num_frozen is None
    assert torch.equal(drawn.noise, plain.noise) and torch.equal(drawn.time, plain.time)
    assert (torch.bincount(drawn.num_frozen.flatten()) > 60).tolist() == [True] * 3


def test_every_parameter_of_the_expert_gets_a_gradient_through_frozen_actions() -> None:
    policy = make_policy()
    policy.compute_loss(make_sample(policy), make_draws([[0, 1], [2, 2]])).total.backward()
    parameters = [*policy.action_expert.parameters(), *policy.time_mlp.parameters()]
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in parameters)


def test_samples_keep_the_frozen_actions_and_follow_from_them() -> None:
    policy, noise = make_policy(), make_draws(None).noise[:, 0]
    sample = make_sample(policy)
    old = torch.randn(2, HORIZON, len(JOINTS), generator=torch.Generator().manual_seed(4))
    weights = torch.tensor([[1.0, 1.0, 0.5, 0.0], [1.0, 0.7, 0.2, 0.0]])
    is_frozen = weights == 1
    with torch.inference_mode():
        got = policy.sample_actions(sample.observation, NUM_STEPS, noise, guidance=Guidance(old, weights))
        x = torch.where(is_frozen[..., None], old, noise)
        for step in range(NUM_STEPS):
            time = torch.full((2, 1), 1 - step / NUM_STEPS)
            rows = torch.cat((time, torch.where(is_frozen, 0.0, time)), dim=1)[:, None]
            velocity = velocity_of_rows(policy, sample, x[:, None], rows)[:, 0]
            x = torch.where(is_frozen[..., None], old, x - velocity / NUM_STEPS)
        policy.pack_weights()
        packed = policy.sample_actions(sample.observation, NUM_STEPS, noise, guidance=Guidance(old, weights))
    assert torch.equal(got[is_frozen], old[is_frozen])
    torch.testing.assert_close(got, x, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(packed, x, rtol=1e-4, atol=1e-4)


def test_the_runner_takes_no_gradient_where_the_policy_knows_frozen_actions(monkeypatch) -> None:
    policy = make_policy()
    processor = policy_processor(policy.config)
    monkeypatch.delattr(torch.func, "vjp")
    request = processor.process(observation())
    old, weights = np.ones_like(request.noise), np.array([1, 1, 0.5, 0], np.float32)
    runner = PolicyRunner(policy, torch.device("cpu"))
    plain = runner.run(request).actions
    actions = runner.run(replace(request, previous_actions=old, guidance_weights=weights)).actions
    np.testing.assert_array_equal(actions[:2], old[:2])
    assert np.abs(actions[2:] - plain[2:]).max() > 1e-3


def test_plain_samples_do_not_depend_on_whether_the_policy_knows_frozen_actions() -> None:
    noise = make_draws(None).noise[:, 0]
    policies = make_policy(0), make_policy(2)
    with torch.inference_mode():
        without, with_frozen = (p.sample_actions(make_sample(p).observation, NUM_STEPS, noise) for p in policies)
    assert torch.equal(without, with_frozen)


@pytest.mark.parametrize("value", [-1, HORIZON])
def test_at_least_one_action_is_left_to_learn(value: int) -> None:
    with pytest.raises(ValueError, match=f"policy.max_frozen_actions is {value}; expected at least 0 and below"):
        pi_config(max_frozen_actions=value)
