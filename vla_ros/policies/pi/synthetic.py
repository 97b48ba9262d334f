"""Requests without cameras or a release's tokenizer: random pixels and words, by a processor that knows no word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from vla_ros.policies.modules.vlm_bridge.processor import PROMPT_SEPARATOR, ProcessorConfig, VLMProcessor, read_int
from vla_ros.policies.modules.vlm_bridge.registry import BACKBONES
from vla_ros.policies.pi.config import PiConfig
from vla_ros.policies.pi.processor import make_vlm_processor
from vla_ros.policies.pi.request import PiRequest

UNKNOWN = "<unk>"
# Special tokens whose id the backbone's configuration may say, and the key.
TOKEN_IDS = {
    "<|image_pad|>": "image_token_id",
    "<|vision_start|>": "vision_start_token_id",
    "<|vision_end|>": "vision_end_token_id",
    "<image>": "image_token_id",
}


def synthetic_request(
    config: PiConfig,
    num_cameras: int = 2,
    image_size: tuple[int, int] = (224, 224),
    num_text_tokens: int = 40,
    seed: int = 0,
) -> PiRequest:
    """A request with ``num_text_tokens`` of text, the prompt separator among them, and no padding.

    ``image_size`` is (height, width) in pixels; what exceeds whole patches or merge blocks is left out.
    Raises ValueError where the backbone's configuration lacks a size or an id.
    """
    rng = np.random.default_rng(seed)
    unit = read_int(config.vlm_config, "vision_config", "patch_size") * _merge_size(config.vlm_config)
    height, width = (size // unit * unit for size in image_size)
    sizes = (height, width), (height, width)
    unpadded = made_up_processor(config, num_cameras, *sizes, buckets=(1,))
    task = " ".join(["word"] * (num_text_tokens - len(unpadded.separator_ids())))
    length = len(unpadded.make_prompt(task, "", "").ids)
    processor = made_up_processor(config, num_cameras, *sizes, buckets=(length,))
    images = rng.integers(0, 256, (num_cameras, height, width, 3), np.uint8)
    return PiRequest(
        stamp_ns=seed,
        policy_input=processor.process(images, task),
        state=rng.standard_normal((config.state_history, config.state_dim), np.float32),
        noise=rng.standard_normal((config.action_horizon, config.action_dim), np.float32),
    )


def made_up_processor(
    config: PiConfig,
    num_cameras: int,
    image_size: tuple[int, int],
    camera_size: tuple[int, int],
    buckets: tuple[int, ...],
) -> VLMProcessor:
    """The backbone's, with a tokenizer that has the special tokens by their ids and no other word."""
    kind = BACKBONES[config.vlm_type]
    images = ProcessorConfig(kind.processor, *camera_size, *image_size, buckets)
    names = kind.processor_class().special_tokens
    given = {name: int(config.vlm_config[TOKEN_IDS[name]]) for name in names if name in TOKEN_IDS}
    others = [*(name for name in names if name not in given), PROMPT_SEPARATOR, UNKNOWN]
    taken = {*given.values(), config.vlm_config.get("image_token_index")}
    free = (i for i in range(len(taken) + len(others)) if i not in taken)
    tokenizer = Tokenizer(models.WordLevel(given | dict(zip(others, free, strict=False)), unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return make_vlm_processor(images, config, tokenizer, num_cameras)


def image_size_of(config: PiConfig) -> tuple[int, int]:
    """(height, width) in pixels of the images that the backbone was published for."""
    size = config.vlm_config["vision_config"].get("image_size", 224)
    return size, size


def _merge_size(vlm: Mapping[str, Any]) -> int:
    """How many patches along each side become one token; each backbone has its own name for it, or none for 1."""
    if "spatial_merge_size" in vlm["vision_config"]:
        return read_int(vlm, "vision_config", "spatial_merge_size")
    return read_int(vlm, "scale_factor") if "scale_factor" in vlm else 1
