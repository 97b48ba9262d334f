"""What travels from a processor to a policy, as plain numpy: requests and training batches.

Arrays of a request have no batch dimension; those of a batch have it first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np

from vla_ros.strict import quoted

STAMP = "stamp_ns"
# Every family's, in a request that continues a chunk: number of dimensions; float32.
_GUIDANCE = {"previous_actions": 2, "guidance_weights": 1}


@dataclass(frozen=True)
class RequestView:
    """A request as one looks at it from outside, to tell later what in it has changed.

    ``images`` are the pictures in patches [num_patches, channels * size], channels first, uint8 or about -1..1, and
    ``image_grid`` is (time, height, width) of each in patches. ``state`` and ``noise`` are what they are in the
    request, ``tokens`` the ids of the instruction, ``layout`` what else there is.
    """

    images: tuple[np.ndarray, ...]
    image_grid: tuple[tuple[int, int, int], ...]
    state: np.ndarray
    noise: np.ndarray
    tokens: np.ndarray
    layout: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True)
class PolicyRequest(ABC):
    """One inference: named tensors and a little text, which a family's own request adds to, packs and unpacks.

    ``stamp_ns`` is the observation's ``t_obs``. Real-time chunking adds ``previous_actions`` float32 [horizon,
    action_dim], the old chunk at the new one's due times, normalised for the new state, and ``guidance_weights``
    float32 [horizon], how much each action is held to it, 0 where it has no value; else both are None. A tensor called
    ``noise`` is random.
    """

    stamp_ns: int
    previous_actions: np.ndarray | None = field(default=None, kw_only=True)
    guidance_weights: np.ndarray | None = field(default=None, kw_only=True)

    @property
    def is_guided(self) -> bool:
        """Whether it is to continue a chunk."""
        return self.previous_actions is not None

    @abstractmethod
    def view(self) -> RequestView:
        """What it shows."""

    def to_tensors(self) -> dict[str, np.ndarray]:
        """The arrays by name, for a safetensors message."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: np.ascontiguousarray(value) for name, value in values.items() if isinstance(value, np.ndarray)}

    def metadata(self) -> dict[str, str]:
        """What is no array, as strings, for the header of a safetensors message."""
        return {STAMP: str(self.stamp_ns)}

    @property
    def constants(self) -> dict[str, str]:
        """The text that is the same from request to request, as shapes are."""
        return {name: text for name, text in self.metadata().items() if name != STAMP}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> Self:
        """The inverse of ``to_tensors`` and ``metadata``; raises ValueError where they don't describe a request."""
        names = [each.name for each in fields(cls) if each.name not in (STAMP, *_GUIDANCE)]
        missing = [name for name in names if name not in tensors]
        if missing:
            raise ValueError(f"request: tensor '{missing[0]}' is missing; expected {', '.join(names)}")
        return cls(read_stamp(metadata), **{name: tensors[name] for name in names}, **read_guidance(tensors))


def read_stamp(metadata: Mapping[str, str]) -> int:
    """``stamp_ns`` of a request's text; raises ValueError where it is missing or not a whole number."""
    try:
        return int(metadata[STAMP])
    except (KeyError, ValueError) as error:
        raise ValueError(f"request: metadata {quoted(repr(dict(metadata)))} lacks a usable {STAMP}") from error


def read_guidance(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray | None]:
    """The tensors of real-time chunking, None where a request has none; raises ValueError for another type."""
    for name, ndim in _GUIDANCE.items():
        check_tensor(name, tensors.get(name), ("float32",), ndim)
    return {name: tensors.get(name) for name in _GUIDANCE}


def check_tensor(name: str, array: np.ndarray | None, kinds: tuple[str, ...], ndim: int) -> None:
    """Raises ValueError for a tensor of another type or number of dimensions."""
    if array is not None and (array.dtype.name not in kinds or array.ndim != ndim):
        got = f"{array.dtype.name} with {array.ndim} dimensions"
        raise ValueError(f"request: tensor '{name}' is {got}; expected {' or '.join(kinds)} with {ndim}")


@dataclass(frozen=True)
class TextTarget:
    """A generation prompt and the answer to learn, beside the actions; nothing is learned without an answer."""

    prompt: str = ""
    answer: str = ""


@dataclass(frozen=True)
class TrainingBatch:
    """``policy_input`` is what the family's processor makes of the observations, batched; ``state`` float32 [batch,
    state_history, state_dim] and ``actions`` float32 [batch, horizon, action_dim], both normalised.

    Of each sample the first ``num_known`` int64 [batch] actions are to be learned, None: all. What follows lies beyond
    the end of its episode and repeats the last command.
    """

    policy_input: Any
    state: np.ndarray
    actions: np.ndarray
    num_known: np.ndarray | None = None
