"""Very small PaliGemma backbones, 1 and 2, and a tokenizer as releases have it, for tests that finish at once."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from policy_helpers import CAMERAS, HORIZON, JOINTS, TASKS, pi_config, processor_config
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers

from vla_ros.policies.modules.vlm_bridge.paligemma.processor import BEGIN, END, IMAGE, PAD, PaliGemmaProcessor
from vla_ros.policies.modules.vlm_bridge.processor import PROMPT_SEPARATOR
from vla_ros.policies.pi.config import PiConfig
from vla_ros.transforms.sample import TrainingBatch

KINDS = ("gemma", "gemma2")
QUESTIONS, ANSWERS = ("where is it?", "where?"), ("<loc0001><loc0002>", "<loc0003>")
PLACES = ("<loc0001>", "<loc0002>", "<loc0003>")
VOCAB_SIZE = 290
TOLERANCE = 1e-5


def vlm_config(kind: str = "gemma", **text_changes: Any) -> dict[str, Any]:
    text = {
        "model_type": kind,
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 40,  # sqrt(40) is no power of two: scaling twice or not at all would show
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "rope_theta": 10000.0,
        "initializer_range": 0.1,
    }
    if kind == "gemma2":
        text |= {"num_key_value_heads": 2, "query_pre_attn_scalar": 24, "sliding_window": 256}
        text |= {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 4,
        "image_size": 16,
        "vision_use_head": False,
        "projector_hidden_act": "gelu_fast",
    }
    return {
        "image_token_index": make_tokenizer().token_to_id(IMAGE),
        "projection_dim": 40,
        "hidden_size": 40,
        "text_config": text | text_changes,
        "vision_config": vision,
    }


def paligemma_config(kind: str = "gemma", document: dict[str, Any] | None = None, **changes: Any) -> PiConfig:
    config = pi_config(vlm_config=document or vlm_config(kind), **changes)
    return replace(config, vlm_type="PaliGemmaForConditionalGeneration")


@lru_cache
def tokenizer_json() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - 1,
        special_tokens=[PAD, END, BEGIN, PROMPT_SEPARATOR, *PLACES],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*TASKS, *QUESTIONS], trainer)
    tokenizer.add_special_tokens([AddedToken(IMAGE, normalized=False)])
    document = json.loads(tokenizer.to_str())  # as released: places are in the vocabulary, but not matched whole
    document["added_tokens"] = [token for token in document["added_tokens"] if token["content"] not in PLACES]
    return json.dumps(document)


def make_tokenizer() -> Tokenizer:
    return Tokenizer.from_str(tokenizer_json())


def make_processor(config: PiConfig, tokenizer: Tokenizer | None = None, **changes: Any) -> PaliGemmaProcessor:
    config_of_images = processor_config(type="PaliGemmaProcessor", buckets=(64, 96))
    return PaliGemmaProcessor(replace(config_of_images, **changes), config, tokenizer or make_tokenizer(), len(CAMERAS))


def training_batch(config: PiConfig, with_answers: bool = True) -> TrainingBatch:
    """Two samples with instructions of different length."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, len(CAMERAS), 16, 16, 3), dtype=np.uint8)
    inputs = make_processor(config).make_batch(images, TASKS, QUESTIONS, ANSWERS if with_answers else None)
    state = rng.normal(size=(2, 1, len(JOINTS))).astype(np.float32)
    return TrainingBatch(inputs, state, rng.normal(size=(2, HORIZON, len(JOINTS))).astype(np.float32))
