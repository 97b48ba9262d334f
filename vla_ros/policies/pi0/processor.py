"""The host side of pi0: pictures as it was trained to see them, tokens padded to a bucket. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from vla_ros.policies.config import DataConfig
from vla_ros.policies.modules.layers.sizes import GemmaSizes, SiglipSizes
from vla_ros.policies.modules.token_processor import TokenProcessor
from vla_ros.policies.modules.vlm_bridge.processor import read_int
from vla_ros.policies.pi0.config import Pi0Config
from vla_ros.policies.pi0.pictures import RULES, make_picture
from vla_ros.policies.pi0.prompt import PAD, check_tokenizer, make_tokens
from vla_ros.policies.pi0.request import Pi0Request
from vla_ros.strict import check_choice, check_range, quoted
from vla_ros.transforms.images import patchify
from vla_ros.transforms.normalize import FieldStats
from vla_ros.transforms.sample import TextTarget
from vla_ros.types import Observation

MAX_TOKENS, MAX_SIDE = 4096, 8192
NUM_CACHED_TASKS = 1024
DEFAULT_MAX_TOKENS = {"pi0": 48, "pi05": 200}  # LeRobot's
# As config.json calls the sizes, in their order.
_TEXT_KEYS = "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim".split()
_DEFAULTS = {"text_config": {"head_dim": 256}, "vision_config": {"image_size": 224}}  # transformers'
_VISION_KEYS = "hidden_size intermediate_size num_hidden_layers num_attention_heads patch_size image_size".split()


@dataclass(frozen=True)
class Pi0Settings:
    """``processor.json``: by whose ``rules`` (one of ``pictures.RULES``) pictures and prompts are made.

    A prompt is cut to ``max_tokens`` and padded to a multiple of ``bucket_step``; pi0.5's tells ``num_prompt_states``
    numbers, zeros beyond the state's, or with 0 none of it. ``camera_sizes`` are (height, width) in pixels, by camera;
    none: any size.
    """

    rules: str
    max_tokens: int
    num_prompt_states: int
    bucket_step: int = 16
    camera_sizes: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        check_choice("processor.json: rules", self.rules, RULES)
        check_range("processor.json: ", self, 1, MAX_TOKENS, "max_tokens", "bucket_step")
        for size in self.camera_sizes:
            if len(size) != 2 or not all(1 <= side <= MAX_SIDE for side in size):
                raise ValueError(f"processor.json: a camera has the size {list(size)}; expected height and width")

    @property
    def buckets(self) -> tuple[int, ...]:
        """The padded lengths of a prompt, shortest first."""
        return (*range(self.bucket_step, self.max_tokens, self.bucket_step), self.max_tokens)


class Pi0Processor(TokenProcessor):
    """Raises ValueError where settings or tokenizer don't fit the policy."""

    settings: Pi0Settings
    request_type = Pi0Request
    settings_type = Pi0Settings
    is_guidable = True

    def __init__(
        self,
        config: Pi0Config,
        data: DataConfig,
        settings: Pi0Settings,
        tokenizer: Tokenizer,
        stats: Mapping[str, FieldStats],
        digest: str = "",
    ) -> None:
        super().__init__(config, data, settings, tokenizer, stats, digest)
        if settings.camera_sizes and len(settings.camera_sizes) != len(self.camera_names):
            got = f"{len(settings.camera_sizes)} camera_sizes"
            raise ValueError(f"processor.json: {got}; expected one for each of {', '.join(self.camera_names)}")
        if settings.num_prompt_states not in (0, *range(config.state_dim, config.padded_state_dim + 1)):
            got = f"num_prompt_states is {settings.num_prompt_states}"
            expected = f"expected 0, or {config.state_dim} to {config.padded_state_dim}, as the state is padded"
            raise ValueError(f"processor.json: {got}; {expected}")
        check_tokenizer(tokenizer, config.vocab_size)
        self.tokenizer.encode_special_tokens = True  # an instruction that spells a special token stays plain text
        self._tokens = lru_cache(NUM_CACHED_TASKS)(self._tokens_of_task)

    @classmethod
    def on_backbone(cls, config: Pi0Config, kind: str, document: Mapping[str, Any]) -> Pi0Config:
        if kind != "PaliGemmaForConditionalGeneration":
            super().on_backbone(config, kind, document)
        groups = {name: dict(document.get(name) or {}) for name in ("text_config", "vision_config")}
        if (got := groups["text_config"].get("model_type", "gemma")) != "gemma":
            raise ValueError(
                f"text_config.model_type is '{quoted(str(got))}'; a {config.type} reads 'gemma', PaliGemma 1"
            )
        groups = {name: _DEFAULTS[name] | group for name, group in groups.items()}
        return replace(
            config,
            vocab_size=read_int(groups, "text_config", "vocab_size"),
            text=GemmaSizes(*(read_int(groups, "text_config", key) for key in _TEXT_KEYS)),
            vision=SiglipSizes(*(read_int(groups, "vision_config", key) for key in _VISION_KEYS)),
        )

    @classmethod
    def settings_on(
        cls,
        config: Pi0Config,
        sizes: Sequence[tuple[int, int]],
        num_images: int,
        tokenizer: Tokenizer,
        image_config: Path | None,
    ) -> Pi0Settings:
        most = DEFAULT_MAX_TOKENS[config.variant]
        return Pi0Settings(RULES[0], most, config.state_dim, camera_sizes=tuple(sizes))

    def settings_for(self, sizes: Sequence[tuple[int, int]], num_images: int) -> Pi0Settings:
        return replace(self.settings, camera_sizes=tuple(sizes) if self.settings.camera_sizes else ())

    @property
    def noise_dim(self) -> int:
        return self.config.padded_action_dim

    @property
    def camera_size(self) -> tuple[int, int]:
        sizes = {(size[0], size[1]) for size in self.settings.camera_sizes}
        return next(iter(sizes)) if len(sizes) == 1 else (0, 0)

    @property
    def camera_sizes(self) -> Mapping[str, tuple[int, int]]:
        sizes = self.settings.camera_sizes or (self.image_size,) * len(self.camera_names)
        return {name: (size[0], size[1]) for name, size in zip(self.camera_names, sizes, strict=True)}

    @property
    def taken_sizes(self) -> Mapping[str, tuple[int, int]]:
        return self.camera_sizes if self.settings.camera_sizes else dict.fromkeys(self.camera_names, (0, 0))

    @property
    def image_size(self) -> tuple[int, int]:
        side = self.config.vision.image_size
        return side, side

    def make_request(
        self, stamp_ns: int, images: Sequence[np.ndarray], task: str, state: np.ndarray, noise: np.ndarray
    ) -> Pi0Request:
        pixels, tokens = self._patches(images), self._read(task, state)
        bucket = next(bucket for bucket in self.settings.buckets if len(tokens) <= bucket)
        return Pi0Request(stamp_ns, pixels, *self._pad(tokens, bucket), self._pad_state(state), noise)

    def make_batch(
        self, images: np.ndarray, tasks: Sequence[str], states: np.ndarray, targets: Sequence[TextTarget]
    ) -> dict[str, np.ndarray]:
        prompts = [self._read(task, state) for task, state in zip(tasks, states, strict=True)]
        bucket = next(b for b in self.settings.buckets if max(map(len, prompts)) <= b)
        padded = [self._pad(tokens, bucket) for tokens in prompts]
        return {
            "pixel_values": np.stack([self._patches(views) for views in images]),
            "tokens": np.stack([tokens for tokens, _ in padded]),
            "token_mask": np.stack([mask for _, mask in padded]),
            "state": np.stack([self._pad_state(state) for state in states]),
        }

    def every_shape(self, observation: Observation) -> list[Pi0Request]:
        """One for each padded length, shortest first: the observation's, its prompt cut or padded."""
        request = self.process(observation)
        tokens = request.tokens[request.token_mask].tolist()
        padded = [self._pad(tokens[:bucket], bucket) for bucket in self.settings.buckets]
        return [replace(request, tokens=ids, token_mask=mask) for ids, mask in padded]

    def _patches(self, images: Sequence[np.ndarray]) -> np.ndarray:
        sizes = self.camera_sizes if self.settings.camera_sizes else {}
        for slot, image in zip(self.data.slots, images, strict=True):
            expected = sizes.get(slot.camera or "", image.shape[:2])
            if image.shape != (*expected, 3) or image.dtype != np.uint8:
                got = f"camera '{slot.camera}' gives {image.dtype} {list(image.shape)}"
                raise ValueError(f"{got}; expected uint8 {[*expected, 3]}: set its size and rgb8")
        vision = self.config.vision
        pictures = [make_picture(image, vision.image_size, self.settings.rules) for image in images]
        return patchify(np.stack(pictures)[:, None], vision.patch_size)

    def _read(self, task: str, state: np.ndarray) -> list[int]:
        """The tokens of a prompt; one that is too long loses its end, as where the policy was trained."""
        num_told = self.settings.num_prompt_states if self.config.variant == "pi05" else 0
        if not num_told:
            return self._tokens(task)
        told = self._pad_state(state)[0, :num_told]
        return make_tokens(self.tokenizer, self.settings.rules, task, told)[: self.settings.max_tokens]

    def _tokens_of_task(self, task: str) -> list[int]:
        return make_tokens(self.tokenizer, self.settings.rules, task)[: self.settings.max_tokens]

    def _pad(self, tokens: list[int], bucket: int) -> tuple[np.ndarray, np.ndarray]:
        ids = np.full(bucket, self.tokenizer.token_to_id(PAD), np.int64)
        ids[: len(tokens)] = tokens
        return ids, np.arange(bucket) < len(tokens)

    def _pad_state(self, state: np.ndarray) -> np.ndarray:
        padded = np.zeros((1, self.config.padded_state_dim), np.float32)
        padded[:, : self.config.state_dim] = state
        return padded
