"""What a backbone and its processor want to know of the policy that they are part of. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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
