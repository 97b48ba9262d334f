"""The SmolVLM 2 bridge against transformers' own forward pass, and what it does beside."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from policy_helpers import HORIZON, JOINTS, rngs
from smolvlm_helpers import make_batch, make_images, smol_config, vlm_config

from vla_ros.policies.pi.config import PiConfig

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402
from torch_helpers import NothingWaits  # noqa: E402
from transformers.models.smolvlm.modeling_smolvlm import SmolVLMVisionEmbeddings  # noqa: E402

from vla_ros.policies.modules.flow_matching import FlowInputs  # noqa: E402
from vla_ros.policies.modules.layers.pixels import normalize_patches  # noqa: E402
from vla_ros.policies.modules.vlm_bridge.data_types import (  # noqa: E402
    PolicyObservation,
    PolicySample,
    VLMInputs,  # noqa: E402
)
from vla_ros.policies.modules.vlm_bridge.smolvlm.bridge import (  # noqa: E402  # noqa: E402
    SmolVLMBridge,
    build_config,
    position_rows,
    rounds_positions_down,
)
from vla_ros.policies.pi.policy import PiPolicy  # noqa: E402

TOLERANCE = 1e-5
CPU = torch.device("cpu")


def make_bridge(config: PiConfig) -> SmolVLMBridge:
    torch.manual_seed(0)
    return SmolVLMBridge(config).eval()


def make_policy(**changes: Any) -> PiPolicy:
    torch.manual_seed(0)
    policy = PiPolicy(smol_config(**changes)).eval()
    with torch.no_grad():  # modulations start at zero, which would hide mistakes in them
        for parameter in policy.action_expert.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return policy


def make_observation(policy: PiPolicy, answers: tuple[str, str] | None = None) -> PolicyObservation:
    inputs = VLMInputs.from_numpy(make_batch(policy.config, answers))
    return PolicyObservation(inputs, torch.zeros(2, 1, len(JOINTS)))


@pytest.mark.parametrize(("image_size", "scale"), [(24, 2), (24, 3), (24, 1), (26, 3)])
def test_every_layer_equals_transformers_own_forward(image_size: int, scale: int) -> None:
    config = smol_config(vlm_config(image_size, scale))
    bridge = make_bridge(config)
    inputs = VLMInputs.from_numpy(make_batch(config))
    registers = torch.randn(config.num_obs_registers, bridge.hidden_size)
    valid, seq = inputs.attention_mask, inputs.input_ids.shape[1]
    with torch.no_grad():
        *below, last = bridge.run(inputs, registers, 3, seq + config.num_obs_registers)
        expected = transformers_forward(bridge, inputs)
        got = (*below, bridge.final_norm(last))
        ce_loss = bridge.encode(inputs, registers, 1, with_ce_loss=True).ce_loss
        logits = bridge.causal_model.lm_head(expected[-1])[:, :-1]
    for state, reference in zip(got, expected, strict=True):
        assert (state[:, :seq][valid] - reference[valid]).abs().max() <= TOLERANCE
    assert inputs.target_ids is not None
    reference = torch.nn.functional.cross_entropy(logits.flatten(0, 1), inputs.target_ids[:, 1:].flatten())
    np.testing.assert_allclose(ce_loss.mean.item(), reference.item(), atol=TOLERANCE)


def transformers_forward(bridge: SmolVLMBridge, inputs: VLMInputs) -> tuple[Tensor, ...]:
    """The states after each text layer, the last after the final norm."""
    pixels = (torch.from_numpy(make_images(bridge.config)).permute(0, 1, 4, 2, 3) / 255 - 0.5) / 0.5
    bridge.causal_model.set_attn_implementation("eager")
    outputs = bridge.causal_model.model(
        input_ids=inputs.input_ids,
        attention_mask=inputs.attention_mask.long(),
        position_ids=inputs.position_ids[:, 0, : inputs.input_ids.shape[1]],
        pixel_values=pixels,
        output_hidden_states=True,
    )
    return outputs.hidden_states[1:]


def test_ready_patches_give_what_uint8_patches_give() -> None:
    config = smol_config()
    bridge, inputs = make_bridge(config), VLMInputs.from_numpy(make_batch(config))
    registers = torch.randn(config.num_obs_registers, bridge.hidden_size)
    ready = replace(inputs, pixel_values=normalize_patches(inputs.pixel_values, config.image_mean, config.image_std))
    with torch.no_grad():
        expected, got = (bridge.final_states(given, registers) for given in (inputs, ready))
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("sides", [range(1, 33), range(33, 65)])
def test_learned_positions_are_looked_up_as_transformers_does(sides: range) -> None:
    for side in sides:
        config = build_config(vlm_config(image_size=side)).vision_config
        config.patch_size, config.hidden_size = 1, 1
        embeddings = SmolVLMVisionEmbeddings(config)
        with torch.no_grad():
            embeddings.patch_embedding.weight.zero_()
            embeddings.patch_embedding.bias.zero_()
            embeddings.position_embedding.weight[:, 0] = torch.arange(side * side)
            whole = torch.ones(1, side, side, dtype=torch.bool)
            expected = embeddings(torch.zeros(1, 3, side, side), whole)[0, :, 0].long()
        assert torch.equal(position_rows(side, False, CPU), expected), f"{side} patches a side"


@pytest.mark.parametrize("side", [14, 16, 27, 32])
def test_published_sizes_use_every_learned_position_in_order(side: int) -> None:
    assert torch.equal(position_rows(side, False, CPU), torch.arange(side * side))


def test_a_release_of_transformers_4_55_to_4_57_looks_up_the_row_and_column_before() -> None:
    axis = torch.tensor([0, 0, 1, 2])
    assert torch.equal(position_rows(4, True, CPU), (axis[:, None] * 4 + axis).flatten())
    assert all(rounds_positions_down({"transformers_version": version}) for version in ("4.55.0", "4.56.2", "4.57.6"))
    others = ({}, *({"transformers_version": version} for version in ("4.47.1", "4.54.1", "4.5.0", "5.0.0", "5.55.1")))
    assert not any(map(rounds_positions_down, others))
    config = smol_config()
    old = smol_config(vlm_config() | {"transformers_version": "4.57.1"})
    inputs, registers = VLMInputs.from_numpy(make_batch(config)), torch.zeros(config.num_obs_registers, 32)
    with torch.no_grad():
        new_states, old_states = (make_bridge(given).final_states(inputs, registers) for given in (config, old))
    assert (new_states - old_states).abs().max() > 0.1


def test_packed_weights_give_the_same_and_keep_their_names_and_values() -> None:
    policy = make_policy()
    given, noise = make_observation(policy), torch.randn(2, HORIZON, len(JOINTS))
    weights = {name: value.clone() for name, value in policy.state_dict().items()}
    with torch.inference_mode():
        expected = policy.sample_actions(given, 3, noise)
        policy.pack_weights()
        got = policy.sample_actions(given, 3, noise)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert weights.keys() == policy.state_dict().keys()
    assert all(torch.equal(value, weights[name]) for name, value in policy.state_dict().items())
    attn = policy.vlm_bridge.causal_model.model.vision_model.encoder.layers[0].self_attn
    assert len({part.weight.untyped_storage().data_ptr() for part in (attn.q_proj, attn.k_proj, attn.v_proj)}) == 1


@pytest.mark.parametrize("changes", [{}, {"expert_only_use_register": False, "zero_pos_id_for_obs_register": False}])
def test_nothing_waits_for_the_device_at_inference(changes: dict[str, Any]) -> None:
    policy = make_policy(**changes)
    given, noise = make_observation(policy), torch.randn(2, HORIZON, len(JOINTS))
    with torch.inference_mode():
        grid = policy.make_time_grid(3)
        policy.sample(FlowInputs(given, noise), grid)  # makes the constants of these shapes
        with NothingWaits():
            policy.sample(FlowInputs(given, noise), grid)


def test_computing_only_the_rows_that_are_read_changes_nothing() -> None:
    policy = make_policy()
    inputs = make_observation(policy).policy_input
    with torch.inference_mode():
        short = policy.vlm_bridge.encode(inputs, policy.obs_registers, 2, with_ce_loss=False).hidden_states
        full = policy.vlm_bridge.run(inputs, policy.obs_registers, 2, inputs.prefix_mask.shape[1])
    for got, expected in zip(short, full, strict=True):
        torch.testing.assert_close(got, expected[:, -3:], rtol=1e-4, atol=1e-5)


def test_every_parameter_gets_a_finite_gradient_after_an_inference_made_the_constants() -> None:
    policy = make_policy()
    given, actions = make_observation(policy, ("red", "blue one")), torch.randn(2, HORIZON, len(JOINTS))
    with torch.inference_mode():
        policy.sample_actions(given, 2, actions)
    policy.compute_loss(PolicySample(given, actions), policy.draw(rngs(2))).total.backward()
    without = {name for name, p in policy.named_parameters() if p.grad is None or not p.grad.isfinite().all()}
    assert not without


def test_a_vlm_config_of_another_architecture_is_refused() -> None:
    document = vlm_config()
    with pytest.raises(ValueError, match="policy.vlm_config: unknown key 'spatial_merge_size'"):
        build_config(document | {"spatial_merge_size": 2})
    with pytest.raises(ValueError, match="text_config.model_type is 'qwen2'; SmolVLM has 'llama'"):
        build_config(document | {"text_config": document["text_config"] | {"model_type": "qwen2"}})
    scaled = {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    with pytest.raises(ValueError, match="rope_type is 'linear'; only 'default' is computed here"):
        build_config(document | {"text_config": document["text_config"] | scaled})


def test_the_published_config_json_is_taken_with_all_its_keys() -> None:
    # HuggingFaceTB/SmolVLM2-500M-Video-Instruct
    text = {
        "_flash_attn_2_enabled": True,
        "_name_or_path": "None",
        "architectures": ["VLlama3ForCausalLM"],
        "head_dim": 64,
        "hidden_size": 960,
        "intermediate_size": 2560,
        "is_llama_config": True,
        "max_position_embeddings": 8192,
        "model_type": "llama",
        "neftune_noise_alpha": 0.0,
        "num_attention_heads": 15,
        "num_hidden_layers": 32,
        "num_key_value_heads": 5,
        "pad_token_id": 2,
        "perceiver_config": {"model_type": "vllama3", "qk_layer_norms_perceiver": False},
        "pixel_shuffle_factor": 4,
        "qk_layer_norms": False,
        "rms_norm_eps": 1e-05,
        "rope_interleaved": False,
        "rope_theta": 100000,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.46.0",
        "use_resampler": False,
        "vocab_size": 49280,
    }
    vision = {
        "hidden_size": 768,
        "image_size": 512,
        "max_image_size": {"longest_edge": 512},
        "model_type": "smolvlm_vision",
        "num_attention_heads": 12,
        "patch_size": 16,
        "size": {"longest_edge": 2048},
        "tie_word_embeddings": False,
        "use_base_siglip": False,
    }
    config = build_config(
        {
            "architectures": ["SmolVLMForConditionalGeneration"],
            "image_token_id": 49190,
            "model_type": "smolvlm",
            "pad_token_id": 128002,
            "scale_factor": 4,
            "text_config": text,
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
            "transformers_version": "4.47.1",
            "use_cache": False,
            "use_reentrant_checkpointing": False,
            "vision_config": vision,
            "vocab_size": 49280,
        }
    )
    assert (config.text_config.rope_parameters["rope_theta"], config.text_config.num_hidden_layers) == (100000, 32)
    assert (config.vision_config.num_hidden_layers, config.vision_config.intermediate_size) == (12, 3072)
