"""The host side of the SmolVLM 2 backbone: images and text to a ``PolicyInput``. Numpy only, no torch.

A prompt is the user's turn of the model's chat template: ``<|im_start|>User:``; for each camera
``<fake_token_around_image><global-img>``, its image tokens and ``<fake_token_around_image>``; then the task, the prompt
separator and the generation prompt. In training the assistant's turn follows: ``<end_of_utterance>``, a line break,
``Assistant:``, and what is to be predicted, the generation answer and ``<end_of_utterance>``. Padding is on the left.

An image is one square: it isn't split into tiles, as a chat with the model would do.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from vla_ros.policies.modules.vlm_bridge.inputs import PrefixConfig
from vla_ros.policies.modules.vlm_bridge.processor import ProcessorConfig, Prompt, VLMProcessor, read_int

PAD, START, END = "<|im_end|>", "<|im_start|>", "<end_of_utterance>"
AROUND_IMAGE, GLOBAL_IMAGE, IMAGE = "<fake_token_around_image>", "<global-img>", "<image>"


class SmolVLMProcessor(VLMProcessor):
    """Position ids count every place of the sequence, padding and registers included.

    So with ``zero_pos_id_for_obs_register`` the distance from registers to tokens depends on the bucket: a release
    wants the padded length it was trained with as its only one.
    """

    special_tokens = (PAD, START, END, AROUND_IMAGE, GLOBAL_IMAGE, IMAGE)
    resampling = Image.Resampling.LANCZOS
    counts_padding = True

    def __init__(self, config: ProcessorConfig, policy: PrefixConfig, tokenizer: Tokenizer, num_cameras: int) -> None:
        super().__init__(config, policy, tokenizer, num_cameras)
        self._check_square(read_int(policy.vlm_config, "vision_config", "image_size"))
        scale = read_int(policy.vlm_config, "scale_factor", least=0)
        if scale < 1 or self.grid[1] % scale:
            got = f"scale_factor is {scale}, an image has {self.grid[1]} patches a side"
            raise ValueError(f"policy.vlm_config: {got}; the second must be a multiple of the first")
        self._check_image_id(IMAGE)
        image = [AROUND_IMAGE, GLOBAL_IMAGE, *[IMAGE] * (self.grid[1] // scale) ** 2, AROUND_IMAGE]
        self._image_ids = [self.ids[token] for token in image] * num_cameras

    def make_prompt(self, task: str, generation_prompt: str, generation_answer: str) -> Prompt:
        before = [self.ids[START], *self.encode("User:"), *self._image_ids, *self.encode(task)]
        question = self.separator_ids() + self.encode(generation_prompt)
        targets: list[int] = []
        if generation_answer:
            targets = [*self.encode(f" {generation_answer}"), self.ids[END]]
            question += [self.ids[END], *self.encode("\nAssistant:")]
        return Prompt(before, question, targets)

    @staticmethod
    def positions(
        attention_mask: np.ndarray, given: np.ndarray | None, num_registers: int
    ) -> tuple[np.ndarray, np.ndarray]:
        batch, seq = attention_mask.shape
        every = np.tile(np.arange(seq + num_registers), (batch, 1, 1))
        return every[..., :seq], every[..., seq:]
