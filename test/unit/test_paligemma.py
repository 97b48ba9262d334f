"""The device side of PaliGemma 1 and 2, against transformers' own forward pass; the policy built on them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from paligemma_helpers import KINDS, TOLERANCE, VOCAB_SIZE, paligemma_config, training_batch, vlm_config
from policy_helpers import HORIZON, JOINTS

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402
from torch_helpers import NothingWaits  # noqa: E402

from vla_ros.policies.modules.flow_loss import FlowDraws  # noqa: E402
from vla_ros.policies.modules.flow_matching import FlowInputs  # noqa: E402
from vla_ros.policies.modules.layers.pixels import normalize_patches  # noqa: E402
from vla_ros.policies.modules.vlm_bridge.data_types import PolicySample, VLMInputs  # noqa: E402
from vla_ros.policies.modules.vlm_bridge.paligemma.bridge import PaliGemmaBridge, build_config  # noqa: E402
from vla_ros.policies.pi.config import PiConfig  # noqa: E402
from vla_ros.policies.pi.policy import PiPolicy  # noqa: E402


def policy_inputs(config: PiConfig) -> VLMInputs:
    inputs = VLMInputs.from_numpy(training_batch(config).policy_input)
    assert not inputs.attention_mask.all()  # padding is part of what is compared
    return inputs


def randomize(module: torch.nn.Module) -> None:
    """Norms, biases and modulations start at constants, which would hide mistakes in them."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1 or not parameter.any():
                parameter.add_(0.1 * torch.randn_like(parameter))


def make_bridge(config: PiConfig) -> PaliGemmaBridge:
    torch.manual_seed(0)
    bridge = PaliGemmaBridge(config).eval()
    randomize(bridge)
    bridge.causal_model.set_attn_implementation("eager")  # what transformers' own forward then does
    return bridge


def make_policy(kind: str, **changes: Any) -> PiPolicy:
    torch.manual_seed(0)
    policy = PiPolicy(paligemma_config(kind, **changes)).eval()
    randomize(policy)
    return policy


def make_sample(policy: PiPolicy, with_answers: bool = False) -> PolicySample:
    return policy.unpack_batch(training_batch(policy.config, with_answers))


def make_noise() -> Tensor:
    return torch.randn(2, HORIZON, len(JOINTS), generator=torch.Generator().manual_seed(1))


def additive(mask: Tensor) -> Tensor:
    """[batch, rows, columns] as transformers' eager attention adds it."""
    return torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)[:, None]


def images_of(inputs: VLMInputs, config: PiConfig) -> Tensor:
    """[images, 3, height, width], normalised."""
    patches = normalize_patches(inputs.pixel_values, config.image_mean, config.image_std)
    return patches.reshape(-1, 4, 4, 3, 4, 4).permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, 16, 16)


