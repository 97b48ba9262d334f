"""The host side of a Pi policy: the backbone's processor makes its input of images and text. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from vla_ros.policies.config import DataConfig
from vla_ros.policies.modules.token_processor import TokenProcessor
from vla_ros.policies.modules.vlm_bridge.inputs import PolicyInput
from vla_ros.policies.modules.vlm_bridge.processor import ProcessorConfig, VLMProcessor
from vla_ros.policies.modules.vlm_bridge.registry import BACKBONES
from vla_ros.policies.pi.config import PiConfig
from vla_ros.policies.pi.released.settings import seen_size
from vla_ros.policies.pi.request import PiRequest
from vla_ros.transforms.normalize import FieldStats
from vla_ros.transforms.sample import TextTarget
from vla_ros.types import Observation

# Of a new policy's prompts: tokens beyond the images that they have room for, and what their length is a multiple of.
ROOM, BUCKET_STEP = (16, 48, 112), 16


class PiProcessor(TokenProcessor):
    """Raises ValueError where settings, tokenizer, backbone and data don't fit together."""

    settings: ProcessorConfig
    request_type = PiRequest
    settings_type = ProcessorConfig
    is_guidable = True
    learns_text = True

    def __init__(
        self,
        config: PiConfig,
        data: DataConfig,
        settings: ProcessorConfig,
        tokenizer: Tokenizer,
        stats: Mapping[str, FieldStats],
        digest: str = "",
    ) -> None:
        super().__init__(config, data, settings, tokenizer, stats, digest)
        backbone: type[VLMProcessor] = BACKBONES[config.vlm_type].processor_class()
        self._vlm = backbone(settings, config, tokenizer, len(data.slots))

    @classmethod
    def resizer(cls, config: PiConfig, settings: ProcessorConfig) -> Callable[[np.ndarray], np.ndarray]:
        return partial(BACKBONES[config.vlm_type].processor_class().resize_image, settings)

    @classmethod
    def on_backbone(cls, config: PiConfig, kind: str, document: Mapping[str, Any]) -> PiConfig:
        for group in ("text_config", "vision_config"):
            if not isinstance(document.get(group), Mapping):
                raise ValueError(f"config.json has no group {group}; give that of a whole {kind}")
        return replace(config, vlm_type=kind, vlm_config=dict(document))

    @classmethod
    def settings_on(
        cls,
        config: PiConfig,
        sizes: Sequence[tuple[int, int]],
        num_images: int,
        tokenizer: Tokenizer,
        image_config: Path | None,
    ) -> ProcessorConfig:
        """Images of the size that the backbone was published for, prompts with room for an instruction and more."""
        backbone = BACKBONES[config.vlm_type]
        height, width = sizes[0] if len(set(sizes)) == 1 else (0, 0)
        vision, side = config.vlm_config["vision_config"], backbone.processor_class().default_image_size
        vlm_config = {**config.vlm_config, "vision_config": {"image_size": side, **vision} if side else vision}
        seen = seen_size(vlm_config, image_config, sizes[0])
        bare = ProcessorConfig(backbone.processor, height, width, *seen, buckets=(1,), padding=not height)
        vlm: VLMProcessor = backbone.processor_class()(bare, config, tokenizer, num_images)
        num_tokens = len(vlm.make_prompt("a", "", "").ids)
        buckets = tuple(-(-(num_tokens + room) // BUCKET_STEP) * BUCKET_STEP for room in ROOM)
        return replace(bare, buckets=buckets[-1:] if vlm.counts_padding else buckets)

    def settings_for(self, sizes: Sequence[tuple[int, int]], num_images: int) -> ProcessorConfig:
        """The buckets leave an instruction the room that they left it beside this policy's images."""
        height, width = sizes[0] if len(set(sizes)) == 1 else (0, 0)
        vlm = type(self._vlm)(self.settings, self.config, self.tokenizer, num_images)
        num_more = len(vlm.make_prompt("a", "", "").ids) - len(self._vlm.make_prompt("a", "", "").ids)
        buckets = tuple(bucket + num_more for bucket in self.settings.buckets)
        return replace(self.settings, camera_height=height, camera_width=width, buckets=buckets)

    def make_batch(
        self, images: np.ndarray, tasks: Sequence[str], states: np.ndarray, targets: Sequence[TextTarget]
    ) -> PolicyInput:
        prompts, answers = [text.prompt for text in targets], [text.answer for text in targets]
        return self._vlm.make_batch(images, tasks, prompts, answers)

    def check_text(self, task: str, target: TextTarget) -> None:
        self._vlm.check_prompt(task, target.prompt, target.answer)

    @property
    def camera_size(self) -> tuple[int, int]:
        return self.settings.camera_height, self.settings.camera_width

    @property
    def image_size(self) -> tuple[int, int]:
        return self.settings.image_height, self.settings.image_width

    def make_request(
        self, stamp_ns: int, images: Sequence[np.ndarray], task: str, state: np.ndarray, noise: np.ndarray
    ) -> PiRequest:
        return PiRequest(stamp_ns, self._vlm.process(images, task), state, noise)

    def every_shape(self, observation: Observation) -> list[PiRequest]:
        """One for each padded length, shortest first: ``observation`` with instructions that grow."""
        requests: dict[int, PiRequest] = {}
        num_words = 1
        while True:
            try:
                request = self.process(replace(observation, task=" ".join(["a"] * num_words)))
            except ValueError:  # beyond the largest bucket
                return list(requests.values())
            mask = request.policy_input.attention_mask
            requests.setdefault(len(mask), request)
            num_words += max(1, (len(mask) - int(mask.sum())) // 4)  # a word takes four tokens at most
