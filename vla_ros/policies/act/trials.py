"""What audit and bench make up of ACT policies: requests without cameras, a small version."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vla_ros.policies.act.config import ActConfig
from vla_ros.policies.act.processor import ActProcessor, ActRequest
from vla_ros.policies.config import DataConfig
from vla_ros.policies.processor import stats_shapes
from vla_ros.policies.trials import NUM_CAMERAS, LeRobotForm, Trials
from vla_ros.transforms.normalize import FieldStats

STRIDE = 32  # pixels along each side that one feature stands for
SMALL_SIZE = 64, 96


class ActTrials(Trials):
    def make_request(
        self, config: ActConfig, num_cameras: int = NUM_CAMERAS, image_size: tuple[int, int] | None = None
    ) -> ActRequest:
        """Of the cameras that the policy was trained on, whatever is asked for: it takes no others."""
        rng = np.random.default_rng(0)
        images = tuple(rng.integers(0, 256, (*camera.size, 3), np.uint8) for camera in config.cameras)
        return ActRequest(0, images, rng.standard_normal((config.state_history, config.state_dim), np.float32))

    def shrink(self, config: ActConfig, request: ActRequest) -> tuple[ActConfig, ActRequest]:
        small = replace(
            config,
            cameras=tuple(replace(camera, size=SMALL_SIZE) for camera in config.cameras),
            backbone_width=8,
            hidden_size=32,
            num_heads=4,
            feedforward_size=64,
            num_encoder_layers=min(config.num_encoder_layers, 2),
            num_vae_encoder_layers=1,
        )
        return small, self.make_request(small)

    def make_processor(self, config: ActConfig, num_cameras: int = NUM_CAMERAS) -> ActProcessor:
        """For the cameras that the policy was trained on, and a robot whose joints are the numbers of an action."""
        joints = tuple(f"joint_{i}" for i in range(config.action_dim))
        data = DataConfig(
            joint_names=joints,
            camera_names=tuple(f"camera_{i}" for i in range(len(config.cameras))),
            action_horizon=config.action_horizon,
            chunk_dt_s=0.1,
            state=({"type": "constant", "size": config.state_dim},),
            state_history=config.state_history,
        )
        ones = {key: np.ones(shape, np.float32) for key, shape in stats_shapes(config).items()}
        return ActProcessor(config, data, {key: FieldStats(0 * one, one, -one, one) for key, one in ones.items()})

    def as_lerobot(self, config: ActConfig) -> LeRobotForm:
        from vla_ros.policies.act.lerobot import as_lerobot

        return as_lerobot(config)

    def num_tokens(self, request: ActRequest) -> int:
        """Of a backbone whose last group isn't dilated."""
        places = (-(-image.shape[0] // STRIDE) * -(-image.shape[1] // STRIDE) for image in request.images)
        return 1 + len(request.state) + sum(places)
