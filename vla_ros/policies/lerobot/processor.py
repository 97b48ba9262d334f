"""The host side of a policy that LeRobot runs: pictures, the instruction, the state in the policy's numbers. What is
made of them is LeRobot's, in the model node. Imports neither torch nor LeRobot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
from PIL import Image

from vla_ros.policies.config import CONFIG_FILE, DataConfig
from vla_ros.policies.lerobot.config import LeRobotConfig
from vla_ros.policies.processor import PolicyProcessor
from vla_ros.strict import listed
from vla_ros.transforms.images import resize_with_padding
from vla_ros.transforms.normalize import FieldStats
from vla_ros.transforms.prompted import PromptedRequest, make_prompt
from vla_ros.transforms.sample import RequestView

NO_TRAINING = "a policy of LeRobot isn't trained here; train it with LeRobot, and import that"


@dataclass(frozen=True)
class LeRobotRequest(PromptedRequest):
    """``noise`` int64 [1] is the seed of whatever the policy draws."""

    noise: np.ndarray

    def view(self) -> RequestView:
        return replace(super().view(), noise=self.noise)


class LeRobotProcessor(PolicyProcessor):
    """Raises ValueError where its cameras' slots aren't the policy's pictures, or numbers are to be normalised, which
    LeRobot does."""

    config: LeRobotConfig
    request_type = LeRobotRequest
    why_not_guidable = "LeRobot runs it, and is given no chunk to continue"

    def __init__(
        self, config: LeRobotConfig, data: DataConfig, stats: Mapping[str, FieldStats], digest: str = ""
    ) -> None:
        super().__init__(config, data, stats, digest)
        if {data.normalization, data.state_normalization or "none"} != {"none"}:
            raise ValueError(f"{CONFIG_FILE}: data.normalization is '{data.normalization}'; LeRobot normalises: none")
        slots, known = [slot.key for slot in data.slots], [each.key for each in config.pictures]
        if slots != known:
            got = f"data.cameras has slots {listed(slots)}"
            raise ValueError(f"{CONFIG_FILE}: {got}; expected those of policy.pictures: {listed(known)}")

    @classmethod
    def for_training(cls, *_: object) -> NoReturn:
        raise ValueError(NO_TRAINING)

    @property
    def camera_size(self) -> tuple[int, int]:
        return 0, 0

    @property
    def image_size(self) -> tuple[int, int]:
        """Of all cameras; 0 where they differ."""
        sizes = {(each.size[0], each.size[1]) for each in self.config.pictures}
        return next(iter(sizes)) if len(sizes) == 1 else (0, 0)

    @property
    def black_size(self) -> tuple[int, int]:
        return self.image_size if self.image_size[0] else (1, 1)

    @property
    def noise_dim(self) -> int:
        """Two of them make a seed."""
        return 2

    def make_request(
        self, stamp_ns: int, images: Sequence[np.ndarray], task: str, state: np.ndarray, noise: np.ndarray
    ) -> LeRobotRequest:
        for slot, image in zip(self.data.slots, images, strict=True):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                got = f"camera '{slot.camera}' gives {image.dtype} {list(image.shape)}"
                raise ValueError(f"{got}; expected uint8 [height, width, 3]: set it to rgb8")
        resized = tuple(
            resize_with_padding(image, each.size[0], each.size[1], Image.Resampling.BILINEAR)
            for image, each in zip(images, self.config.pictures, strict=True)
        )
        seed = np.ascontiguousarray(noise[0, :2]).view(np.int64) & np.int64(np.iinfo(np.int64).max)
        return LeRobotRequest(stamp_ns, resized, make_prompt(task), state, seed)
