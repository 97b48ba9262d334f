"""What audit and bench make up of Pi policies: requests without cameras, other compositions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from vla_ros.policies.modules.vlm_bridge.processor import PROMPT_SEPARATOR, ProcessorConfig
from vla_ros.policies.modules.vlm_bridge.registry import BACKBONES
from vla_ros.policies.pi.config import PiConfig
from vla_ros.policies.pi.processor import make_vlm_processor
from vla_ros.policies.pi.request import PiRequest
from vla_ros.policies.pi.synthetic import image_size_of, synthetic_request
from vla_ros.policies.pi.tiny import shrink
from vla_ros.policies.trials import NUM_CAMERAS, Trial, Trials

CAMERA_SIZE = 480, 640
# Makes 180 tokens with two images of a Qwen policy.
NUM_TEXT_TOKENS, NUM_TINY_TEXT_TOKENS = 78, 12
BUCKET_STEP, NUM_BUCKETS = 64, 48
MODULATION_GAIN = 0.02
_UNKNOWN = "<unk>"
# What a backbone's processor needs of its tokenizer: special tokens, and the key of their id where that is given.
_SPECIAL_TOKENS: dict[str, dict[str, str | None]] = {
    "Qwen3VLForConditionalGeneration": {
        "<|image_pad|>": "image_token_id",
        "<|vision_start|>": "vision_start_token_id",
        "<|vision_end|>": "vision_end_token_id",
        "<|endoftext|>": None,
        "<|im_end|>": None,
    },
    "PaliGemmaForConditionalGeneration": {"<pad>": None, "<bos>": None, "<eos>": None},
    "SmolVLMForConditionalGeneration": {
        "<image>": "image_token_id",
        "<|im_end|>": None,
        "<|im_start|>": None,
        "<end_of_utterance>": None,
        "<fake_token_around_image>": None,
        "<global-img>": None,
    },
}


class PiTrials(Trials):
    def make_request(
        self, config: PiConfig, num_cameras: int = NUM_CAMERAS, image_size: tuple[int, int] | None = None
    ) -> PiRequest:
        return synthetic_request(config, num_cameras, image_size or image_size_of(config), NUM_TEXT_TOKENS)

    def shrink(self, trial: Trial) -> Trial:
        tiny, num_cameras = shrink(trial.config), len(trial.request.policy_input.image_grid)
        return Trial(tiny, synthetic_request(tiny, num_cameras, image_size_of(tiny), NUM_TINY_TEXT_TOKENS))

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
    ) -> Callable[[], object] | None:
        if config.vlm_type not in _SPECIAL_TOKENS:
            return None
        height, width = image_size or image_size_of(config)
        images = ProcessorConfig(
            type=BACKBONES[config.vlm_type].processor,
            camera_height=CAMERA_SIZE[0],
            camera_width=CAMERA_SIZE[1],
            image_height=height,
            image_width=width,
            buckets=tuple(BUCKET_STEP * (i + 1) for i in range(NUM_BUCKETS)),
        )
        processor = make_vlm_processor(images, config, _make_tokenizer(config), num_cameras)
        rng = np.random.default_rng(0)
        frames = [rng.integers(0, 256, (*CAMERA_SIZE, 3), np.uint8) for _ in range(num_cameras)]
        task = " ".join(["word"] * NUM_TEXT_TOKENS)
        return lambda: processor.process(frames, task)

    def make_step_constants(self, config: PiConfig) -> None:
        import torch

        from vla_ros.policies.utils.transformers import modulated_rms_norm, rotary_angles

        expert = config.action_expert_cfg
        num_rows = config.action_horizon + (config.state_history if config.use_state else 0)
        rotary_angles(num_rows, expert.head_dim, expert.rope_theta, torch.device("cpu"))
        with torch.no_grad():
            row = torch.ones(1, expert.hidden_size)
            modulated_rms_norm(row, row, row, expert.rms_norm_eps)

    def make_prefix(self, policy: Any) -> Any:
        """For an expert that reads the whole prefix, one of 256 positions: the count of operators is the same."""
        import torch

        from vla_ros.policies.modules.vlm_bridge.data_types import VLMOutputs

        config, mask, num_tokens = policy.config, None, policy.config.num_obs_registers
        if not config.expert_only_use_register:
            num_tokens = 256
            mask = torch.ones(1, num_tokens, dtype=torch.bool)
        hidden = policy.obs_registers.new_empty(1, num_tokens, policy.obs_registers.shape[1])
        return VLMOutputs((hidden,) * config.action_expert_cfg.num_hidden_layers, mask)

    def num_tokens(self, request: PiRequest) -> int:
        return len(request.policy_input.input_ids)

    def compositions(self, policy: Any) -> Mapping[str, Callable[[Any], Any]]:
        from vla_ros.policies.pi.reference import as_written_actions, plain_actions

        def run(actions_of: Callable[..., Any]) -> Callable[[Any], Any]:
            return lambda inputs: actions_of(policy, inputs.observation, policy.num_steps, inputs.noise)

        return {"plain_composition": run(plain_actions), "reference_as_written": run(as_written_actions)}

    def stock_prefix(self, policy: Any, inputs: Any) -> Callable[[], Any] | None:
        from vla_ros.policies.pi.stock import stock_forward

        return stock_forward(policy, inputs.observation.policy_input)


def _make_tokenizer(config: PiConfig) -> Tokenizer:
    """One that knows the special tokens by the ids of the backbone's configuration, and no other word."""
    keys = _SPECIAL_TOKENS[config.vlm_type]
    given = {token: int(config.vlm_config[key]) for token, key in keys.items() if key is not None}
    others = [*(token for token in keys if token not in given), PROMPT_SEPARATOR, _UNKNOWN]
    free = (i for i in range(len(keys) + len(others)) if i not in given.values())
    tokenizer = Tokenizer(models.WordLevel(given | dict(zip(others, free, strict=False)), unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer
