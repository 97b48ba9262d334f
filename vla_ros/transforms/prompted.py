"""Requests that are pictures, a state and the instruction's own text, for policies that read text themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from vla_ros.transforms.sample import (
    STAMP,
    PolicyRequest,
    RequestView,
    check_tensor,
    read_guidance,
    read_stamp,
)
from vla_ros.types import MAX_TASK_CHARACTERS

IMAGE = "image."
NUM_PROMPT_BYTES = 4 * MAX_TASK_CHARACTERS  # UTF-8 takes four for a character at most


@dataclass(frozen=True)
class PromptedRequest(PolicyRequest):
    """``images`` uint8 [height, width, 3] in the policy's order, ``prompt`` uint8 [NUM_PROMPT_BYTES], UTF-8 with zeros
    after it, ``state`` float32 [state_history, state_dim] in the numbers of the policy's space."""

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
    def from_tensors(cls, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> Self:
        guidance: dict[str, Any] = read_guidance(tensors)
        own = [each.name for each in fields(cls) if each.name not in (STAMP, "images", *guidance)]
        names = image_names(tensors) or (f"{IMAGE}0",)
        missing = [name for name in (*names, *own) if name not in tensors]
        if missing:
            raise ValueError(f"request: tensor '{missing[0]}' is missing; expected images, {', '.join(own)}")
        for name in names:
            check_tensor(name, tensors[name], ("uint8",), 3)
        check_tensor("prompt", tensors["prompt"], ("uint8",), 1)
        check_tensor("state", tensors["state"], ("float32",), 2)
        images = tuple(tensors[name] for name in names)
        return cls(read_stamp(metadata), images=images, **{name: tensors[name] for name in own}, **guidance)


def image_names(tensors: Mapping[str, Any]) -> tuple[str, ...]:
    """What the pictures among a request's tensors are called, in their order."""
    return tuple(f"{IMAGE}{i}" for i in range(sum(name.startswith(IMAGE) for name in tensors)))


def make_prompt(task: str) -> np.ndarray:
    """The ``prompt`` of a request."""
    prompt = np.zeros(NUM_PROMPT_BYTES, np.uint8)
    text = np.frombuffer(task.encode(errors="replace"), np.uint8)
    prompt[: len(text)] = text
    return prompt


def read_prompt(prompt: np.ndarray) -> str:
    """The text in a request's ``prompt``."""
    return prompt.tobytes().rstrip(b"\0").decode(errors="replace")
