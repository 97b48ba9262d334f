"""A policy configuration of the same classes and switches as another, small enough to run at once on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vla_ros.policies.pi.config import PiConfig

WIDTH, VISION_WIDTH, NUM_LAYERS, NUM_HEADS, VOCAB_SIZE = 64, 48, 4, 4, 512
TOKENS_PER_SIDE = 4  # of an image
NUM_STEPS = 2

# Sizes by the names that backbones' config.json files use. The first two groups have these in any case.
_TEXT = {"hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": NUM_LAYERS, "vocab_size": VOCAB_SIZE}
_VISION = {"hidden_size": VISION_WIDTH, "intermediate_size": 64}
_WHERE_PRESENT = {
    "depth": NUM_LAYERS,
    "num_hidden_layers": NUM_LAYERS,
    "num_heads": NUM_HEADS,
    "num_attention_heads": NUM_HEADS,
    "head_dim": 16,
    "hidden_size": WIDTH,
    "out_hidden_size": WIDTH,
    "projection_dim": WIDTH,
    "num_position_embeddings": 36,
}


def shrink(config: PiConfig) -> PiConfig:
    """The tiny sibling of ``config``. What decides which operators run stays: norms, masks, merging, deepstack."""
    vlm, expert = config.vlm_config, config.action_expert_cfg
    groups = {
        "text_config": _shrink_text(vlm["text_config"]),
        "vision_config": _shrink_vision(vlm["vision_config"], vlm.get("scale_factor", 1)),
    }
    small = _shrink_sizes(vlm) | groups
    new_ids = {value: i for i, value in enumerate(sorted(_token_ids(small)))}
    small_expert = replace(
        expert,
        hidden_size=32,
        intermediate_size=48,
        head_dim=8,
        num_hidden_layers=min(expert.num_hidden_layers, 2),
        **_heads(expert.num_attention_heads, expert.num_key_value_heads),
    )
    return replace(config, vlm_config=_renumber(small, new_ids), action_expert_cfg=small_expert, num_steps=NUM_STEPS)


def _shrink_text(text: Mapping[str, Any]) -> dict[str, Any]:
    heads = _heads(text.get("num_attention_heads"), text.get("num_key_value_heads"))
    small = _shrink_sizes(text) | _TEXT | heads
    if "layer_types" in small:
        small["layer_types"] = small["layer_types"][:NUM_LAYERS]
    for name in ("rope_scaling", "rope_parameters"):
        if "mrope_section" in (small.get(name) or {}):
            small[name] = {**small[name], "mrope_section": [4, 2, 2]}
    return small


def _shrink_vision(vision: Mapping[str, Any], scale: int) -> dict[str, Any]:
    small = _shrink_sizes(vision) | _VISION
    if "image_size" in small:
        small["image_size"] = small["patch_size"] * scale * TOKENS_PER_SIDE
    if "deepstack_visual_indexes" in small:
        small["deepstack_visual_indexes"] = list(range(len(small["deepstack_visual_indexes"])))[:NUM_LAYERS]
    return small


def _shrink_sizes(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _WHERE_PRESENT.get(key, value) for key, value in group.items()}


def _heads(num_heads: int | None, num_key_value_heads: int | None) -> dict[str, int]:
    """As many heads as are small, which share keys and values as before: not at all, all of them, or some."""
    kept = {1: 1, None: NUM_HEADS, num_heads: NUM_HEADS}
    return {"num_attention_heads": NUM_HEADS, "num_key_value_heads": kept.get(num_key_value_heads, 2)}


def _is_token_id(key: str, value: Any) -> bool:
    return key.endswith(("_token_id", "_token_index")) and isinstance(value, int)


def _token_ids(group: Mapping[str, Any]) -> set[int]:
    here = {value for key, value in group.items() if _is_token_id(key, value)}
    return here.union(*(_token_ids(value) for value in group.values() if isinstance(value, Mapping)))


def _renumber(group: Mapping[str, Any], new_ids: Mapping[int, int]) -> dict[str, Any]:
    """Token ids in their order, so that they lie inside the small vocabulary."""
    new = {key: new_ids[value] if _is_token_id(key, value) else value for key, value in group.items()}
    return {key: _renumber(value, new_ids) if isinstance(value, Mapping) else value for key, value in new.items()}
