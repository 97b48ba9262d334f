"""A ``tokenizer.json``, looked at before the library reads it: that aborts, or takes all memory, for some of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer

from vla_ros.strict import explained, leaves, parse_json, quoted, read_text

MAX_BYTES = 64 << 20  # Gemma's has 35 MB
# Known ones replace a character or two by one, put one before the text, and split it by one expression.
MAX_REPLACING, MAX_SETTINGS, MAX_CONTENT, MAX_PATTERN = 4, 1000, 16, 2000
PROBE = "Pick up the (2nd) red block, s'il vous plaît — 木\n"


def read_tokenizer(path: Path, name: str) -> Tokenizer:
    """A tokenizer.json, without the padding and the cutting that it may ask for: both are done here. Raises ValueError
    with its ``name``."""
    # The library raises nothing more particular.
    with explained(f"{name}: not readable as a tokenizer: ", Exception), without_panic():
        text = read_text(path, MAX_BYTES)
        document = parse_json(text)
        if not isinstance(document, dict):
            raise ValueError(f"it is {type(document).__name__}; expected the object that the library saves")
        for key in ("normalizer", "pre_tokenizer"):
            _check_steps(document.get(key), key)
        if document.get("padding") or document.get("truncation"):
            text = json.dumps(document | {"padding": None, "truncation": None})
        tokenizer = Tokenizer.from_str(text)
        tokenizer.encode(PROBE, add_special_tokens=False)
        return tokenizer


@contextmanager
def without_panic() -> Iterator[None]:
    """Inside its ``with``, what the library couldn't go on with, which is no ``Exception``, becomes a ValueError."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"the tokenizer failed: {quoted(str(error))}") from error


def _check_steps(steps: Any, where: str) -> None:
    """Raises ValueError for expressions that the library can't compile and texts that grow from step to step."""
    found = list(leaves(steps, where))
    num_replacing = sum(value in ("Replace", "Prepend") for _, value in found)
    if num_replacing > MAX_REPLACING or len(found) > MAX_SETTINGS:
        raise ValueError(f"{where} has too many steps; expected at most {MAX_REPLACING} that replace text")
    for place, value in found:
        key = place.rpartition(".")[2]
        is_content = key in ("content", "prepend") and len(str(value)) > MAX_CONTENT
        if is_content or (key in ("String", "Regex") and not value):
            raise ValueError(f"{where} replaces nothing, or by more than {MAX_CONTENT} characters")
        if key == "Regex":
            if not isinstance(value, str) or len(value) > MAX_PATTERN:
                raise ValueError(f"{where} has an expression of more than {MAX_PATTERN} characters")
            Regex(value)
