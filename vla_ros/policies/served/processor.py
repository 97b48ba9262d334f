"""The host side of a served policy: resized pictures, the instruction, the state in the policy's numbers, and the
dictionary that its server wants. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vla_ros.policies.modules.elsewhere import ElsewhereProcessor
from vla_ros.policies.served.config import RequestKeys, ServedConfig
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


class ServedProcessor(ElsewhereProcessor):
    """Its pictures are resized as openpi's clients do it."""

    config: ServedConfig
    why_not_guidable = "its server takes no chunk to continue"

    def make_request(
        self, stamp_ns: int, images: Sequence[np.ndarray], task: str, state: np.ndarray, noise: np.ndarray
    ) -> PromptedRequest:
        return PromptedRequest(stamp_ns, self.resize(images), make_prompt(task), state)
