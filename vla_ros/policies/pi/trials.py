"""What audit and bench make up of Pi policies: requests without cameras or a tokenizer, small versions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from vla_ros.policies.modules.vlm_bridge.processor import PROMPT_SEPARATOR, ProcessorConfig, VLMProcessor, read_int
from vla_ros.policies.modules.vlm_bridge.registry import BACKBONES
from vla_ros.policies.pi.config import PiConfig
from vla_ros.policies.pi.request import PiRequest
from vla_ros.policies.trials import NUM_CAMERAS, Trials

CAMERA_SIZE = 480, 640
# Makes 180 tokens with two images of a Qwen policy.
NUM_TEXT_TOKENS, NUM_TINY_TEXT_TOKENS = 78, 12
BUCKETS = tuple(range(64, 3073, 64))
MODULATION_GAIN = 0.02
UNKNOWN = "<unk>"
# Special tokens whose id the backbone's configuration may say, and the key.
TOKEN_IDS = {
    "<|image_pad|>": "image_token_id",
    "<|vision_start|>": "vision_start_token_id",
    "<|vision_end|>": "vision_end_token_id",
    "<image>": "image_token_id",
}
# Of the small versions.
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


class PiTrials(Trials):
    def make_request(
        self, config: PiConfig, num_cameras: int = NUM_CAMERAS, image_size: tuple[int, int] | None = None
    ) -> PiRequest:
        return synthetic_request(config, num_cameras, image_size or image_size_of(config), NUM_TEXT_TOKENS)

    def shrink(self, config: PiConfig, request: PiRequest) -> tuple[PiConfig, PiRequest]:
        tiny, num_cameras = shrink(config), len(request.policy_input.image_grid)
        return tiny, synthetic_request(tiny, num_cameras, image_size_of(tiny), NUM_TINY_TEXT_TOKENS)

    def resize(self, config: PiConfig, horizon: int, num_steps: int) -> PiConfig:
        return replace(config, action_horizon=horizon, num_steps=num_steps)

    def randomize(self, policy: Any) -> None:
        """A fresh modulation does nothing yet."""
        from torch import nn

        for part in policy.action_expert.modules():
            if isinstance(part, nn.Linear) and not part.weight.any():
                nn.init.normal_(part.weight, std=MODULATION_GAIN)

    def make_preprocessing(
        self, config: PiConfig, num_cameras: int = NUM_CAMERAS, image_size: tuple[int, int] | None = None
    ) -> Callable[[], object]:
        size = image_size or image_size_of(config)
        processor = made_up_processor(config, num_cameras, size, CAMERA_SIZE, BUCKETS)
        rng = np.random.default_rng(0)
        frames = [rng.integers(0, 256, (*CAMERA_SIZE, 3), np.uint8) for _ in range(num_cameras)]
        task = " ".join(["word"] * NUM_TEXT_TOKENS)
        return lambda: processor.process(frames, task)

    def num_tokens(self, request: PiRequest) -> int:
        return len(request.policy_input.input_ids)

    def compositions(self, policy: Any) -> Mapping[str, Callable[[Any], Any]]:
        from vla_ros.policies.pi.reference import as_written_actions, plain_actions

        def run(actions_of: Callable[..., Any]) -> Callable[[Any], Any]:
            return lambda inputs: actions_of(policy, inputs.observation, policy.num_steps, inputs.noise)

        return {"plain_composition": run(plain_actions), "reference_as_written": run(as_written_actions)}

    def stock_prefix(self, policy: Any, inputs: Any) -> Callable[[], Any]:
        from vla_ros.policies.pi.reference import stock_forward

        return stock_forward(policy, inputs.observation.policy_input)


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
    """The backbone's, with a tokenizer that has the special tokens by their ids and knows no word."""
    kind = BACKBONES[config.vlm_type]
    images = ProcessorConfig(kind.processor, *camera_size, *image_size, buckets)
    names = kind.processor_class().special_tokens
    given = {name: int(config.vlm_config[TOKEN_IDS[name]]) for name in names if name in TOKEN_IDS}
    others = [*(name for name in names if name not in given), PROMPT_SEPARATOR, UNKNOWN]
    taken = {*given.values(), config.vlm_config.get("image_token_index")}
    free = (i for i in range(len(taken) + len(others)) if i not in taken)
    tokenizer = Tokenizer(models.WordLevel(given | dict(zip(others, free, strict=False)), unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return kind.processor_class()(images, config, tokenizer, num_cameras)


def image_size_of(config: PiConfig) -> tuple[int, int]:
    """(height, width) in pixels of the images that the backbone was published for."""
    size = config.vlm_config["vision_config"].get("image_size", 224)
    return size, size


def _merge_size(vlm: Mapping[str, Any]) -> int:
    """How many patches along each side become one token; each backbone has its own name for it, or none for 1."""
    if "spatial_merge_size" in vlm["vision_config"]:
        return read_int(vlm, "vision_config", "spatial_merge_size")
    return read_int(vlm, "scale_factor") if "scale_factor" in vlm else 1


def shrink(config: PiConfig) -> PiConfig:
    """The tiny version of ``config``. What decides which operators run stays: norms, masks, merging, deepstack."""
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
