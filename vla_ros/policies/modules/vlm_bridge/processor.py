"""What the host side of every backbone has in common: images and texts to a padded ``PolicyInput``. No torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from vla_ros.policies.modules.vlm_bridge.inputs import IGNORED, PolicyInput, PrefixConfig
from vla_ros.policies.modules.vlm_bridge.registry import BACKBONES
from vla_ros.strict import check_choice, check_range, quoted
from vla_ros.transforms.images import patchify, resize, resize_with_padding
from vla_ros.transforms.prefix import prefix_mask
from vla_ros.transforms.tokenizer import without_panic

PROMPT_SEPARATOR = "<<<PROMPT_SEP>>>"
NUM_CACHED_TEXTS = 16384
# Of an image's side, of an image that a model sees, of a prompt; of shapes of prompts.
MAX_SIDE, MAX_PATCHES, MAX_TOKENS, MAX_BUCKETS = 8192, 1 << 16, 8192, 256


@dataclass(frozen=True)
class ProcessorConfig:
    """``processor.json``: sizes in pixels of the cameras' images, 0 where each has its own, and of those the model
    sees, which are filled, or with ``padding`` hold the whole image in its shape; ``buckets`` are the padded sequence
    lengths, smallest first."""

    type: str
    camera_height: int
    camera_width: int
    image_height: int
    image_width: int
    buckets: tuple[int, ...]
    padding: bool = False

    def __post_init__(self) -> None:
        check_choice("processor.json: type", self.type, [backbone.processor for backbone in BACKBONES.values()])
        check_range("processor.json: ", self, 0, MAX_SIDE, "camera_height", "camera_width")
        if (self.camera_height == 0) != (self.camera_width == 0):
            got = f"camera_height is {self.camera_height} and camera_width {self.camera_width}"
            raise ValueError(f"processor.json: {got}; expected both above 0, or both 0: each camera its own size")
        check_range("processor.json: ", self, 1, MAX_SIDE // 4, "image_height", "image_width")
        is_list = 0 < len(self.buckets) <= MAX_BUCKETS and list(self.buckets) == sorted(set(self.buckets))
        if not is_list or not 1 <= self.buckets[0] <= self.buckets[-1] <= MAX_TOKENS:
            got = quoted(str(list(self.buckets)))
            expected = f"expected increasing lengths from 1 to {MAX_TOKENS}, at most {MAX_BUCKETS}"
            raise ValueError(f"processor.json: buckets are {got}; {expected}")


@dataclass(frozen=True)
class Prompt:
    """The token ids of one sample, unpadded: what registers may read, the rest of the question, what is to be
    predicted; position ids [axes, n] where they don't follow from the mask alone."""

    before_separator: list[int]
    question: list[int]
    targets: list[int]
    positions: np.ndarray | None = None

    @property
    def ids(self) -> list[int]:
        return self.before_separator + self.question + self.targets


