"""What audit and bench make up of pi0 and pi0.5: requests without cameras or a tokenizer, small versions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from vla_ros.policies.config import DataConfig
from vla_ros.policies.modules.layers.sizes import GemmaSizes, SiglipSizes
from vla_ros.policies.pi0.config import Pi0Config
from vla_ros.policies.pi0.processor import Pi0Processor, Pi0Settings
from vla_ros.policies.pi0.prompt import BEGIN, PAD
from vla_ros.policies.pi0.request import Pi0Request
from vla_ros.policies.processor import stats_shapes
from vla_ros.policies.trials import NUM_CAMERAS, LeRobotForm, Trials
from vla_ros.transforms.normalize import FieldStats

CAMERA_SIZE = 480, 640
# A sentence; and a sentence with a state of seven numbers, each digit a token.
NUM_TOKENS, MAX_TOKENS = {"pi0": 32, "pi05": 64}, {"pi0": 48, "pi05": 200}
NUM_TINY_TOKENS, TINY_VOCABULARY, NUM_STEPS = 16, 64, 2


class Pi0Trials(Trials):
    num_words = 40  # which make about NUM_TOKENS["pi05"] with a state

    def make_request(
        self, config: Pi0Config, num_cameras: int = NUM_CAMERAS, image_size: tuple[int, int] | None = None
    ) -> Pi0Request:
        side = config.vision.image_size
        if image_size not in (None, (side, side)):
            raise ValueError(f"a pi0 policy of {side}x{side} pixels can't see {image_size}; leave the size out")
        return _request(config, num_cameras, NUM_TOKENS[config.variant])

    def shrink(self, config: Pi0Config, request: Pi0Request) -> tuple[Pi0Config, Pi0Request]:
        shared = {"num_layers": 3, "num_heads": 4, "num_kv_heads": 1, "head_dim": 8}
        tiny = replace(
            config,
            vocab_size=TINY_VOCABULARY,
            text=GemmaSizes(width=32, mlp_dim=48, **shared),
            expert=GemmaSizes(width=16, mlp_dim=24, **shared),
            vision=SiglipSizes(width=32, mlp_dim=48, num_layers=2, num_heads=4, patch_size=14, image_size=56),
            num_steps=NUM_STEPS,
        )
        return tiny, _request(tiny, len(request.pixel_values), NUM_TINY_TOKENS)

    def resize(self, config: Pi0Config, horizon: int, num_steps: int) -> Pi0Config:
        frozen = min(config.max_frozen_actions, horizon - 1)
        return replace(config, action_horizon=horizon, num_steps=num_steps, max_frozen_actions=frozen)

    def make_processor(self, config: Pi0Config, num_cameras: int = NUM_CAMERAS) -> Pi0Processor:
        return _processor(config, num_cameras)

    def as_lerobot(self, config: Pi0Config) -> LeRobotForm:
        from vla_ros.policies.pi0.lerobot import as_lerobot

        return as_lerobot(config)

    def num_tokens(self, request: Pi0Request) -> int:
        return request.pixel_values.shape[0] * request.pixel_values.shape[1] + len(request.tokens)


def _request(config: Pi0Config, num_cameras: int, num_tokens: int) -> Pi0Request:
    rng, vision = np.random.default_rng(0), config.vision
    patches = (num_cameras, vision.num_patches, 3 * vision.patch_size**2)
    return Pi0Request(
        stamp_ns=0,
        pixel_values=rng.uniform(-1, 1, patches).astype(np.float32),
        tokens=rng.integers(0, config.vocab_size, num_tokens),
        token_mask=np.ones(num_tokens, bool),
        state=rng.standard_normal((1, config.padded_state_dim), np.float32),
        noise=rng.standard_normal((config.action_horizon, config.padded_action_dim), np.float32),
    )


def _processor(config: Pi0Config, num_cameras: int) -> Pi0Processor:
    """With a tokenizer that knows no word."""
    tokenizer = Tokenizer(models.WordLevel({PAD: 0, BEGIN: 1, "<unk>": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    joints = tuple(f"joint_{i}" for i in range(config.action_dim))
    state = tuple({"type": "joint", "joint": name} for name in joints[: config.state_dim])
    data = DataConfig(
        joint_names=joints,
        camera_names=tuple(f"camera_{i}" for i in range(num_cameras)),
        action_horizon=config.action_horizon,
        chunk_dt_s=0.1,
        normalization="lerobot_range",
        state=state,
    )
    stats = {
        key: FieldStats(*(np.full(s, x, np.float32) for x in (0, 1, -1, 1))) for key, s in stats_shapes(config).items()
    }
    settings = Pi0Settings(
        "lerobot-0.6", MAX_TOKENS[config.variant], config.state_dim, 16, (CAMERA_SIZE,) * num_cameras
    )
    return Pi0Processor(config, data, settings, tokenizer, stats)
