"""The host side of a policy that another program or library computes: resized pictures, the instruction, the state in
the policy's numbers. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, NoReturn

import numpy as np
from PIL import Image

from vla_ros.policies.config import CONFIG_FILE, DataConfig, PolicyConfig
from vla_ros.policies.processor import PolicyProcessor
from vla_ros.strict import check_range, listed
from vla_ros.transforms.images import resize_with_padding
from vla_ros.transforms.normalize import FieldStats
from vla_ros.transforms.prompted import PromptedRequest

MAX_SIZE, MAX_SIDE = 100_000, 8192


class ElsewhereConfig(PolicyConfig):
    """``computed_by`` names who does it; ``pictures_key`` is where policy.yaml has ``picture_sizes``: (height, width)
    in pixels for each camera's slot, in order, 0, 0 for pictures that stay as they come."""

    runs_here: ClassVar[bool] = False
    computed_by: ClassVar[str]
    pictures_key: ClassVar[str]
    picture_sizes: Mapping[str, tuple[int, int]]

    def check_sizes(self) -> None:
        check_range("policy.", self, 1, MAX_SIZE, "action_horizon", "action_dim", "state_dim")
        check_range("policy.", self, 0, 1, "state_history")

    def refuse_training(self) -> NoReturn:
        raise ValueError(f"what {self.computed_by} computes isn't trained here; train it there, and import that")


class ElsewhereProcessor(PolicyProcessor):
    """Raises ValueError where its cameras' slots aren't the policy's, or numbers are to be normalised, which is done
    elsewhere."""

    config: ElsewhereConfig
    request_type = PromptedRequest

    def __init__(
        self, config: ElsewhereConfig, data: DataConfig, stats: Mapping[str, FieldStats], digest: str = ""
    ) -> None:
        super().__init__(config, data, stats, digest)
        if {data.normalization, data.state_normalization or "none"} != {"none"}:
            got = f"{CONFIG_FILE}: data.normalization is '{data.normalization}'"
            raise ValueError(f"{got}; {config.computed_by} normalises: none")
        slots, known = [slot.key for slot in data.slots], list(config.picture_sizes)
        if slots != known:
            got = f"{CONFIG_FILE}: data.cameras has slots {listed(slots)}"
            raise ValueError(f"{got}; expected those of {config.pictures_key}: {listed(known)}")

    @classmethod
    def for_training(cls, config: ElsewhereConfig, *_: object) -> NoReturn:
        config.refuse_training()

    @property
    def camera_size(self) -> tuple[int, int]:
        return 0, 0

    @property
    def image_size(self) -> tuple[int, int]:
        """Of all slots; 0 where they differ."""
        sizes = set(self.config.picture_sizes.values())
        return sizes.pop() if len(sizes) == 1 else (0, 0)

    @property
    def black_size(self) -> tuple[int, int]:
        return self.image_size if self.image_size[0] else (1, 1)

    def resize(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """``images`` of the slots in the policy's sizes, black on both sides of what is left. Raises ValueError for one
        that isn't uint8 [height, width, 3]."""
        for slot, image in zip(self.data.slots, images, strict=True):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                got = f"camera '{slot.camera}' gives {image.dtype} {list(image.shape)}"
                raise ValueError(f"{got}; expected uint8 [height, width, 3]: set it to rgb8")
        sizes = self.config.picture_sizes.values()
        return tuple(
            resize_with_padding(image, height, width, Image.Resampling.BILINEAR) if height else image
            for image, (height, width) in zip(images, sizes, strict=True)
        )
