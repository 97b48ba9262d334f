"""The published policies as Hydra configs: ``policy=pi-qwen`` on a command line, ``policy.num_steps=5`` to override.

The sizes of the backbones are those of their config.json files on the Hugging Face hub; the action expert is the
released one: 12 layers of a self- and a cross-attention block, 957 M parameters at a context of 2048.
"""

from __future__ import annotations

from typing import Any

from vla_ros.policies.modules.action_expert.config import ActionExpertConfig
from vla_ros.policies.pi.config import PiConfig

ACTION_EXPERT = ActionExpertConfig(
    hidden_size=1024,
    intermediate_size=4096,
    num_attention_heads=32,
    num_key_value_heads=32,
    head_dim=128,
    num_hidden_layers=12,
    cross_attention_every=2,
)

QWEN3_VL_2B: dict[str, Any] = {  # Qwen/Qwen3-VL-2B-Instruct
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "tie_word_embeddings": True,
    "text_config": {
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 262144,
        "rope_theta": 5000000.0,
        "rope_scaling": {"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True},
    },
    "vision_config": {
        "depth": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_heads": 16,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": 2048,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [5, 11, 17],
    },
}

SIGLIP_SO400M: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 224,
    "vision_use_head": False,
}

PALIGEMMA_3B: dict[str, Any] = {  # google/paligemma-3b-pt-224
    "image_token_index": 257152,
    "projection_dim": 2048,
    "hidden_size": 2048,
    "text_config": {
        "model_type": "gemma",
        "vocab_size": 257216,
        "hidden_size": 2048,
        "intermediate_size": 16384,
        "num_hidden_layers": 18,
        "num_attention_heads": 8,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "num_image_tokens": 256,
    },
    "vision_config": {**SIGLIP_SO400M, "projection_dim": 2048},
}

PALIGEMMA2_3B: dict[str, Any] = {  # google/paligemma2-3b-pt-224
    "image_token_index": 257152,
    "projection_dim": 2304,
    "hidden_size": 2304,
    "text_config": {
        "model_type": "gemma2",
        "vocab_size": 257216,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "num_image_tokens": 256,
    },
    "vision_config": {**SIGLIP_SO400M, "projection_dim": 2304},
}


def _smolvlm2(hidden_size: int, intermediate_size: int, num_layers: int, num_heads: int) -> dict[str, Any]:
    """SmolLM2 of that size behind one vision tower."""
    return {
        "image_token_id": 49190,
        "scale_factor": 4,
        "tie_word_embeddings": False,
        "pad_token_id": 2,
        "text_config": {
            "model_type": "llama",
            "vocab_size": 49280,
            "hidden_size": hidden_size,
            "intermediate_size": intermediate_size,
            "num_hidden_layers": num_layers,
            "num_attention_heads": num_heads,
            "num_key_value_heads": num_heads // 3,
            "head_dim": 64,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-05,
            "rope_theta": 100000.0,
            "pad_token_id": 2,
        },
        "vision_config": {
            "model_type": "smolvlm_vision",
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "patch_size": 16,
            "image_size": 512,
        },
    }


SMOLVLM2_256M = _smolvlm2(576, 1536, 30, 9)  # HuggingFaceTB/SmolVLM2-256M-Video-Instruct
SMOLVLM2_500M = _smolvlm2(960, 2560, 32, 15)  # HuggingFaceTB/SmolVLM2-500M-Video-Instruct


def _published(vlm_type: str, vlm_config: dict[str, Any]) -> PiConfig:
    return PiConfig(
        type="PiPolicy",
        vlm_type=vlm_type,
        vlm_config=vlm_config,
        action_expert_cfg=ACTION_EXPERT,
        action_horizon=10,
        action_dim=7,
        state_dim=8,
    )


PUBLISHED: dict[str, PiConfig] = {
    "pi-qwen": _published("Qwen3VLForConditionalGeneration", QWEN3_VL_2B),
    "pi-paligemma": _published("PaliGemmaForConditionalGeneration", PALIGEMMA_3B),
    "pi-paligemma2": _published("PaliGemmaForConditionalGeneration", PALIGEMMA2_3B),
    "pi-smol": _published("SmolVLMForConditionalGeneration", SMOLVLM2_256M),
    "pi-smol-500m": _published("SmolVLMForConditionalGeneration", SMOLVLM2_500M),
}
