"""What audit and bench make up of Pi policies: requests without cameras, other compositions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from vla_ros.policies.pi.config import PiConfig
from vla_ros.policies.pi.request import PiRequest
from vla_ros.policies.pi.synthetic import image_size_of, made_up_processor, synthetic_request
from vla_ros.policies.pi.tiny import shrink
from vla_ros.policies.trials import NUM_CAMERAS, Trial, Trials

CAMERA_SIZE = 480, 640
# Makes 180 tokens with two images of a Qwen policy.
NUM_TEXT_TOKENS, NUM_TINY_TEXT_TOKENS = 78, 12
BUCKETS = tuple(range(64, 3073, 64))
MODULATION_GAIN = 0.02


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
    ) -> Callable[[], object]:
        size = image_size or image_size_of(config)
        processor = made_up_processor(config, num_cameras, size, CAMERA_SIZE, BUCKETS)
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
