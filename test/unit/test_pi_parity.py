"""The Pi policy against its references: recorded cases, and for Qwen3-VL transformers' own forward pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from policy_helpers import pi_config, training_batch, vlm_config

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from vla_ros.policies.modules.layers.pixels import normalize_patches  # noqa: E402
from vla_ros.policies.modules.vlm_bridge.data_types import VLMInputs  # noqa: E402
from vla_ros.policies.modules.vlm_bridge.qwen.bridge import QwenBridge  # noqa: E402
from vla_ros.policies.pi.config import PiConfig  # noqa: E402
from vla_ros.policies.pi.released.case import TOLERANCE, beyond_tolerance, compare, read_case  # noqa: E402
from vla_ros.policies.pi.released.weights import load_released  # noqa: E402

CASES = Path(__file__).resolve().parents[1] / "data" / "pi_parity"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["qwen3vl", "paligemma", "smolvlm"])
def test_every_output_of_the_recorded_case_is_reproduced(name: str, packed: bool) -> None:
    folder = CASES / name
    policy = load_released(folder / "run", folder / "vlm/config.json").policy
    if packed:
        policy.pack_weights()
    case = read_case(folder / "case.safetensors")
    differences = compare(policy, case)
    assert differences.keys() == case.expected.keys()
    assert not beyond_tolerance(differences)


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
    np.testing.assert_allclose(ce_loss.mean.item(), reference.item(), atol=TOLERANCE)


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
