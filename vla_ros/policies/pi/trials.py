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
from vla_ros.policies.trials import NUM_CAMERAS, Trials

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
        from vla_ros.policies.pi.reference.compose import as_written_actions, plain_actions

        def run(actions_of: Callable[..., Any]) -> Callable[[Any], Any]:
            return lambda inputs: actions_of(policy, inputs.observation, policy.num_steps, inputs.noise)

        return {"plain_composition": run(plain_actions), "reference_as_written": run(as_written_actions)}

    def stock_prefix(self, policy: Any, inputs: Any) -> Callable[[], Any] | None:
        from vla_ros.policies.pi.stock import stock_forward

        return stock_forward(policy, inputs.observation.policy_input)
