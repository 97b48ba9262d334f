"""How an instruction becomes tokens: pi0's is the task and a line break, pi0.5's also tells the state. No torch."""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer

from vla_ros.transforms.tokenizer import without_panic

BEGIN, PAD = "<bos>", "<pad>"
# The lower ends of the bins that a number of the state falls into, in float64.
BINS = np.linspace(-1.0, 1.0, 257)[:-1]


def check_tokenizer(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Raises ValueError where it lacks a token that prompts are made of, or is not the policy's."""
    for token in (BEGIN, PAD):
        token_id = tokenizer.token_to_id(token)
        if token_id is None or token_id >= vocab_size:
            got = "is missing" if token_id is None else f"is {token_id}, the policy has {vocab_size} tokens"
            raise ValueError(f"tokenizer.json: special token {token} {got}; give the policy's tokenizer")


def make_tokens(tokenizer: Tokenizer, rules: str, task: str, state: np.ndarray | None = None) -> list[int]:
    """The tokens of an instruction, unpadded and uncut; ``state`` are the normalised numbers that pi0.5's tells, as a
    rule."""
    if state is not None:
        texts = [f"Task: {_cleaned(task)}, State: {' '.join(map(str, _binned(state)))};\nAction: "]
    elif rules == "openpi":
        texts = [_cleaned(task), "\n"]  # apart, so that the line break is a token of its own
    else:
        texts = [task if task.endswith("\n") else f"{task}\n"]
    with without_panic():
        tokens = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    return [tokenizer.token_to_id(BEGIN), *(token for part in tokens for token in part)]


def _cleaned(task: str) -> str:
    return task.strip().replace("_", " ").replace("\n", " ")


def _binned(state: np.ndarray) -> list[int]:
    """-1 below the lowest end; no number is too large."""
    return (np.digitize(state, BINS) - 1).tolist()
