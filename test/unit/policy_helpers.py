"""A very small policy of the real classes, its processor and its directory, for tests that finish at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from vla_ros.policies.config import DataConfig
from vla_ros.policies.families import config_names, find_config
from vla_ros.policies.modules.action_expert.config import ActionExpertConfig
from vla_ros.policies.modules.vlm_bridge.processor import ProcessorConfig
from vla_ros.policies.modules.vlm_bridge.qwen.processor import LOCATION_TOKENS, QwenProcessor, train_tokenizer
from vla_ros.policies.pi.config import PiConfig
from vla_ros.policies.pi.processor import PiProcessor
from vla_ros.transforms.normalize import compute_stats
from vla_ros.transforms.sample import TrainingBatch
from vla_ros.types import Observation

PUBLISHED = {name: find_config(name) for name in config_names() if name.startswith("pi-")}
CAMERAS = ("front", "top")
JOINTS = ("base", "shoulder", "wrist")
HORIZON = 4
POLICY_FILES = (
    "policy.yaml",
    "model.safetensors",
    "norm_stats.json",
    "processor/tokenizer.json",
    "processor/processor.json",
    "golden.safetensors",
)
TASKS = ("touch the red block", "please go to the blue one")


def vlm_config(merge: int = 1, deepstack: tuple[int, ...] = (0, 1), vocab_size: int = 400) -> dict[str, Any]:
    return {
        "image_token_id": 4,
        "video_token_id": 4,
        "vision_start_token_id": 2,
        "vision_end_token_id": 3,
        "tie_word_embeddings": True,
        "text_config": {
            "vocab_size": vocab_size,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 256,
            "rope_theta": 10000.0,
            "rope_scaling": {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True},
            "initializer_range": 0.2,
        },
        "vision_config": {
            "depth": 2,
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_heads": 2,
            "patch_size": 4,
            "spatial_merge_size": merge,
            "temporal_patch_size": 2,
            "out_hidden_size": 32,
            "num_position_embeddings": 9,
            "deepstack_visual_indexes": list(deepstack),
            "initializer_range": 0.2,
        },
    }


EXPERT = ActionExpertConfig(
    hidden_size=16,
    intermediate_size=24,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    num_hidden_layers=2,
)


def pi_config(**changes: Any) -> PiConfig:
    values: dict[str, Any] = {"vlm_config": vlm_config(), "action_expert_cfg": EXPERT} | changes
    return PiConfig(
        type="PiPolicy",
        vlm_type="Qwen3VLForConditionalGeneration",
        action_horizon=HORIZON,
        action_dim=len(JOINTS),
        state_dim=len(JOINTS),
        num_obs_registers=values.pop("num_obs_registers", 3),
        **values,
    )


def processor_config(**changes: Any) -> ProcessorConfig:
    config = ProcessorConfig(
        type="QwenProcessor", camera_height=24, camera_width=32, image_height=16, image_width=16, buckets=(48, 72)
    )
    return replace(config, **changes)


def make_processor(config: PiConfig, **changes: Any) -> QwenProcessor:
    tokenizer = train_tokenizer(TASKS, vocab_size=400, extra_tokens=LOCATION_TOKENS)
    return QwenProcessor(processor_config(**changes), config, tokenizer, len(CAMERAS))


def training_batch(config: PiConfig, with_answers: bool = True, seed: int = 0) -> TrainingBatch:
    """Two samples with instructions of different length."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (2, len(CAMERAS), 16, 16, 3), dtype=np.uint8)
    answers = ("<loc001><loc002>", "<loc003>") if with_answers else None
    inputs = make_processor(config).make_batch(images, TASKS, ("where is it?", "where?"), answers)
    state = rng.normal(size=(2, 1, len(JOINTS))).astype(np.float32)
    return TrainingBatch(inputs, state, rng.normal(size=(2, HORIZON, len(JOINTS))).astype(np.float32))


def rngs(num: int) -> list[np.random.Generator]:
    """A generator for each sample of a batch."""
    return [np.random.default_rng([7, i]) for i in range(num)]


def policy_processor(config: PiConfig, **data_changes: Any) -> PiProcessor:
    rng = np.random.default_rng(1)
    data = DataConfig(JOINTS, CAMERAS, HORIZON, chunk_dt_s=0.1)
    return PiProcessor(
        config=config,
        data=replace(data, **data_changes),
        settings=processor_config(),
        tokenizer=train_tokenizer(TASKS, vocab_size=400, extra_tokens=LOCATION_TOKENS),
        stats={
            "state": compute_stats(rng.normal(size=(50, 1, len(JOINTS)))),
            "action": compute_stats(rng.normal(size=(50, HORIZON, len(JOINTS)))),
        },
    )


def observation(task: str = TASKS[0], stamp_ns: int = 123_456_789) -> Observation:
    rng = np.random.default_rng(2)
    images = {name: rng.integers(0, 256, (24, 32, 3), dtype=np.uint8) for name in CAMERAS}
    return Observation(stamp_ns, dict.fromkeys(CAMERAS, stamp_ns), images, np.array([0.1, -0.2, 0.3]), task)
