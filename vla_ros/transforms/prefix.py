"""Who sees whom in the prefix, decided on the host. The prefix is a sequence of tokens, then learned registers."""

from __future__ import annotations

import numpy as np


def prefix_mask(attention_mask: np.ndarray, register_mask: np.ndarray, num_registers: int) -> np.ndarray:
    """True where the query (row) may read the key (column): bool [batch, prefix, prefix].

    ``attention_mask`` [batch, seq] is False at padding, ``register_mask`` [batch, seq] is True at tokens that registers
    may read. Tokens see earlier valid tokens; registers see their tokens and each other. Every position sees itself,
    padding too: a row without any key would be NaN, and NaN spreads even through masked keys.
    """
    batch, seq = attention_mask.shape
    mask = np.zeros((batch, seq + num_registers, seq + num_registers), bool)
    mask[:, :seq, :seq] = np.tri(seq, dtype=bool) & attention_mask[:, None, :]
    mask[:, :seq, :seq] |= np.eye(seq, dtype=bool)
    mask[:, seq:, :seq] = register_mask[:, None, :]
    mask[:, seq:, seq:] = True
    return mask
