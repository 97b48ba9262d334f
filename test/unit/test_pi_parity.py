"""The Pi policy with Qwen3-VL against its references: a recorded case, and transformers' own forward pass."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from policy_helpers import pi_config, training_batch, vlm_config

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from torch import Tensor  # noqa: E402

from vla_ros.policies.base import FlowDraws, PolicyObservation, PolicySample  # noqa: E402
from vla_ros.strict import parse_config  # noqa: E402
from vla_ros.policies.modules.vlm_bridge.data_types import VLMInputs  # noqa: E402
from vla_ros.policies.modules.vlm_bridge.qwen.bridge import QwenBridge  # noqa: E402
from vla_ros.policies.modules.vlm_bridge.qwen.forward import normalize_patches  # noqa: E402
from vla_ros.policies.modules.vlm_bridge.qwen.processor import QwenProcessor  # noqa: E402
from vla_ros.policies.pi.config import PiConfig  # noqa: E402
from vla_ros.policies.pi.policy import PiPolicy  # noqa: E402
from vla_ros.transforms.prefix import prefix_mask  # noqa: E402
from vla_ros.transforms.sample import PolicyInput  # noqa: E402

# The recorded cases are delivered beside the repository and are too large for it.
CASE = Path(__file__).resolve().parents[3] / "shared/fixtures/pi_parity/qwen3vl"
TOLERANCE = 2e-5
NOT_IN_OUR_CONFIG = ("_target_", "transforms", "model_id")
FIXED_IN_OUR_EXPERT = ("attn_dropout", "mlp_dropout", "mlp_activation", "attention_dropout", "max_position_embeddings")


def recorded_config() -> PiConfig:
    document = yaml.safe_load((CASE / "run/cfg.yaml").read_text())["policy"]
    for key in NOT_IN_OUR_CONFIG:
        del document[key]
    for key in FIXED_IN_OUR_EXPERT:
        del document["action_expert_cfg"][key]
    vlm = json.loads((CASE / "vlm/config.json").read_text())
    vlm["tie_word_embeddings"] = False  # this checkpoint has two different matrices, whatever its config says
    return parse_config(PiConfig, document | {"type": "PiPolicy", "vlm_config": vlm}, "policy")


@pytest.mark.skipif(not CASE.is_dir(), reason=f"the recorded parity case is not at {CASE}")
def test_every_output_of_the_recorded_case_is_reproduced() -> None:
    policy = PiPolicy(recorded_config()).eval()
    weights = torch.load(CASE / "run/checkpoint_1/model.pt", weights_only=True)
    policy.load_state_dict({name: value.float() for name, value in weights.items()})
    case = load_file(CASE / "case.safetensors")
    given = {name.removeprefix("in."): x for name, x in case.items() if name.startswith("in.")}
    expected = {name.removeprefix("out."): x for name, x in case.items() if name.startswith("out.")}
    inputs = VLMInputs.from_numpy(recorded_input(given, policy.config))
    observation = PolicyObservation(inputs, given["state"])
    draws = FlowDraws(given["noise"][:, None], given["time"][:, None])
    time = given["time"][:, None, None]
    noisy = given["actions"] + time * (given["noise"] - given["actions"])
    valid = expected.pop("prefix_pad_masks")
    with torch.no_grad():
        prefix = policy.encode_prefix(observation, with_ce_loss=True)
        suffix_input = policy.prepare_suffix(prefix, None)
        velocity = policy.predict_suffix(given["state"], suffix_input, noisy[:, None], given["time"][:, None])
        loss = policy.compute_loss(PolicySample(observation, given["actions"]), draws)
        got = {
            "last_hidden_state": policy.vlm_bridge.final_states(inputs, policy.obs_registers),
            "suffix_hidden_state_list": torch.stack(prefix.hidden_states, dim=1),
            "noisy_actions": noisy,
            "velocity": velocity[:, 0],
            "ce_loss": loss.ce_loss[None],
            "flow_mse": loss.flow_mse[None],
            "actions_10_steps": policy.sample_actions(observation, 10, given["noise"]),
            "actions_5_steps": policy.sample_actions(observation, 5, given["noise"]),
        }
    assert got.keys() == expected.keys()
    for name, value in got.items():
        chosen = valid if name == "last_hidden_state" else ...
        worst = (value[chosen] - expected[name][chosen]).abs().max().item()
        assert worst <= TOLERANCE, f"{name} differs by {worst}"


def recorded_input(given: dict[str, Tensor], config: PiConfig) -> PolicyInput:
    arrays = {name: value.numpy() for name, value in given.items()}
    mask = arrays["attention_mask"]
    return PolicyInput(
        pixel_values=arrays["pixel_values"],
        input_ids=arrays["input_ids"],
        attention_mask=mask,
        prefix_mask=prefix_mask(mask, arrays["obs_register_att_mask"], config.num_obs_registers),
        position_ids=QwenProcessor.prefix_positions(mask, arrays["position_ids"][:, :, 0], config),
        target_ids=arrays["target_ids"],
        image_grid=tuple(tuple(image) for image in arrays["image_grid_thw"][0].tolist()),
        num_target_tokens=4,
    )


@pytest.mark.parametrize(("merge", "deepstack"), [(1, ()), (1, (0, 1)), (2, (1,))])
def test_the_prefix_equals_transformers_own_forward(merge: int, deepstack: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    config = pi_config(vlm_config=vlm_config(merge, deepstack))
    bridge = QwenBridge(config).eval()
    inputs = VLMInputs.from_numpy(training_batch(config).policy_input)
    registers = torch.randn(config.num_obs_registers, bridge.hidden_size)
    valid = inputs.attention_mask
    with torch.no_grad():
        got = bridge.final_states(inputs, registers)[:, : valid.shape[1]]
        expected = transformers_forward(bridge, inputs, config)
        worst = (got[valid] - expected.last_hidden_state[valid]).abs().max().item()
        assert worst <= TOLERANCE
        ce_loss = bridge.encode(inputs, registers, 1, with_ce_loss=True).ce_loss
        logits = bridge.causal_model.lm_head(expected.last_hidden_state)[:, :-1]
    assert inputs.target_ids is not None
    reference = torch.nn.functional.cross_entropy(logits.flatten(0, 1), inputs.target_ids[:, 1:].flatten())
    np.testing.assert_allclose(ce_loss.item(), reference.item(), atol=TOLERANCE)


def transformers_forward(bridge: QwenBridge, inputs: VLMInputs, config: PiConfig) -> Tensor:
    patches = normalize_patches(inputs.pixel_values, config.image_mean, config.image_std)
    patches = patches.unflatten(-1, (3, 1, -1)).expand(-1, -1, -1, 2, -1).flatten(2)
    return bridge.causal_model.model(
        input_ids=inputs.input_ids,
        attention_mask=inputs.attention_mask.long(),
        position_ids=inputs.position_ids[:, :, : inputs.input_ids.shape[1]].transpose(0, 1),
        pixel_values=patches.flatten(0, 1),
        image_grid_thw=torch.tensor(inputs.image_grid * len(inputs.input_ids)),
        mm_token_type_ids=(inputs.input_ids == config.vlm_config["image_token_id"]).int(),
    )
