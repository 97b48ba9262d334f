"""The host side of a served policy: resized pictures, the instruction, the state in the policy's numbers, and the
dictionary that its server wants. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from PIL import Image

from vla_ros.policies.config import CONFIG_FILE, DataConfig
from vla_ros.policies.processor import PolicyProcessor
from vla_ros.policies.served.config import RequestKeys, ServedConfig
from vla_ros.strict import listed
from vla_ros.transforms.images import resize_with_padding
from vla_ros.transforms.normalize import FieldStats
from vla_ros.transforms.prompted import PromptedRequest, make_prompt, read_prompt


def make_message(
    keys: RequestKeys, images: Sequence[np.ndarray], prompt: np.ndarray, state: np.ndarray
) -> dict[str, Any]:
    """The dictionary for a request's arrays."""
    message: dict[str, Any] = {}
    for picture, image in zip(keys.pictures, images, strict=True):
        laid_out = image if keys.layout == "hwc" else np.ascontiguousarray(image.transpose(2, 0, 1))
        _put(message, picture.key, laid_out)
    first = 0
    for each in keys.state:
        _put(message, each.key, state[0, first : first + each.size])
        first += each.size
    _put(message, keys.prompt, read_prompt(prompt))
    return message


def _put(message: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for name in path[:-1]:
        message = message.setdefault(name, {})
    message[path[-1]] = value


class ServedProcessor(PolicyProcessor):
    """Raises ValueError where its cameras' slots aren't those of the dictionary, or numbers are to be normalised, which
    the server does."""

    config: ServedConfig
    request_type = PromptedRequest
    why_not_guidable = "its server takes no chunk to continue"

    def __init__(
        self, config: ServedConfig, data: DataConfig, stats: Mapping[str, FieldStats], digest: str = ""
    ) -> None:
        super().__init__(config, data, stats, digest)
        if {data.normalization, data.state_normalization or "none"} != {"none"}:
            raise ValueError(f"{CONFIG_FILE}: data.normalization is '{data.normalization}'; a server normalises: none")
        slots, known = [slot.key for slot in data.slots], [each.slot for each in config.keys.pictures]
        if slots != known:
            got = f"data.cameras has slots {listed(slots)}"
            raise ValueError(f"{CONFIG_FILE}: {got}; expected those of policy.keys.pictures: {listed(known)}")

    @classmethod
    def for_training(cls, *_: Any) -> NoReturn:
        raise ValueError("a served policy isn't trained here; train it where its server comes from")

    @property
    def camera_size(self) -> tuple[int, int]:
        return 0, 0

    @property
    def image_size(self) -> tuple[int, int]:
        height, width = self.config.keys.image_size
        return height, width

    @property
    def black_size(self) -> tuple[int, int]:
        return self.image_size if self.image_size[0] else (1, 1)

    def make_request(
        self, stamp_ns: int, images: Sequence[np.ndarray], task: str, state: np.ndarray, noise: np.ndarray
    ) -> PromptedRequest:
        for slot, image in zip(self.data.slots, images, strict=True):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                got = f"camera '{slot.camera}' gives {image.dtype} {list(image.shape)}"
                raise ValueError(f"{got}; expected uint8 [height, width, 3]: set it to rgb8")
        height, width = self.image_size
        if height:
            images = [resize_with_padding(image, height, width, Image.Resampling.BILINEAR) for image in images]
        return PromptedRequest(stamp_ns, tuple(images), make_prompt(task), state)
