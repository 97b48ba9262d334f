"""The host side of a SmolVLA policy: pictures resized as it saw them in training, and tokens. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from vla_ros.policies.config import DataConfig
from vla_ros.policies.modules.token_processor import TokenProcessor
from vla_ros.policies.modules.vlm_bridge.processor import read_int
from vla_ros.policies.smolvla.config import SmolVLAConfig
from vla_ros.policies.smolvla.request import SmolVLARequest
from vla_ros.transforms.images import fitted_size, resize_bilinear
from vla_ros.transforms.normalize import FieldStats
from vla_ros.transforms.sample import TextTarget
from vla_ros.transforms.tokenizer import without_panic
from vla_ros.types import Observation

BUCKET = 16  # an instruction is padded to a multiple of this
MAX_SIDE = 8192


@dataclass(frozen=True)
class PictureConfig:
    """``processor.json``: ``camera_sizes`` are (height, width) in pixels of each camera's pictures."""

    camera_sizes: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        for size in self.camera_sizes:
            if len(size) != 2 or not all(1 <= side <= MAX_SIDE for side in size):
                raise ValueError(f"processor.json: a camera has the size {list(size)}; expected height and width")


class SmolVLAProcessor(TokenProcessor):
    """Raises ValueError where tokenizer and backbone don't fit together."""

    settings: PictureConfig
    request_type = SmolVLARequest
    settings_type = PictureConfig
    is_guidable = True

    def __init__(
        self,
        config: SmolVLAConfig,
        data: DataConfig,
        settings: PictureConfig,
        tokenizer: Tokenizer,
        stats: Mapping[str, FieldStats],
        digest: str = "",
    ) -> None:
        super().__init__(config, data, settings, tokenizer, stats, digest)
        tokenizer.encode_special_tokens = True  # an instruction that spells a special token stays plain text
        self.side = read_int(config.vlm_config, "vision_config", "image_size")
        if len(settings.camera_sizes) != len(self.camera_names) or not data.slots:
            got = f"{len(settings.camera_sizes)} camera_sizes"
            cameras = ", ".join(self.camera_names) or "no camera"
            raise ValueError(f"processor.json: {got}; expected one for each of {cameras}")
        num_tokens, vocab_size = 1 + max(tokenizer.get_vocab().values(), default=-1), self._vocab_size
        if num_tokens > vocab_size:
            got = f"tokenizer.json: {num_tokens} tokens, the backbone has {vocab_size}"
            raise ValueError(f"{got}; give the tokenizer of the VLM that the policy was trained with")

    @classmethod
    def on_backbone(cls, config: SmolVLAConfig, kind: str, document: Mapping[str, Any]) -> SmolVLAConfig:
        if kind != "SmolVLMForConditionalGeneration":
            super().on_backbone(config, kind, document)
        return replace(config, vlm_config=dict(document))

    @classmethod
    def settings_on(
        cls,
        config: SmolVLAConfig,
        sizes: Sequence[tuple[int, int]],
        num_images: int,
        tokenizer: Tokenizer,
        image_config: Path | None,
    ) -> PictureConfig:
        return PictureConfig(tuple(sizes))

    def settings_for(self, sizes: Sequence[tuple[int, int]], num_images: int) -> PictureConfig:
        return PictureConfig(tuple(sizes))

    @property
    def camera_size(self) -> tuple[int, int]:
        sizes = set(self.camera_sizes.values())
        return next(iter(sizes)) if len(sizes) == 1 else (0, 0)

    @property
    def camera_sizes(self) -> Mapping[str, tuple[int, int]]:
        sizes = ((height, width) for height, width in self.settings.camera_sizes)
        return dict(zip(self.camera_names, sizes, strict=True))

    @property
    def image_size(self) -> tuple[int, int]:
        return self.side, self.side

    @property
    def noise_dim(self) -> int:
        return self.config.max_action_dim

    @property
    def buckets(self) -> tuple[int, ...]:
        """The padded lengths of an instruction."""
        most = self.config.max_tokens
        return (*range(BUCKET, most, BUCKET), most)

    @property
    def _vocab_size(self) -> int:
        return read_int(self.config.vlm_config, "text_config", "vocab_size")

    def make_request(
        self, stamp_ns: int, images: Sequence[np.ndarray], task: str, state: np.ndarray, noise: np.ndarray
    ) -> SmolVLARequest:
        ids = self.encode(task)
        return self._request(
            stamp_ns, images, ids, next(size for size in self.buckets if size >= len(ids)), state, noise
        )

    def make_batch(
        self, images: np.ndarray, tasks: Sequence[str], states: np.ndarray, targets: Sequence[TextTarget]
    ) -> dict[str, np.ndarray]:
        """All instructions padded alike."""
        noise, most = np.zeros((self.config.action_horizon, self.noise_dim), np.float32), self.buckets[-1]
        rows = [
            self._request(0, list(views), self.encode(task), most, state, noise).to_tensors()
            for views, task, state in zip(images, tasks, states, strict=True)
        ]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def every_shape(self, observation: Observation) -> list[SmolVLARequest]:
        request = self.process(observation)
        padded = ((np.zeros(size, np.int64), np.ones(size, bool)) for size in self.buckets)
        return [replace(request, tokens=tokens, token_mask=mask) for tokens, mask in padded]

    def encode(self, task: str) -> list[int]:
        """The tokens of an instruction, which ends in a line break, cut where it is too long."""
        with without_panic():
            ids = self.tokenizer.encode(task if task.endswith("\n") else f"{task}\n").ids
        most = self.config.max_tokens
        return ids[-most:] if self.config.cuts_left else ids[:most]

    def _request(
        self,
        stamp_ns: int,
        images: Sequence[np.ndarray],
        ids: list[int],
        bucket: int,
        state: np.ndarray,
        noise: np.ndarray,
    ) -> SmolVLARequest:
        tokens, mask = np.zeros(bucket, np.int64), np.arange(bucket) < len(ids)
        tokens[: len(ids)] = ids
        pictures = [self._picture(slot.camera, image) for slot, image in zip(self.data.slots, images, strict=True)]
        return SmolVLARequest(stamp_ns, np.stack(pictures), tokens, mask, state, noise)

    def _picture(self, name: str | None, image: np.ndarray) -> np.ndarray:
        size = image.shape[:2] if name is None else self.camera_sizes[name]  # without a camera, black of any size
        if image.shape != (*size, 3) or image.dtype != np.uint8:
            got = f"camera '{name}' gives {image.dtype} {list(image.shape)}"
            raise ValueError(f"{got}; expected uint8 {[*size, 3]}: set its size and rgb8")
        return fit_picture(image, self.side)


def fit_picture(image: np.ndarray, side: int) -> np.ndarray:
    """uint8 [height, width, 3] to float32 [side, side, 3] in -1..1: its shape is kept, and what is left over, above or
    at the left, is black."""
    height, width = fitted_size(image, side, side)
    picture = np.full((side, side, 3), -1.0, np.float32)
    inside = picture[side - height :, side - width :]
    np.multiply(resize_bilinear(image, height, width), np.float32(2), out=inside)
    inside -= np.float32(1)
    return picture
