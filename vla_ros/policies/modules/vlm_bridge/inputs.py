"""What a VLM backbone needs of an observation, as plain numpy: no torch, so that the host can make it."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True)
class PolicyInput:
    """What a backbone needs of one observation (or a batch of them), made entirely on the host.

    pixel_values           uint8 [num_patches, channels * patch * patch] (still to be normalised) or float32
                           [num_patches, channels * temporal_patch * patch * patch] (ready); images one after another
    input_ids              int64 [seq], left- or right-padded to a bucket, as the backbone has it
    attention_mask         bool [seq], False at padding
    prefix_mask            bool [prefix, prefix], True where a query (row) may read a key; prefix is seq and registers
    position_ids           int64 [axes, prefix]: 3 axes where the backbone turns by time, height and width, else 1
    target_ids             int64 [seq], -100 where nothing is to be predicted; None outside training
    image_grid             (time, height, width) in patches, one for each image; a batch shares it
    num_target_tokens      every target lies among the last this many tokens; 0 outside training
    """

    pixel_values: np.ndarray
    input_ids: np.ndarray
    attention_mask: np.ndarray
    prefix_mask: np.ndarray
    position_ids: np.ndarray
    target_ids: np.ndarray | None
    image_grid: tuple[tuple[int, int, int], ...]
    num_target_tokens: int = 0

    def sample(self, index: int) -> PolicyInput:
        """One sample of a batch, without the batch dimension."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return PolicyInput(**{k: v[index] if isinstance(v, np.ndarray) else v for k, v in values.items()})
