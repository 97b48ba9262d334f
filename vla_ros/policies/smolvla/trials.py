"""What audit and bench make up of SmolVLA policies: requests without cameras or a tokenizer, a small version."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from vla_ros.policies.config import DataConfig
from vla_ros.policies.modules.vlm_bridge.processor import read_int
from vla_ros.policies.smolvla.config import SmolVLAConfig
from vla_ros.policies.smolvla.processor import BUCKET, PictureConfig, SmolVLAProcessor
from vla_ros.policies.smolvla.request import SmolVLARequest
from vla_ros.policies.trials import NUM_CAMERAS, LeRobotForm, Trials
from vla_ros.transforms.normalize import FieldStats

CAMERA_SIZE = 480, 640
UNKNOWN = "<unk>"
NUM_STEPS, NUM_LAYERS = 2, 4  # of the small version, and so are the next
TOKENS_PER_SIDE = 4  # of an image
TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
VISION = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TOKEN_IDS = {"pad_token_id": 0, "image_token_id": 1}
VOCAB_SIZE = 512


class SmolVLATrials(Trials):
    def make_request(
        self, config: SmolVLAConfig, num_cameras: int = NUM_CAMERAS, image_size: tuple[int, int] | None = None
    ) -> SmolVLARequest:
        """Raises ValueError for images of another size than the tower's."""
        side, rng = read_int(config.vlm_config, "vision_config", "image_size"), np.random.default_rng(0)
        if image_size not in (None, (side, side)):
            raise ValueError(f"images are {image_size}; expected {(side, side)}, the size of the vision tower")
        bucket = min(BUCKET, config.max_tokens)
        tokens = rng.integers(2, read_int(config.vlm_config, "text_config", "vocab_size"), bucket, np.int64)
        return SmolVLARequest(
            stamp_ns=0,
            pictures=rng.uniform(-1.0, 1.0, (num_cameras, side, side, 3)).astype(np.float32),
            tokens=tokens,
            token_mask=np.arange(bucket) < self.num_words,
            state=rng.standard_normal((1, config.state_dim), np.float32),
            noise=rng.standard_normal((config.action_horizon, config.max_action_dim), np.float32),
        )

    def shrink(self, config: SmolVLAConfig, request: SmolVLARequest) -> tuple[SmolVLAConfig, SmolVLARequest]:
        every = config.num_vlm_layers // config.num_expert_layers
        text = {**config.vlm_config["text_config"], **TEXT, "num_hidden_layers": NUM_LAYERS * every}
        text |= {"vocab_size": VOCAB_SIZE, "pad_token_id": 0}
        vision = {**config.vlm_config["vision_config"], **VISION}
        vision["image_size"] = vision["patch_size"] * config.vlm_config["scale_factor"] * TOKENS_PER_SIDE
        small = replace(
            config,
            vlm_config={**config.vlm_config, **TOKEN_IDS, "text_config": text, "vision_config": vision},
            num_vlm_layers=NUM_LAYERS * every,
            num_expert_layers=NUM_LAYERS,
            expert_hidden_size=32,
            expert_intermediate_size=48,
            image_tokens=(2, 3) if config.image_tokens else (),
            num_steps=NUM_STEPS,
        )
        return small, self.make_request(small, len(request.pictures))

    def resize(self, config: SmolVLAConfig, horizon: int, num_steps: int) -> SmolVLAConfig:
        return replace(config, action_horizon=horizon, num_steps=num_steps)

    def make_processor(self, config: SmolVLAConfig, num_cameras: int = NUM_CAMERAS) -> SmolVLAProcessor:
        return made_up_processor(config, tuple(f"camera{i}" for i in range(num_cameras)))

    def as_lerobot(self, config: SmolVLAConfig) -> LeRobotForm:
        from vla_ros.policies.smolvla.lerobot import as_lerobot

        return as_lerobot(config)

    def num_tokens(self, request: SmolVLARequest) -> int:
        """Of a tower with patches of 16 pixels, of which 16 become one token, as published."""
        return len(request.pictures) * (request.pictures.shape[1] // 64) ** 2 + len(request.tokens) + 1


def made_up_processor(config: SmolVLAConfig, cameras: tuple[str, ...]) -> SmolVLAProcessor:
    """With a tokenizer that knows no word, for a robot whose joints are the numbers of an action."""
    tokenizer = Tokenizer(models.WordLevel({UNKNOWN: 0}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    sizes, stats = {"state": (1, config.state_dim), "action": (config.action_horizon, config.action_dim)}, {}
    for key, shape in sizes.items():
        zeros, ones = np.zeros(shape, np.float32), np.ones(shape, np.float32)
        stats[key] = FieldStats(zeros, ones, -ones, ones)
    joints = tuple(f"joint{i}" for i in range(config.action_dim))
    padding = [{"type": "constant", "size": config.state_dim}]
    data = DataConfig(joints, cameras, config.action_horizon, chunk_dt_s=0.1, state=tuple(padding))
    return SmolVLAProcessor(config, data, PictureConfig((CAMERA_SIZE,) * len(cameras)), tokenizer, stats)
