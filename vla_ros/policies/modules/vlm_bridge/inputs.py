"""What a VLM backbone and its processor need of a policy and of an observation. No torch: the host makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

IGNORED = -100
"""In the place of a target where nothing is to be predicted."""


class PrefixConfig:
    """A policy's configuration, as far as its prefix goes; a policy with a VLM has these among its keys.

    ``vlm_config`` is the backbone's own configuration, ``image_mean`` and ``image_std`` normalise pixels in 0..1, by
    channel. Registers follow the tokens: they read the tokens before the prompt separator only
    (``causal_mask_obs_register``), have position 0 (``zero_pos_id_for_obs_register``), and may be all that is read of
    the prefix (``expert_only_use_register``), without a gradient into it (``detach_encoder_output``).
    """

    vlm_type: str
    vlm_config: Mapping[str, Any]
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    num_obs_registers: int
    expert_only_use_register: bool
    causal_mask_obs_register: bool
    zero_pos_id_for_obs_register: bool
    detach_encoder_output: bool


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
        return replace(self, **{k: v[index] for k, v in vars(self).items() if isinstance(v, np.ndarray)})
