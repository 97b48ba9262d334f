"""A very small SmolVLM 2 policy and its processor, beside those of ``policy_helpers``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from policy_helpers import CAMERAS, TASKS, pi_config, processor_config
from tokenizers import Tokenizer

from vla_ros.policies.modules.vlm_bridge.inputs import PolicyInput
from vla_ros.policies.modules.vlm_bridge.qwen.processor import train_tokenizer
from vla_ros.policies.modules.vlm_bridge.smolvlm.processor import IMAGE, SmolVLMProcessor
from vla_ros.policies.pi.config import PiConfig

NUM_TOKENS = 305


def vlm_config(image_size: int = 24, scale: int = 2) -> dict[str, Any]:
    """With patches of 4 pixels, six a side."""
    return {
        "image_token_id": tokenizer().token_to_id(IMAGE),
        "scale_factor": scale,
        "tie_word_embeddings": False,
        "text_config": {
            "model_type": "llama",
            "vocab_size": 320,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 256,
            "rope_theta": 10000.0,
            "rope_scaling": None,
            "initializer_range": 0.1,
        },
        "vision_config": {
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 4,
            "image_size": image_size,
            "initializer_range": 0.1,
        },
    }


def smol_config(document: Mapping[str, Any] | None = None, **changes: Any) -> PiConfig:
    config = pi_config(vlm_config=document or vlm_config(), **changes)
    return replace(config, vlm_type="SmolVLMForConditionalGeneration")


def tokenizer() -> Tokenizer:
    made = train_tokenizer(TASKS, vocab_size=NUM_TOKENS - len(SmolVLMProcessor.special_tokens))
    made.add_special_tokens(list(SmolVLMProcessor.special_tokens))
    return made


def make_processor(config: PiConfig, **changes: Any) -> SmolVLMProcessor:
    size = config.vlm_config["vision_config"].get("image_size", 24)
    given = {"type": "SmolVLMProcessor", "image_height": size, "image_width": size, "buckets": (48, 72, 128), **changes}
    return SmolVLMProcessor(processor_config(**given), config, tokenizer(), len(CAMERAS))


def make_batch(config: PiConfig, answers: tuple[str, str] | None = ("red", "blue one")) -> PolicyInput:
    """Two samples with instructions of different length."""
    return make_processor(config).make_batch(make_images(config), TASKS, ("where is it?", "where?"), answers)


def make_images(config: PiConfig) -> np.ndarray:
    """uint8 RGB [batch, cameras, height, width, 3] of the size the tower sees."""
    size = config.vlm_config["vision_config"]["image_size"]
    return np.random.default_rng(0).integers(0, 256, (2, len(CAMERAS), size, size, 3), dtype=np.uint8)
