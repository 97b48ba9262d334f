"""The host side of PaliGemma 1 and 2: images and text to a ``PolicyInput``. Numpy only, no torch.

A prompt is the image tokens of each camera, ``<bos>``, the task, the prompt separator, the generation prompt and a line
break; in training also the generation answer and ``<eos>``. Padding is on the right.
"""

from __future__ import annotations

import numpy as np
from tokenizers import AddedToken, Tokenizer

from vla_ros.policies.modules.vlm_bridge.inputs import PrefixConfig
from vla_ros.policies.modules.vlm_bridge.processor import ProcessorConfig, Prompt, VLMProcessor, read_int

PAD, BEGIN, END, IMAGE = "<pad>", "<bos>", "<eos>", "<image>"
# In the vocabulary of every release, but not all mark them to be matched whole.
PLACE_TOKENS = (*(f"<loc{i:04d}>" for i in range(1024)), *(f"<seg{i:03d}>" for i in range(128)))
# What transformers takes where config.json leaves the key out, as releases do.
DEFAULT_GEMMA2_WINDOW = 4096


class PaliGemmaProcessor(VLMProcessor):
    """Position ids are the running count of valid tokens, 1 at the first; registers continue it."""

    special_tokens = (PAD, BEGIN, END)
    pads_left = False
    default_image_size = 224

    def __init__(self, config: ProcessorConfig, policy: PrefixConfig, tokenizer: Tokenizer, num_cameras: int) -> None:
        vlm = policy.vlm_config
        self._image_id = read_int(vlm, "image_token_id" if "image_token_id" in vlm else "image_token_index", least=0)
        super().__init__(config, policy, tokenizer, num_cameras)
        self._check_multiple(self.patch_size)
        vision = {"image_size": self.default_image_size, **vlm["vision_config"]}
        self._check_square(read_int({"vision_config": vision}, "vision_config", "image_size"))
        known = [token for token in PLACE_TOKENS if tokenizer.token_to_id(token) is not None]
        tokenizer.add_tokens([AddedToken(token, normalized=False) for token in known])
        if tokenizer.token_to_id(IMAGE) not in (None, self._image_id):
            got = f"{IMAGE} is {tokenizer.token_to_id(IMAGE)}, the backbone's image_token_index {self._image_id}"
            raise ValueError(f"tokenizer.json: {got}; make them equal")
        self._image_ids = [self._image_id] * (num_cameras * self.grid[1] * self.grid[2])
        self._check_window()

    @property
    def num_embedded_tokens(self) -> int:
        """Without the image token where its id lies beyond the embeddings: image features take its place."""
        beyond = self._image_id >= read_int(self.policy.vlm_config, "text_config", "vocab_size")
        return super().num_embedded_tokens - (beyond and self.tokenizer.token_to_id(IMAGE) is not None)

    def make_prompt(self, task: str, generation_prompt: str, generation_answer: str) -> Prompt:
        before = [*self._image_ids, self.ids[BEGIN], *self.encode(task)]
        question = self.separator_ids() + self.encode(generation_prompt) + self.encode("\n")
        targets = [*self.encode(generation_answer), self.ids[END]] if generation_answer else []
        return Prompt(before, question, targets)

    @staticmethod
    def positions(
        attention_mask: np.ndarray, given: np.ndarray | None, num_registers: int
    ) -> tuple[np.ndarray, np.ndarray]:
        tokens = attention_mask.cumsum(axis=1, dtype=np.int64)[:, None]
        return tokens, tokens[..., -1:] + 1 + np.arange(num_registers)

    def _check_window(self) -> None:
        """Every other layer of Gemma 2 sees a window only; prefixes lie within it, so that it never matters."""
        text = self.policy.vlm_config["text_config"]
        default = DEFAULT_GEMMA2_WINDOW if text.get("model_type") == "gemma2" else None
        text = {"sliding_window": default, **text}
        if text["sliding_window"] is None:
            return
        window = read_int({"text_config": text}, "text_config", "sliding_window")
        longest = self.config.buckets[-1] + self.policy.num_obs_registers
        if longest > window:
            got = f"the largest bucket and the registers make {longest} positions"
            raise ValueError(f"processor.json: {got}; the backbone attends to {window} of them: use smaller buckets")