@pytest.mark.parametrize("kind", KINDS)
def test_token_states_and_cross_entropy_equal_transformers_own_forward(kind: str) -> None:
    config = paligemma_config(kind)
    bridge, inputs = make_bridge(config), policy_inputs(config)
    seq, valid = inputs.input_ids.shape[1], inputs.attention_mask
    mask = additive(inputs.prefix_mask[:, :seq, :seq])
    registers = 0.2 * torch.randn(config.num_obs_registers, bridge.hidden_size)
    with torch.no_grad():
        expected = bridge.causal_model(
            input_ids=inputs.input_ids,
            pixel_values=images_of(inputs, config),
            attention_mask=mask,
            position_ids=inputs.position_ids[:, 0, :seq],
            output_hidden_states=True,
        )
        got = bridge.final_states(inputs, registers)[:, :seq]
        ce_loss = bridge.encode(inputs, registers, 1, with_ce_loss=True).ce_loss
    assert worst(got[valid], expected.hidden_states[-1][valid]) <= TOLERANCE
    assert inputs.target_ids is not None
    logits, text = bridge.causal_model.lm_head(expected.hidden_states[-1]), bridge.language_model.config
    if cap := getattr(text, "final_logit_softcapping", None):  # transformers 5.17 leaves this out of PaliGemma 2
        logits = torch.tanh(logits / cap) * cap
    reference = F.cross_entropy(logits[:, :-1].flatten(0, 1), inputs.target_ids[:, 1:].flatten())
    np.testing.assert_allclose(ce_loss.mean.item(), reference.item(), atol=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("causal", [True, False])
def test_every_recorded_layer_equals_that_of_transformers_with_registers_too(kind: str, causal: bool) -> None:
    config = paligemma_config(kind, causal_mask_obs_register=causal, zero_pos_id_for_obs_register=not causal)
    bridge, inputs = make_bridge(config), policy_inputs(config)
    model = bridge.causal_model.model
    registers = 0.2 * torch.randn(config.num_obs_registers, bridge.hidden_size)
    valid = F.pad(inputs.attention_mask, (0, config.num_obs_registers), value=True)
    mask = additive(inputs.prefix_mask)
    with torch.no_grad():
        features = model.get_image_features(images_of(inputs, config)).pooler_output
        tokens = model.language_model.embed_tokens(inputs.input_ids)
        is_image = (inputs.input_ids == bridge.image_token_id)[..., None]
        scaled = registers.expand(2, -1, -1) * bridge.hidden_size**0.5
        expected = model.language_model(
            inputs_embeds=torch.cat((tokens.masked_scatter(is_image, features), scaled), dim=1),
            attention_mask=mask if kind == "gemma" else {"full_attention": mask, "sliding_attention": mask},
            position_ids=inputs.position_ids[:, 0],
            output_hidden_states=True,
        ).hidden_states
        got = bridge.run(inputs, registers, 3, valid.shape[1])
    for state, reference in zip((*got[:2], bridge.final_norm(got[2])), expected[1:], strict=True):
        assert worst(state[valid], reference[valid]) <= TOLERANCE


def test_image_ids_beyond_the_embeddings_are_embedded_by_their_features_alone() -> None:
    beyond, within = vlm_config(vocab_size=VOCAB_SIZE - 1), vlm_config()
    assert beyond["image_token_index"] == VOCAB_SIZE - 1
    bridge = make_bridge(paligemma_config(document=within))
    weights = {
        name: value[: VOCAB_SIZE - 1] if value.shape[0] == VOCAB_SIZE else value
        for name, value in bridge.state_dict().items()
    }
    smaller = make_bridge(paligemma_config(document=beyond))
    smaller.load_state_dict(weights)
    registers = torch.randn(3, bridge.hidden_size)
    with torch.no_grad():
        got, expected = (x.final_states(policy_inputs(x.config), registers) for x in (smaller, bridge))
    assert torch.equal(got, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_ready_patches_give_the_same_as_uint8_ones(kind: str) -> None:
    config = paligemma_config(kind)
    bridge, inputs = make_bridge(config), policy_inputs(config)
    ready = normalize_patches(inputs.pixel_values, config.image_mean, config.image_std)
    registers = torch.randn(3, bridge.hidden_size)
    with torch.no_grad():
        got = bridge.final_states(replace(inputs, pixel_values=ready), registers)
        assert worst(got, bridge.final_states(inputs, registers)) <= TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("changes", [{}, {"expert_only_use_register": False}])
def test_packed_weights_give_the_same_and_keep_their_names_and_values(kind: str, changes: dict[str, Any]) -> None:
    policy = make_policy(kind, **changes)
    sample, noise = make_sample(policy), make_noise()
    weights = {name: value.clone() for name, value in policy.state_dict().items()}
    with torch.inference_mode():
        expected = policy.sample_actions(sample.observation, 3, noise)
        policy.pack_weights()
        got = policy.sample_actions(sample.observation, 3, noise)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=TOLERANCE)
    assert weights.keys() == policy.state_dict().keys()
    for name, value in policy.state_dict().items():
        assert torch.equal(value, weights[name]), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("packed", [False, True])
def test_nothing_waits_for_the_device_at_inference(kind: str, packed: bool) -> None:
    policy = make_policy(kind)
    sample, noise = make_sample(policy), make_noise()
    if packed:
        policy.pack_weights()
    with torch.inference_mode():
        grid = policy.make_time_grid(3)
        policy.sample(FlowInputs(sample.observation, noise), grid)  # makes the constants of these shapes
        with NothingWaits():
            policy.sample(FlowInputs(sample.observation, noise), grid)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_that_matters_gets_a_finite_gradient(kind: str) -> None:
    policy = make_policy(kind)
    draws = FlowDraws(make_noise()[:, None], torch.tensor([[0.3], [0.8]]))
    policy.compute_loss(make_sample(policy, with_answers=True), draws).total.backward()
    without = {name for name, p in policy.named_parameters() if p.grad is None or not p.grad.isfinite().all()}
    assert not without


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("changes", [{}, {"expert_only_use_register": False, "causal_mask_obs_register": False}])
def test_padding_and_rows_that_nobody_reads_change_nothing(kind: str, changes: dict[str, Any]) -> None:
    policy = make_policy(kind, **changes)
    sample, noise, extra = make_sample(policy), make_noise(), 5
    inputs = sample.observation.policy_input
    seq, prefix = inputs.input_ids.shape[1], inputs.prefix_mask.shape[1]
    mask = torch.eye(prefix + extra, dtype=torch.bool).repeat(2, 1, 1)
    kept = torch.cat((torch.arange(seq), torch.arange(seq + extra, prefix + extra)))
    mask[:, kept[:, None], kept] = inputs.prefix_mask
    positions = torch.full((2, 1, prefix + extra), 7)
    positions[:, :, kept] = inputs.position_ids
    padded = replace(
        inputs,
        input_ids=F.pad(inputs.input_ids, (0, extra), value=9),
        attention_mask=F.pad(inputs.attention_mask, (0, extra)),
        prefix_mask=mask,
        position_ids=positions,
    )
    with torch.inference_mode():
        expected = policy.sample_actions(sample.observation, 3, noise)
        got = policy.sample_actions(replace(sample.observation, policy_input=padded), 3, noise)
        short = policy.vlm_bridge.encode(inputs, policy.obs_registers, 2, with_ce_loss=False).hidden_states
        full = policy.vlm_bridge.run(inputs, policy.obs_registers, 2, prefix)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=TOLERANCE)
    for state, reference in zip(short, full, strict=True):
        torch.testing.assert_close(state, reference[:, -state.shape[1] :], rtol=1e-4, atol=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_gives_nearly_the_same_actions(kind: str) -> None:
    policy = make_policy(kind)
    sample, noise = make_sample(policy), make_noise()
    with torch.inference_mode():
        expected = policy.sample_actions(sample.observation, 4, noise)
        got = policy.to(torch.bfloat16).sample_actions(sample.observation, 4, noise)
    assert 0 < (got - expected).abs().max() < 0.15 * expected.abs().max()


def test_every_name_and_default_of_released_configurations_is_read() -> None:
    document = vlm_config()
    del document["vision_config"]["image_size"]
    document["image_token_id"] = document.pop("image_token_index")
    config = build_config(document)
    assert config.vision_config.image_size == 224 and config.image_token_id == VOCAB_SIZE - 1


def test_a_configuration_that_is_not_computed_here_is_refused() -> None:
    with pytest.raises(ValueError, match="model_type is 'llama'; expected gemma or gemma2"):
        build_config(vlm_config("llama"))
    with pytest.raises(ValueError, match="text_config.model_type is None"):
        build_config({})
    with pytest.raises(ValueError, match="projection_dim is 41, text_config.hidden_size 40; make them equal"):
        build_config(vlm_config() | {"projection_dim": 41})
    with pytest.raises(ValueError, match="policy.vlm_config.text_config: unknown key 'depth'"):
        build_config(vlm_config(depth=3))
    with pytest.raises(ValueError, match="rope_type is 'linear'; only 'default' is computed"):
        build_config(vlm_config(rope_scaling={"rope_type": "linear", "factor": 2.0}))


def worst(got: Tensor, expected: Tensor) -> float:
    return (got - expected).abs().max().item()