class VLMProcessor(ABC):
    """Makes the input of one observation or of a training batch.

    Raises ValueError where tokenizer, image size and backbone don't fit together.
    """

    special_tokens: ClassVar[tuple[str, ...]]  # that its tokenizer must have, the one for padding first
    resampling: ClassVar[Image.Resampling] = Image.Resampling.BICUBIC
    pads_left: ClassVar[bool] = True
    default_image_size: ClassVar[int] = 0  # what transformers takes where config.json, as published, leaves it out
    padded_position: ClassVar[int] = 0
    counts_padding: ClassVar[bool] = False  # in position ids: a prompt is then best always padded to one length

    def __init__(self, config: ProcessorConfig, policy: PrefixConfig, tokenizer: Tokenizer, num_cameras: int) -> None:
        expected = BACKBONES[policy.vlm_type].processor
        if config.type != expected:
            raise ValueError(f"processor.json: type is '{config.type}'; {policy.vlm_type} needs {expected}")
        self.config = config
        self.policy = policy
        self.num_cameras = num_cameras
        self.tokenizer = tokenizer
        self.tokenizer.encode_special_tokens = True  # an instruction that spells a special token stays plain text
        self.patch_size = read_int(policy.vlm_config, "vision_config", "patch_size")
        vocab_size = read_int(policy.vlm_config, "text_config", "vocab_size")
        if self.num_embedded_tokens > vocab_size:
            sizes = f"{self.num_embedded_tokens} tokens, the backbone has {vocab_size}"
            raise ValueError(f"tokenizer.json: {sizes}; raise text_config.vocab_size or train a smaller tokenizer")
        self.ids = {token: self._special_id(token) for token in self.special_tokens}
        self._prompt = lru_cache(NUM_CACHED_TEXTS)(self._make_prompt)

    @property
    def grid(self) -> tuple[int, int, int]:
        """(time, height, width) of an image in patches."""
        return 1, self.config.image_height // self.patch_size, self.config.image_width // self.patch_size

    @property
    def num_embedded_tokens(self) -> int:
        """How many tokens the backbone must have an embedding for."""
        return 1 + max(self.tokenizer.get_vocab().values(), default=-1)

    @abstractmethod
    def make_prompt(self, task: str, generation_prompt: str, generation_answer: str) -> Prompt:
        """The tokens of one sample; ``task`` is not empty."""

    @staticmethod
    @abstractmethod
    def positions(
        attention_mask: np.ndarray, given: np.ndarray | None, num_registers: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Position ids of the tokens and of the registers after them, int64 [batch, axes, ...], from the tokens' mask
        [batch, seq] and the prompts' own ``given`` [batch, axes, seq], where prompts have them."""

    @classmethod
    def make_input(
        cls,
        policy: PrefixConfig,
        pixel_values: np.ndarray,
        image_grid: tuple[tuple[int, int, int], ...],
        *,
        input_ids: np.ndarray,
        attention_mask: np.ndarray,
        register_mask: np.ndarray,
        target_ids: np.ndarray,
        positions: np.ndarray | None,
    ) -> PolicyInput:
        """A batch from padded tokens; ``register_mask`` [batch, seq] is True at those that registers may read where
        the policy restricts them, ``positions`` are the prompts' own."""
        columns = np.flatnonzero((target_ids != IGNORED).any(0))
        tokens, registers = cls.positions(attention_mask, positions, policy.num_obs_registers)
        if policy.zero_pos_id_for_obs_register:
            registers = np.zeros_like(registers)
        seen = register_mask if policy.causal_mask_obs_register else attention_mask
        return PolicyInput(
            pixel_values=pixel_values,
            input_ids=input_ids,
            attention_mask=attention_mask,
            prefix_mask=prefix_mask(attention_mask, seen, policy.num_obs_registers),
            position_ids=np.concatenate((tokens, registers), axis=-1),
            target_ids=target_ids if len(columns) else None,
            image_grid=image_grid,
            num_target_tokens=target_ids.shape[1] - int(columns[0]) if len(columns) else 0,
        )

    def patchify(self, images: np.ndarray) -> np.ndarray:
        """[batch, cameras, height, width, 3] to [batch, patches, 3 * patch * patch], row by row; channels first."""
        return patchify(images, self.patch_size)

    def process(self, images: Sequence[np.ndarray], task: str) -> PolicyInput:
        """One observation, without a batch dimension; ``images`` are uint8 RGB [camera_height, camera_width, 3].

        Raises ValueError for an image of another size or type, an empty task, or a prompt beyond the largest bucket.
        """
        if len(images) != self.num_cameras:
            raise ValueError(f"{len(images)} images; the policy expects {self.num_cameras}, one for each camera")
        resized = np.stack([self.resize_image(self.config, image) for image in images])
        return self.make_batch(resized[None], (task,)).sample(0)

    @classmethod
    def resize_image(cls, config: ProcessorConfig, image: np.ndarray) -> np.ndarray:
        """A camera's image to uint8 [image_height, image_width, 3], antialiased as Pillow does it: what training keeps
        of it. Raises ValueError for an image of another size or type."""
        expected = (config.camera_height, config.camera_width, 3)
        fits = image.shape == expected if config.camera_height else image.ndim == 3 and image.shape[2] == 3
        if not fits or image.dtype != np.uint8:
            got = f"{image.dtype} {list(image.shape)}"
            wanted = list(expected) if config.camera_height else "[height, width, 3]"
            raise ValueError(f"image is {got}; expected uint8 {wanted}: set the camera's size and rgb8")
        resized = resize_with_padding if config.padding else resize
        return resized(image, config.image_height, config.image_width, cls.resampling)

    def make_batch(
        self,
        images: np.ndarray,
        tasks: Sequence[str],
        generation_prompts: Sequence[str] | None = None,
        generation_answers: Sequence[str] | None = None,
    ) -> PolicyInput:
        """A batch from resized images, uint8 [batch, num_cameras, image_height, image_width, 3].

        With ``generation_answers`` the batch gets targets; an empty answer gives none for its sample.
        """
        expected = (len(tasks), self.num_cameras, self.config.image_height, self.config.image_width, 3)
        if images.shape != expected or images.dtype != np.uint8:
            raise ValueError(f"images are {images.dtype} {list(images.shape)}; expected uint8 {list(expected)}")
        questions = generation_prompts or ("",) * len(tasks)
        answers = generation_answers or ("",) * len(tasks)
        prompts = [self._prompt(*text) for text in zip(tasks, questions, answers, strict=True)]
        return self._pad(prompts, self.patchify(images))

    def check_prompt(self, task: str, generation_prompt: str, generation_answer: str) -> None:
        """Raises ValueError for an empty task, or a prompt beyond the largest bucket."""
        self._bucket(len(self._prompt(task, generation_prompt, generation_answer).ids))

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text, without special tokens."""
        with without_panic():
            return self.tokenizer.encode(text, add_special_tokens=False).ids

    def separator_ids(self) -> list[int]:
        """The prompt separator: one token where the tokenizer has it, else as text."""
        token_id = self.tokenizer.token_to_id(PROMPT_SEPARATOR)
        return self.encode(PROMPT_SEPARATOR) if token_id is None else [token_id]

    def _special_id(self, token: str) -> int:
        token_id = self.tokenizer.token_to_id(token)
        if token_id is None:
            raise ValueError(f"tokenizer.json: special token {token} is missing; restore the policy's tokenizer")
        return token_id

    def _check_multiple(self, unit: int) -> None:
        height, width = self.config.image_height, self.config.image_width
        got = f"images of {height}x{width} pixels"
        if self.grid[1] * self.grid[2] > MAX_PATCHES:
            raise ValueError(f"processor.json: {got} make more than {MAX_PATCHES} patches of {self.patch_size} pixels")
        if height % unit or width % unit:
            raise ValueError(f"processor.json: {got}; height and width must be multiples of {unit}")

    def _check_square(self, size: int) -> None:
        """Where the backbone has positions for images of one size only."""
        height, width = self.config.image_height, self.config.image_width
        if (height, width) != (size, size):
            got = f"images of {height}x{width} pixels"
            raise ValueError(f"processor.json: {got}; the backbone sees {size}x{size}: set both to {size}")

    def _check_image_id(self, token: str) -> None:
        expected = read_int(self.policy.vlm_config, "image_token_id", least=0)
        if self.ids[token] != expected:
            got = f"{token} is {self.ids[token]}, the backbone's image_token_id {expected}"
            raise ValueError(f"tokenizer.json: {got}; make them equal")

    def _make_prompt(self, task: str, generation_prompt: str, generation_answer: str) -> Prompt:
        if not task.strip():
            raise ValueError("the task is empty; give an instruction")
        return self.make_prompt(task, generation_prompt, generation_answer)

    def _pad(self, prompts: Sequence[Prompt], pixel_values: np.ndarray) -> PolicyInput:
        batch, length = len(prompts), self._bucket(max(len(prompt.ids) for prompt in prompts))
        has_positions = prompts[0].positions is not None
        input_ids = np.full((batch, length), self.ids[self.special_tokens[0]], np.int64)
        given = np.full((batch, 3, length), self.padded_position, np.int64) if has_positions else None
        attention_mask = np.zeros((batch, length), bool)
        register_mask = np.zeros((batch, length), bool)
        target_ids = np.full((batch, length), IGNORED, np.int64)
        for i, prompt in enumerate(prompts):
            start = length - len(prompt.ids) if self.pads_left else 0
            end = start + len(prompt.ids)
            input_ids[i, start:end] = prompt.ids
            if given is not None:
                given[i, :, start:end] = prompt.positions
            attention_mask[i, start:end] = True
            register_mask[i, start : start + len(prompt.before_separator)] = True
            target_ids[i, end - len(prompt.targets) : end] = prompt.targets
        return self.make_input(
            self.policy,
            pixel_values,
            (self.grid,) * self.num_cameras,
            input_ids=input_ids,
            attention_mask=attention_mask,
            register_mask=register_mask,
            target_ids=target_ids,
            positions=given,
        )

    def _bucket(self, length: int) -> int:
        for bucket in self.config.buckets:
            if length <= bucket:
                return bucket
        largest = self.config.buckets[-1]
        fix = "shorten the instruction, or what is to be answered"
        raise ValueError(f"the prompt has {length} tokens; the largest bucket is {largest}: {fix}")


def read_int(vlm_config: Mapping[str, Any], *path: str, least: int = 1) -> int:
    """A whole number of the backbone's configuration; raises ValueError where it is missing or something else."""
    value: Any = vlm_config
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    if type(value) is not int or value < least:
        name = ".".join(("policy.vlm_config", *path))
        raise ValueError(f"{name} is {value!r}; expected the whole number from the backbone's config.json")
    return value
