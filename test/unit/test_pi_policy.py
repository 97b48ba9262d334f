"""What the Pi policy promises: shared prefixes, masks, exact shortcuts, and no waiting at inference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from policy_helpers import EXPERT, HORIZON, JOINTS, pi_config, training_batch, vlm_config

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402
from torch_helpers import NothingWaits  # noqa: E402

from vla_ros.policies.modules.flow_loss import FlowDraws  # noqa: E402
from vla_ros.policies.modules.flow_matching import FlowInputs  # noqa: E402
from vla_ros.policies.modules.vlm_bridge.data_types import PolicySample, VLMInputs  # noqa: E402
from vla_ros.policies.pi.policy import PiPolicy  # noqa: E402
from vla_ros.policies.utils.transformers import apply_rotary, make_rotary, rms_norm  # noqa: E402


def make_policy(**changes: Any) -> PiPolicy:
    torch.manual_seed(0)
    policy = PiPolicy(pi_config(**changes))
    with torch.no_grad():  # modulations start at zero, which would hide mistakes in them
        for parameter in policy.action_expert.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return policy


def make_sample(policy: PiPolicy, with_answers: bool = True) -> PolicySample:
    return policy.unpack_batch(training_batch(policy.config, with_answers))


def make_draws(num_draws: int) -> FlowDraws:
    generator = torch.Generator().manual_seed(1)
    shape = (2, num_draws)
    return FlowDraws(
        torch.randn(*shape, HORIZON, len(JOINTS), generator=generator), torch.rand(shape, generator=generator)
    )


def test_many_draws_cost_one_prefix_and_give_the_mean_of_single_draws() -> None:
    policy, draws = make_policy(), make_draws(3)
    sample = make_sample(policy)
    together = policy.compute_loss(sample, draws).parts["flow_mse"]
    alone = [FlowDraws(draws.noise[:, i : i + 1], draws.time[:, i : i + 1]) for i in range(3)]
    single = torch.stack([policy.compute_loss(sample, draw).parts["flow_mse"] for draw in alone])
    torch.testing.assert_close(together, single.mean())


def test_the_total_is_flow_loss_plus_weighted_cross_entropy() -> None:
    policy = make_policy(ce_loss_weight=0.3)
    loss = policy.compute_loss(make_sample(policy), make_draws(1))
    torch.testing.assert_close(loss.total, loss.parts["flow_mse"] + 0.3 * loss.parts["ce_loss"])
    assert loss.parts["ce_loss"] > 0


def test_without_answers_the_cross_entropy_is_zero_and_the_flow_loss_the_same() -> None:
    policy, draws = make_policy(), make_draws(1)
    with_answers, without = (policy.compute_loss(make_sample(policy, answers), draws) for answers in (True, False))
    assert without.parts["ce_loss"] == 0
    torch.testing.assert_close(with_answers.parts["flow_mse"], without.parts["flow_mse"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"expert_only_use_register": False, "causal_mask_obs_register": False}])
def test_every_parameter_that_matters_gets_a_finite_gradient(changes: dict[str, Any]) -> None:
    policy = make_policy(**changes)
    policy.compute_loss(make_sample(policy), make_draws(2)).total.backward()
    without = {name for name, p in policy.named_parameters() if p.grad is None or not p.grad.isfinite().all()}
    assert not without


def test_a_detached_encoder_learns_from_the_cross_entropy_alone() -> None:
    policy = make_policy(detach_encoder_output=True, ce_loss_weight=0.0)
    policy.compute_loss(make_sample(policy), make_draws(1)).total.backward()
    embedding = policy.vlm_bridge.causal_model.model.language_model.embed_tokens.weight
    assert not policy.obs_registers.grad.any() and not embedding.grad.any()
    assert policy.action_in_proj.weight.grad.any()


def test_prepared_steps_equal_the_same_flow_times_given_directly() -> None:
    policy = make_policy().eval()
    sample = make_sample(policy, with_answers=False)
    noise = make_draws(1).noise
    with torch.inference_mode():
        prefix = policy.encode_prefix(sample.observation)
        prepared, plain = policy.prepare_suffix(prefix, policy.make_time_grid(5)), policy.prepare_suffix(prefix, None)
        for step in range(5):
            time = torch.full((2, 1), 1 - step / 5)
            torch.testing.assert_close(
                policy.predict_suffix(sample.observation.state, prepared, noise, step),
                policy.predict_suffix(sample.observation.state, plain, noise, time),
            )


@pytest.mark.parametrize("qk_norm", ["layernorm", "rmsnorm", "none"])
@pytest.mark.parametrize("rotary", [True, False])
@torch.inference_mode()
def test_packed_and_prepared_steps_equal_the_plain_ones(qk_norm: str, rotary: bool) -> None:
    policy = make_policy(action_expert_cfg=replace(EXPERT, qk_norm=qk_norm, rotary_self_attn=rotary)).eval()
    for parameter in policy.action_expert.parameters():  # else nothing is shifted, and norms have no weights yet
        torch.nn.init.normal_(parameter, std=0.2)
    sample, noise = make_sample(policy, with_answers=False), make_draws(2).noise
    prefix, state = policy.encode_prefix(sample.observation), sample.observation.state
    plain, times = policy.prepare_suffix(prefix, None), [torch.full((2, 2), 1 - step / 3) for step in range(3)]
    expected = [policy.predict_suffix(state, plain, noise, time) for time in times]
    policy.pack_weights()
    grid = policy.make_time_grid(3)
    assert grid.absorbed is not None and grid.turns is None  # on a CPU
    for each in (grid, policy.action_expert.turn_at_once(grid)):
        prepared = policy.prepare_suffix(prefix, each)
        for step in range(3):
            got = policy.predict_suffix(state, prepared, noise, step)
            torch.testing.assert_close(got, expected[step], atol=1e-5, rtol=0)


@pytest.mark.parametrize("changes", [{}, {"expert_only_use_register": False, "causal_mask_obs_register": False}])
def test_padding_changes_nothing(changes: dict[str, Any]) -> None:
    policy = make_policy(**changes).eval()
    sample = make_sample(policy, with_answers=False)
    inputs, extra = sample.observation.policy_input, 5
    prefix = inputs.prefix_mask.shape[1]
    padded = replace(
        inputs,
        input_ids=F.pad(inputs.input_ids, (extra, 0)),
        attention_mask=F.pad(inputs.attention_mask, (extra, 0)),
        prefix_mask=F.pad(inputs.prefix_mask, (extra, 0, extra, 0)) | torch.eye(prefix + extra, dtype=torch.bool),
        position_ids=F.pad(inputs.position_ids, (extra, 0), value=1),
    )
    noise = make_draws(1).noise[:, 0]
    with torch.inference_mode():
        expected = policy.sample_actions(sample.observation, 3, noise)
        got = policy.sample_actions(replace(sample.observation, policy_input=padded), 3, noise)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_computing_only_the_rows_that_are_read_changes_nothing() -> None:
    policy = make_policy().eval()
    inputs = make_sample(policy).observation.policy_input
    with torch.inference_mode():
        short = policy.vlm_bridge.encode(inputs, policy.obs_registers, 2, with_ce_loss=False).hidden_states
        full = policy.vlm_bridge.run(inputs, policy.obs_registers, 2, inputs.prefix_mask.shape[1])
    for got, expected in zip(short, full, strict=True):
        torch.testing.assert_close(got, expected[:, -3:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"expert_only_use_register": False}])
def test_packed_weights_give_the_same_and_keep_their_names_and_values(changes: dict[str, Any]) -> None:
    policy = make_policy(**changes).eval()
    sample, noise = make_sample(policy, with_answers=False), make_draws(1).noise[:, 0]
    weights = {name: value.clone() for name, value in policy.state_dict().items()}
    with torch.inference_mode():
        expected = policy.sample_actions(sample.observation, 3, noise)
        policy.pack_weights()
        got = policy.sample_actions(sample.observation, 3, noise)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert weights.keys() == policy.state_dict().keys()
    for name, value in policy.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_packing_holds_no_weight_twice() -> None:
    policy = make_policy()
    policy.pack_weights()
    attn = policy.action_expert.blocks[0].attn
    storages = {layer.weight.untyped_storage().data_ptr() for layer in (attn.q_proj, attn.k_proj, attn.v_proj)}
    assert len(storages) == 1


def test_the_guard_against_waiting_notices_it() -> None:
    with NothingWaits(), pytest.raises(AssertionError, match="_local_scalar_dense.default waits"):
        torch.ones(1).item()


@pytest.mark.parametrize("changes", [{}, {"expert_only_use_register": False, "zero_pos_id_for_obs_register": False}])
def test_nothing_waits_for_the_device_at_inference(changes: dict[str, Any]) -> None:
    policy = make_policy(**changes).eval()
    sample = make_sample(policy, with_answers=False)
    noise = make_draws(1).noise[:, 0]
    with torch.inference_mode():
        grid = policy.make_time_grid(3)
        policy.sample(FlowInputs(sample.observation, noise), grid)  # makes the constants of these shapes
        with NothingWaits():
            policy.sample(FlowInputs(sample.observation, noise), grid)


def test_training_works_after_an_inference_made_the_constants() -> None:
    policy = make_policy(vlm_config=vlm_config(merge=2))
    sample = make_sample(policy)
    with torch.inference_mode():
        policy.sample_actions(sample.observation, 2, make_draws(1).noise[:, 0])
    policy.compute_loss(sample, make_draws(1)).total.backward()


@pytest.mark.parametrize("qk_norm", ["layernorm", "rmsnorm", "none"])
def test_every_query_key_norm_and_the_layer_choice_run(qk_norm: str) -> None:
    for only_final in (True, False):
        expert = replace(EXPERT, qk_norm=qk_norm, only_attend_to_final_layer=only_final, rotary_self_attn=only_final)
        policy = make_policy(action_expert_cfg=expert, use_state=only_final, suffix_add_pos_emb=only_final)
        assert policy.compute_loss(make_sample(policy), make_draws(1)).total.isfinite()


def test_bfloat16_gives_nearly_the_same_actions() -> None:
    policy = make_policy().eval()
    sample, noise = make_sample(policy, with_answers=False), make_draws(1).noise[:, 0]
    with torch.inference_mode():
        expected = policy.sample_actions(sample.observation, 4, noise)
        got = policy.to(torch.bfloat16).sample_actions(sample.observation, 4, noise)
    assert (got - expected).abs().max() < 0.15 * expected.abs().max()


def test_vector_jacobian_products_pass_through_the_expert() -> None:
    policy = make_policy().eval()
    sample = make_sample(policy, with_answers=False)
    actions, direction = make_draws(2).noise.double().unbind(1)
    policy = policy.double()
    state = sample.observation.state.double()
    inputs = sample.observation
    with torch.no_grad():
        prepared = policy.prepare_suffix(policy.encode_prefix(inputs), policy.make_time_grid(4))

        def velocity(x: Tensor) -> Tensor:
            return policy.predict_suffix(state, prepared, x[:, None], 1)[:, 0]

        _, vjp = torch.func.vjp(velocity, actions)
        (product,) = vjp(torch.ones_like(actions))
        step = 1e-3
        difference = (velocity(actions + step * direction) - velocity(actions - step * direction)).sum() / (2 * step)
    torch.testing.assert_close((product * direction).sum(), difference, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("weighted", [True, False])
def test_gradients_of_the_short_rms_norm_are_those_of_autograd(weighted: bool) -> None:
    x = torch.randn(2, 3, 8, dtype=torch.float32, requires_grad=True)
    weight = torch.randn(8, requires_grad=True) if weighted else None
    inputs = (x, weight) if weight is not None else (x,)
    towards = torch.randn(2, 3, 8)
    got = torch.autograd.grad((rms_norm(x, weight, 1e-6) * towards).sum(), inputs)
    expected = torch.autograd.grad((F.rms_norm(x, (8,), weight, 1e-6) * towards).sum(), inputs)
    torch.testing.assert_close(got, expected)


def test_gradients_of_the_rotation_are_those_of_autograd() -> None:
    x = torch.randn(2, 5, 3, 8, requires_grad=True)
    rotary, towards = make_rotary(torch.rand(2, 5, 4)), torch.randn(2, 5, 3, 8)

    def plain(value: Tensor) -> Tensor:
        swapped = torch.cat((value[..., 4:], value[..., :4]), dim=-1)
        return value * rotary.cos + swapped * rotary.sin

    torch.testing.assert_close(apply_rotary(x, rotary), plain(x))
    got, expected = (torch.autograd.grad((f * towards).sum(), x) for f in (apply_rotary(x, rotary), plain(x)))
    torch.testing.assert_close(got, expected)


def test_inputs_share_memory_with_the_numpy_batch_on_cpu() -> None:
    batch = training_batch(pi_config()).policy_input
    assert VLMInputs.from_numpy(batch).input_ids.data_ptr() == batch.input_ids.ctypes.data
