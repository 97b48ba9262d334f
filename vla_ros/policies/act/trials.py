"""What audit and bench make up of ACT policies: requests without cameras, a small version."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vla_ros.policies.act.config import ActConfig
from vla_ros.policies.act.processor import ActRequest
from vla_ros.policies.trials import NUM_CAMERAS, Trials

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

    def num_tokens(self, request: ActRequest) -> int:
        """Of a backbone whose last group isn't dilated."""
        places = (-(-image.shape[0] // STRIDE) * -(-image.shape[1] // STRIDE) for image in request.images)
        return 1 + len(request.state) + sum(places)
