"""The host side of the Qwen3-VL backbone: images and text to a ``PolicyInput``. Numpy only, no torch.

A prompt is, for each camera, ``<|vision_start|>``, its image tokens and ``<|vision_end|>``; then the task, the prompt
separator and the generation prompt; in training also the generation answer and ``<|im_end|>``. Padding is on the left.
Where the tokenizer has ``<|im_start|>``, as those of releases do, this is the user's turn of the model's chat template,
and the answer is the assistant's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from vla_ros.policies.modules.vlm_bridge.inputs import PrefixConfig
from vla_ros.policies.modules.vlm_bridge.processor import (
    PROMPT_SEPARATOR,
    ProcessorConfig,
    Prompt,
    VLMProcessor,
    read_int,
)

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END, IMAGE_PAD = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"
LOCATION_TOKENS = tuple(f"<loc{i:03d}>" for i in range(100))


class QwenProcessor(VLMProcessor):
    """Position ids have three axes (time, height, width): mRoPE of Qwen2-VL, arXiv 2409.12191, section 2.1."""

    special_tokens = (PAD, END, VISION_START, VISION_END, IMAGE_PAD)
    padded_position = 1  # what released checkpoints saw there

    def __init__(self, config: ProcessorConfig, policy: PrefixConfig, tokenizer: Tokenizer, num_cameras: int) -> None:
        super().__init__(config, policy, tokenizer, num_cameras)
        self.merge_size = read_int(policy.vlm_config, "vision_config", "spatial_merge_size")
        self._check_multiple(self.patch_size * self.merge_size)
        self._check_image_id(IMAGE_PAD)
        start = tokenizer.token_to_id(START)
        self._user_turn, self._assistant_turn = [], []
        if start is not None:
            self._user_turn = [start, *self.encode("user\n")]
            self._assistant_turn = [self.ids[END], *self.encode("\n"), start, *self.encode("assistant\n")]
        self._image_ids, self._image_positions, self._num_image_positions = self._layout_images()

    def make_prompt(self, task: str, generation_prompt: str, generation_answer: str) -> Prompt:
        before = self._image_ids + self.encode(task)
        question = self.separator_ids() + self.encode(generation_prompt)
        targets: list[int] = []
        if generation_answer:
            question += self._assistant_turn
            targets = [*self.encode(generation_answer), self.ids[END]]
        num_text = len(before + question + targets) - len(self._image_ids)
        text = np.tile(np.arange(num_text) + self._num_image_positions, (3, 1))
        return Prompt(before, question, targets, np.concatenate((self._image_positions, text), axis=1))

    @staticmethod
    def positions(
        attention_mask: np.ndarray, given: np.ndarray | None, num_registers: int
    ) -> tuple[np.ndarray, np.ndarray]:
        assert given is not None, "mRoPE ids depend on where images are"
        # Counted from the left, padding included, as released checkpoints were trained.
        last = attention_mask.sum(1, keepdims=True) - 1
        first = np.take_along_axis(given[:, 0], last, axis=1) + 1
        return given, np.repeat((first + np.arange(num_registers))[:, None], given.shape[1], axis=1)

    def patchify(self, images: np.ndarray) -> np.ndarray:
        """[batch, cameras, height, width, 3] to [batch, patches, 3 * patch * patch], patches in merge-block order."""
        batch, cameras = images.shape[:2]
        merge, patch = self.merge_size, self.patch_size
        rows, cols = self.grid[1] // merge, self.grid[2] // merge
        blocks = images.reshape(batch, cameras, rows, merge, patch, cols, merge, patch, 3)
        return blocks.transpose(0, 1, 2, 5, 3, 6, 8, 4, 7).reshape(batch, -1, 3 * patch * patch)

    def _layout_images(self) -> tuple[list[int], np.ndarray, int]:
        """Ids and positions [3, n] of what opens every prompt, the images, and the first position after it."""
        rows, cols = self.grid[1] // self.merge_size, self.grid[2] // self.merge_size
        row, col = (axis.ravel() for axis in np.mgrid[:rows, :cols])
        ids = list(self._user_turn)
        position = len(ids)
        parts = [np.tile(np.arange(position), (3, 1))]
        for _ in range(self.num_cameras):
            ids += [self.ids[VISION_START], *[self.ids[IMAGE_PAD]] * len(row), self.ids[VISION_END]]
            start = position + 1
            after = start + max(rows, cols)
            image = np.stack((np.full_like(row, start), start + row, start + col))
            parts += [np.full((3, 1), position), image, np.full((3, 1), after)]
            position = after + 1
        return ids, np.concatenate(parts, axis=1), position


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
        special_tokens=[*QwenProcessor.special_tokens, PROMPT_SEPARATOR],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in extra_tokens])
    return tokenizer
