"""The host side of a served policy: resized pictures, the instruction, the state in the policy's numbers, and the
dictionary that its server wants. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from PIL import Image

from vla_ros.policies.config import CONFIG_FILE, DataConfig
from vla_ros.policies.processor import PolicyProcessor
from vla_ros.policies.served.config import RequestKeys, ServedConfig
from vla_ros.strict import listed
from vla_ros.transforms.images import resize_with_padding
from vla_ros.transforms.normalize import FieldStats
from vla_ros.transforms.sample import PolicyRequest, RequestView, check_tensor, read_guidance, read_stamp
from vla_ros.types import MAX_TASK_CHARACTERS

IMAGE = "image."
NUM_PROMPT_BYTES = 4 * MAX_TASK_CHARACTERS  # UTF-8 takes four for a character at most


@dataclass(frozen=True)
class ServedRequest(PolicyRequest):
    """``images`` uint8 [height, width, 3] in the order of the keys' pictures, ``prompt`` uint8 [NUM_PROMPT_BYTES],
    UTF-8 with zeros after it, ``state`` float32 [state_history, state_dim] as the server takes it."""

    images: tuple[np.ndarray, ...]
    prompt: np.ndarray
    state: np.ndarray

    def view(self) -> RequestView:
        images = tuple(image.reshape(-1, 3) for image in self.images)
        grid = tuple((1, *image.shape[:2]) for image in self.images)
        text = np.frombuffer(read_prompt(self.prompt).encode(), np.uint8).astype(np.int64)
        return RequestView(images, grid, self.state, np.zeros(0, np.float32), text)

    def to_tensors(self) -> dict[str, np.ndarray]:
        images = {f"{IMAGE}{i}": np.ascontiguousarray(image) for i, image in enumerate(self.images)}
        return images | super().to_tensors()

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> ServedRequest:
        names = image_names(tensors) or (f"{IMAGE}0",)
        missing = [name for name in (*names, "prompt", "state") if name not in tensors]
        if missing:
            raise ValueError(f"request: tensor '{missing[0]}' is missing; expected images, prompt and state")
        for name in names:
            check_tensor(name, tensors[name], ("uint8",), 3)
        images = tuple(tensors[name] for name in names)
        check_tensor("prompt", tensors["prompt"], ("uint8",), 1)
        check_tensor("state", tensors["state"], ("float32",), 2)
        guidance = read_guidance(tensors)
        return cls(read_stamp(metadata), images, tensors["prompt"], tensors["state"], **guidance)


def image_names(tensors: Mapping[str, Any]) -> tuple[str, ...]:
    """What the pictures among a request's tensors are called, in their order."""
    return tuple(f"{IMAGE}{i}" for i in range(sum(name.startswith(IMAGE) for name in tensors)))


def read_prompt(prompt: np.ndarray) -> str:
    """The text in a request's ``prompt``."""
    return prompt.tobytes().rstrip(b"\0").decode(errors="replace")


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
    request_type = ServedRequest
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
    ) -> ServedRequest:
        for slot, image in zip(self.data.slots, images, strict=True):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                got = f"camera '{slot.camera}' gives {image.dtype} {list(image.shape)}"
                raise ValueError(f"{got}; expected uint8 [height, width, 3]: set it to rgb8")
        height, width = self.image_size
        if height:
            images = [resize_with_padding(image, height, width, Image.Resampling.BILINEAR) for image in images]
        prompt = np.zeros(NUM_PROMPT_BYTES, np.uint8)
        text = np.frombuffer(task.encode(errors="replace"), np.uint8)
        prompt[: len(text)] = text
        return ServedRequest(stamp_ns, tuple(images), prompt, state)
