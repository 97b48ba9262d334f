"""The host side of the Qwen3-VL backbone: images and text to a ``PolicyInput``. Numpy only, no torch.

A prompt is, for each camera, ``<|vision_start|>``, its image tokens and ``<|vision_end|>``; then the task, the prompt
separator and the generation prompt; in training also the generation answer and ``<|im_end|>``. Padding is on the left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from vla_ros.transforms.images import resize
from vla_ros.transforms.sample import PolicyInput

PAD, END = "<|endoftext|>", "<|im_end|>"
VISION_START, VISION_END, IMAGE_PAD = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"
PROMPT_SEPARATOR = "<<<PROMPT_SEP>>>"
SPECIAL_TOKENS = (PAD, END, VISION_START, VISION_END, IMAGE_PAD, PROMPT_SEPARATOR)
LOCATION_TOKENS = tuple(f"<loc{i:03d}>" for i in range(100))
IGNORED = -100
PADDED_POSITION = 1  # what released checkpoints saw there
NUM_CACHED_TEXTS = 16384


@dataclass(frozen=True)
class QwenProcessorConfig:
    """``processor.json``: sizes in pixels of the cameras' images and of those the model sees; ``buckets`` are the
    padded sequence lengths, smallest first."""

    type: str
    camera_height: int
    camera_width: int
    image_height: int
    image_width: int
    buckets: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.type != "QwenProcessor":
            raise ValueError(f"processor.json: type is '{self.type}'; expected QwenProcessor")
        if not self.buckets or list(self.buckets) != sorted(set(self.buckets)) or self.buckets[0] < 1:
            raise ValueError(f"processor.json: buckets are {list(self.buckets)}; expected increasing lengths above 0")
        for name in ("camera_height", "camera_width", "image_height", "image_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"processor.json: {name} is {getattr(self, name)}; expected pixels above 0")


@dataclass(frozen=True)
class _Prompt:
    """One text with its images, unpadded: ids [n], positions [3, n], how many come before the separator, targets."""

    ids: np.ndarray
    positions: np.ndarray
    num_before_separator: int
    num_targets: int


class QwenProcessor:
    """Makes the input of one observation or of a training batch.

    ``vlm_config`` is the backbone's configuration as a mapping. Raises ValueError where tokenizer, image size and
    backbone don't fit together.
    """

    def __init__(
        self, config: QwenProcessorConfig, vlm_config: Mapping[str, Any], tokenizer: Tokenizer, num_cameras: int
    ) -> None:
        self.config = config
        self.num_cameras = num_cameras
        self.patch_size = _read_int(vlm_config, "vision_config", "patch_size")
        self.merge_size = _read_int(vlm_config, "vision_config", "spatial_merge_size")
        unit = self.patch_size * self.merge_size
        if config.image_height % unit or config.image_width % unit:
            size = f"{config.image_height}x{config.image_width}"
            raise ValueError(f"processor.json: images of {size} pixels; height and width must be multiples of {unit}")
        self.grid = (1, config.image_height // self.patch_size, config.image_width // self.patch_size)
        self.tokenizer = tokenizer
        self.tokenizer.encode_special_tokens = True  # an instruction that spells a special token stays plain text
        special = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
        for token in (PAD, END, VISION_START, VISION_END, IMAGE_PAD):
            if special[token] is None:
                raise ValueError(f"tokenizer.json: special token {token} is missing; restore the policy's tokenizer")
        image_token_id = _read_int(vlm_config, "image_token_id")
        if special[IMAGE_PAD] != image_token_id:
            got = f"{IMAGE_PAD} is {special[IMAGE_PAD]}, the backbone's image_token_id {image_token_id}"
            raise ValueError(f"tokenizer.json: {got}; make them equal")
        vocab_size = _read_int(vlm_config, "text_config", "vocab_size")
        if tokenizer.get_vocab_size() > vocab_size:
            sizes = f"{tokenizer.get_vocab_size()} tokens, the backbone has {vocab_size}"
            raise ValueError(f"tokenizer.json: {sizes}; raise text_config.vocab_size or train a smaller tokenizer")
        self._ids = {token: token_id for token, token_id in special.items() if token_id is not None}
        self._image_ids, self._image_positions, self._num_image_positions = self._layout_images()
        self._prompt = lru_cache(NUM_CACHED_TEXTS)(self._make_prompt)

    def process(self, images: Sequence[np.ndarray], task: str) -> PolicyInput:
        """One observation, without a batch dimension; ``images`` are uint8 RGB [camera_height, camera_width, 3].

        Raises ValueError for an image of another size or type, an empty task, or a prompt beyond the largest bucket.
        """
        if len(images) != self.num_cameras:
            raise ValueError(f"{len(images)} images; the policy expects {self.num_cameras}, one for each camera")
        resized = np.stack([self.resize(image) for image in images])
        return self.make_batch(resized[None], (task,)).sample(0)

    def resize(self, image: np.ndarray) -> np.ndarray:
        """A camera's image to uint8 [image_height, image_width, 3], bicubic with antialiasing as Pillow does it."""
        expected = (self.config.camera_height, self.config.camera_width, 3)
        if image.shape != expected or image.dtype != np.uint8:
            got = f"{image.dtype} {list(image.shape)}"
            raise ValueError(f"image is {got}; expected uint8 {list(expected)}: set the camera's size and rgb8")
        return resize(image, self.config.image_height, self.config.image_width)

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
        prompts = generation_prompts or ("",) * len(tasks)
        answers = generation_answers or ("",) * len(tasks)
        texts = [self._prompt(*text) for text in zip(tasks, prompts, answers, strict=True)]
        length = self._bucket(max(len(text.ids) for text in texts))
        batch = len(texts)
        input_ids = np.full((batch, length), self._ids[PAD], np.int64)
        positions = np.full((batch, 3, 1, length), PADDED_POSITION, np.int64)
        attention_mask = np.zeros((batch, length), bool)
        register_mask = np.zeros((batch, length), bool)
        num_target_tokens = max(text.num_targets for text in texts)
        target_ids = np.full((batch, length), IGNORED, np.int64) if num_target_tokens else None
        for i, text in enumerate(texts):
            start = length - len(text.ids)
            input_ids[i, start:] = text.ids
            positions[i, :, 0, start:] = text.positions
            attention_mask[i, start:] = True
            register_mask[i, start : start + text.num_before_separator] = True
            if target_ids is not None and text.num_targets:
                target_ids[i, -text.num_targets :] = text.ids[-text.num_targets :]
        return PolicyInput(
            pixel_values=self._patchify(images),
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=positions,
            obs_register_att_mask=register_mask,
            target_ids=target_ids,
            image_grid=(self.grid,) * self.num_cameras,
            num_target_tokens=num_target_tokens,
        )

    def _patchify(self, images: np.ndarray) -> np.ndarray:
        """[batch, cameras, height, width, 3] to [batch, patches, 3 * patch * patch], patches in merge-block order."""
        batch, cameras = images.shape[:2]
        merge, patch = self.merge_size, self.patch_size
        rows, cols = self.grid[1] // merge, self.grid[2] // merge
        blocks = images.reshape(batch, cameras, rows, merge, patch, cols, merge, patch, 3)
        return blocks.transpose(0, 1, 2, 5, 3, 6, 8, 4, 7).reshape(batch, -1, 3 * patch * patch)

    def _bucket(self, length: int) -> int:
        for bucket in self.config.buckets:
            if length <= bucket:
                return bucket
        largest = self.config.buckets[-1]
        raise ValueError(f"the prompt has {length} tokens; the largest bucket is {largest}: shorten the instruction")

    def _layout_images(self) -> tuple[list[int], np.ndarray, int]:
        """Ids and positions [3, n] of the image part, which opens every prompt, and the first position after it."""
        rows, cols = self.grid[1] // self.merge_size, self.grid[2] // self.merge_size
        row, col = (axis.ravel() for axis in np.mgrid[:rows, :cols])
        ids: list[int] = []
        parts: list[np.ndarray] = []
        position = 0
        for _ in range(self.num_cameras):
            ids += [self._ids[VISION_START], *[self._ids[IMAGE_PAD]] * len(row), self._ids[VISION_END]]
            start = position + 1
            after = start + max(rows, cols)
            image = np.stack((np.full_like(row, start), start + row, start + col))
            parts += [np.full((3, 1), position), image, np.full((3, 1), after)]
            position = after + 1
        return ids, np.concatenate(parts, axis=1), position

    def _make_prompt(self, task: str, generation_prompt: str, generation_answer: str) -> _Prompt:
        if not task.strip():
            raise ValueError("the task is empty; give an instruction")
        before = self._image_ids + self._encode(task)
        if PROMPT_SEPARATOR in self._ids:
            separator = [self._ids[PROMPT_SEPARATOR]]
        else:
            separator = self._encode(PROMPT_SEPARATOR)
        targets = [*self._encode(generation_answer), self._ids[END]] if generation_answer else []
        ids = np.array(before + separator + self._encode(generation_prompt) + targets, np.int64)
        num_text = len(ids) - len(self._image_ids)
        text = np.broadcast_to(np.arange(num_text) + self._num_image_positions, (3, num_text))
        return _Prompt(ids, np.concatenate((self._image_positions, text), axis=1), len(before), len(targets))

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids


def _read_int(vlm_config: Mapping[str, Any], *path: str) -> int:
    value: Any = vlm_config
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    if type(value) is not int or value < 0:
        name = ".".join(("policy.vlm_config", *path))
        raise ValueError(f"{name} is {value!r}; expected the whole number from the backbone's config.json")
    return value


def train_tokenizer(texts: Iterable[str], vocab_size: int = 512, extra_tokens: Sequence[str] = ()) -> Tokenizer:
    """A byte-level BPE tokenizer: any text can be encoded, frequent words of ``texts`` become one token.

    The special tokens get the first ids; ``extra_tokens`` (``LOCATION_TOKENS``, say) are matched whole in any text.
    ``vocab_size`` includes both, and the 256 bytes.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(extra_tokens),
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in extra_tokens])
    return tokenizer
