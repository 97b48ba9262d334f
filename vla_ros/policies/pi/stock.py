"""The prefix as transformers runs it by itself: its own forward over the same weights, for a policy's own request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vla_ros.policies.modules.layers.pixels import normalize_patches
from vla_ros.policies.modules.vlm_bridge.data_types import VLMInputs
from vla_ros.policies.pi.policy import PiPolicy


def stock_forward(policy: PiPolicy, inputs: VLMInputs) -> Callable[[], Tensor] | None:
    """What runs the stock model over the tokens (registers it doesn't know) and gives its last states [batch, seq,
    hidden], after the final norm; None for a backbone it isn't known for.

    Pixels are normalised and arranged beforehand, in its favour, and nothing is kept in a cache.
    """
    make = _ARGUMENTS.get(policy.config.vlm_type)
    if make is None:
        return None
    model = policy.vlm_bridge.causal_model.model
    given = {
        "input_ids": inputs.input_ids,
        "attention_mask": inputs.attention_mask.long(),
        "use_cache": False,
        **make(policy, inputs),
    }
    return lambda: model(**given).last_hidden_state


def _patches(policy: PiPolicy, inputs: VLMInputs) -> Tensor:
    """Normalised patches [images, patches, channels, patch * patch], as the policy's weights are."""
    config = policy.config
    patches = normalize_patches(inputs.pixel_values, config.image_mean, config.image_std).to(policy.obs_registers.dtype)
    return patches.reshape(len(inputs.image_grid) * len(patches), -1, len(config.image_mean), _area(policy))


def _area(policy: PiPolicy) -> int:
    return int(policy.config.vlm_config["vision_config"]["patch_size"]) ** 2


def _images(policy: PiPolicy, inputs: VLMInputs) -> Tensor:
    """Whole images [images, channels, height, width]."""
    patches, (_, rows, cols), side = _patches(policy, inputs), inputs.image_grid[0], round(_area(policy) ** 0.5)
    grid = patches.unflatten(1, (rows, cols)).unflatten(-1, (side, side))
    return grid.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def _qwen(policy: PiPolicy, inputs: VLMInputs) -> dict[str, Any]:
    twice = _patches(policy, inputs).unsqueeze(3).expand(-1, -1, -1, 2, -1)  # a still image fills two frames
    seq = inputs.input_ids.shape[1]
    return {
        "position_ids": inputs.position_ids[:, :, :seq].transpose(0, 1),
        "pixel_values": twice.flatten(2).flatten(0, 1),
        "image_grid_thw": torch.tensor(inputs.image_grid * len(inputs.input_ids), device=inputs.input_ids.device),
        "mm_token_type_ids": (inputs.input_ids == policy.config.vlm_config["image_token_id"]).int(),
    }


def _paligemma(policy: PiPolicy, inputs: VLMInputs) -> dict[str, Any]:
    seq = inputs.input_ids.shape[1]
    return {"position_ids": inputs.position_ids[:, 0, :seq], "pixel_values": _images(policy, inputs)}


def _smolvlm(policy: PiPolicy, inputs: VLMInputs) -> dict[str, Any]:
    seq = inputs.input_ids.shape[1]
    images = _images(policy, inputs).unflatten(0, (len(inputs.input_ids), -1))
    return {"position_ids": inputs.position_ids[:, 0, :seq], "pixel_values": images}


_ARGUMENTS = {
    "Qwen3VLForConditionalGeneration": _qwen,
    "PaliGemmaForConditionalGeneration": _paligemma,
    "SmolVLMForConditionalGeneration": _smolvlm,
}
