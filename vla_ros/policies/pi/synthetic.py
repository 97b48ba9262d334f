"""A request of any shape without cameras or a tokenizer: random pixels and text, image tokens where they belong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vla_ros.policies.modules.vlm_bridge.inputs import PolicyInput
from vla_ros.policies.modules.vlm_bridge.processor import read_int
from vla_ros.policies.modules.vlm_bridge.registry import BACKBONES
from vla_ros.policies.pi.config import PiConfig
from vla_ros.policies.pi.request import PiRequest
from vla_ros.transforms.prefix import prefix_mask


def synthetic_request(
    config: PiConfig,
    num_cameras: int = 2,
    image_size: tuple[int, int] = (224, 224),
    num_text_tokens: int = 40,
    seed: int = 0,
) -> PiRequest:
    """A request as the backbone's processor makes it: images first, then ``num_text_tokens`` of text, no padding.

    ``image_size`` is (height, width) in pixels; what is no whole patch or merge block is left out.
    Raises ValueError where the backbone's configuration lacks a size or an id.
    """
    rng = np.random.default_rng(seed)
    vlm = config.vlm_config
    patch, merge = read_int(vlm, "vision_config", "patch_size"), _merge_size(vlm)
    rows, cols = (size // patch // merge for size in image_size)
    ids, positions = _lay_out(vlm, num_cameras, (rows, cols), num_text_tokens, rng)
    grid = (1, rows * merge, cols * merge)
    num_patches = num_cameras * grid[1] * grid[2]
    valid = np.ones((1, len(ids)), bool)
    processor = BACKBONES[config.vlm_type].processor_class()
    policy_input = PolicyInput(
        pixel_values=rng.integers(0, 256, (num_patches, len(config.image_mean) * patch**2), np.uint8),
        input_ids=ids,
        attention_mask=valid[0],
        prefix_mask=prefix_mask(valid, valid, config.num_obs_registers)[0],
        position_ids=processor.prefix_positions(valid, positions[None], config)[0],
        target_ids=None,
        image_grid=(grid,) * num_cameras,
    )
    return PiRequest(
        stamp_ns=seed,
        policy_input=policy_input,
        state=rng.standard_normal((config.state_history, config.state_dim), np.float32),
        noise=rng.standard_normal((config.action_horizon, config.action_dim), np.float32),
    )


def image_size_of(config: PiConfig) -> tuple[int, int]:
    """(height, width) in pixels of the images that the backbone was published for."""
    size = config.vlm_config["vision_config"].get("image_size", 224)
    return size, size


def _lay_out(
    vlm: Mapping[str, Any], num_cameras: int, size: tuple[int, int], num_text_tokens: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Ids int64 [seq] and positions int64 [3, seq] by time, height and width, for images of ``size`` tokens each."""
    image_id = read_int(vlm, "image_token_id" if "image_token_id" in vlm else "image_token_index")
    marks = [[vlm[name]] if name in vlm else [] for name in ("vision_start_token_id", "vision_end_token_id")]
    num_image_tokens = size[0] * size[1]
    row, col = (axis.ravel() for axis in np.mgrid[: size[0], : size[1]])
    ids: list[int] = []
    positions: list[np.ndarray] = []
    position = 0
    for _ in range(num_cameras):
        ids += marks[0] + [image_id] * num_image_tokens + marks[1]
        start = position + len(marks[0])
        after = start + max(size)
        image = start + np.stack((np.zeros_like(row), row, col))
        positions += [np.full((3, len(marks[0])), position), image, np.full((3, len(marks[1])), after)]
        position = after + len(marks[1])
    special = {image_id, *marks[0], *marks[1]}
    text_ids = [i for i in range(min(1000, read_int(vlm, "text_config", "vocab_size"))) if i not in special]
    ids += rng.choice(text_ids, num_text_tokens).tolist()
    text = np.broadcast_to(position + np.arange(num_text_tokens), (3, num_text_tokens))
    return np.array(ids, np.int64), np.concatenate((*positions, text), axis=1)


def _merge_size(vlm: Mapping[str, Any]) -> int:
    """How many patches along each side become one token; each backbone has its own name for it, or none for 1."""
    if "spatial_merge_size" in vlm["vision_config"]:
        return read_int(vlm, "vision_config", "spatial_merge_size")
    return read_int(vlm, "scale_factor") if "scale_factor" in vlm else 1
