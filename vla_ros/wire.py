"""Tensors as bytes, for the two topics between the policy node and the model node.

The format is safetensors: a JSON header and raw little-endian arrays, nothing in it that could be executed. Where both
nodes share a key, ``SIGNED`` and the message's HMAC-SHA256 come before it.
"""

from __future__ import annotations

import hmac
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from vla_ros.strict import check_count, explained, one_line, parse_json, quoted

MAX_HEADER_BYTES = 1024 * 1024
HEADER_ALIGNMENT = 8
KIND = "kind"
REQUEST = "vla_ros request 1"
RESULT = "vla_ros result 1"
MAX_BYTES = {REQUEST: 256 * 1024 * 1024, RESULT: 1024 * 1024}
# As the size of a header it would be absurd: never the beginning of a message that isn't signed.
SIGNED = b"VLA_HMAC"
NUM_MAC_BYTES = 32
MIN_KEY_BYTES, MAX_KEY_BYTES = 16, 4096


@dataclass(frozen=True)
class TensorMessage:
    """Arrays by name, and text by name."""

    tensors: Mapping[str, np.ndarray]
    metadata: Mapping[str, str]


class Request(Protocol):
    """What can be sent as a request: ``transforms.sample.PolicyRequest`` is one, and reads it back as its family's."""

    def to_tensors(self) -> Mapping[str, np.ndarray]: ...

    def metadata(self) -> Mapping[str, str]: ...


@dataclass(frozen=True)
class PolicyResult:
    """The model's answer to the request of ``stamp_ns``.

    ``digest`` names the policy that answered; ``actions`` are float32 ``[horizon, action_dim]``, normalised, as the
    policy gives them; ``timings_ms`` are the stages of the inference by name, ``inference_ms`` is the whole of it.
    """

    stamp_ns: int
    digest: str
    actions: np.ndarray
    inference_ms: float
    timings_ms: Mapping[str, float]


def read_link_key(file: str) -> bytes:
    """The key that both nodes share, white space around it left out; empty without a file.

    Raises ValueError where the file can't be read or holds no key.
    """
    if not file:
        return b""
    missing = explained(f"link_key_file '{file}': ", OSError, after="; give both nodes the same file")
    with missing, Path(file).expanduser().open("rb") as opened:
        key = opened.read(MAX_KEY_BYTES + 1).strip()
    if not MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES:
        expected = f"expected {MIN_KEY_BYTES} to {MAX_KEY_BYTES}: openssl rand -hex 32 makes one"
        raise ValueError(f"link_key_file '{file}' holds {len(key)} bytes; {expected}")
    return key


def sign(data: bytes, key: bytes) -> bytes:
    """A message as it goes over the link: with its HMAC before it where there is a key, else as it is."""
    return SIGNED + hmac.digest(key, data, "sha256") + data if key else data


def open_message(data: bytes, kind: str, key: bytes = b"") -> bytes:
    """The message of that ``kind`` in what came over the link. Raises ValueError where it is another, too large, or not
    signed with ``key``."""
    check_count("message", "bytes", data, MAX_BYTES[kind])
    is_signed, fix = data.startswith(SIGNED), "give both nodes the same link_key_file"
    if is_signed != bool(key):
        got = "signed, and this node has no key" if is_signed else "not signed; expected one signed with the shared key"
        raise ValueError(f"message is {got}: {fix}")
    if key:
        start = len(SIGNED) + NUM_MAC_BYTES
        mac, data = data[len(SIGNED) : start], data[start:]
        if not hmac.compare_digest(mac, hmac.digest(key, data, "sha256")):
            raise ValueError(f"message is signed with another key, or changed on the way: {fix}")
    check_kind(data, kind)
    return data


def encode_request(request: Request) -> bytes:
    """A request as bytes."""
    return _encode(TensorMessage(request.to_tensors(), {KIND: REQUEST, **request.metadata()}))


def decode_request(data: bytes) -> TensorMessage:
    """The arrays and the text of a request. Raises ValueError for anything else."""
    return _decode(data, REQUEST)


def encode_result(result: PolicyResult) -> bytes:
    """A result as bytes."""
    metadata = {
        KIND: RESULT,
        "stamp_ns": str(result.stamp_ns),
        "digest": result.digest,
        "inference_ms": repr(float(result.inference_ms)),
        "timings_ms": json.dumps(dict(result.timings_ms)),
    }
    return _encode(TensorMessage({"actions": result.actions}, metadata))


def decode_result(data: bytes) -> PolicyResult:
    """The result in ``data``. Raises ValueError for anything else."""
    message = _decode(data, RESULT)
    actions = message.tensors.get("actions")
    if actions is None or actions.dtype != np.float32 or actions.ndim != 2:
        got = "none" if actions is None else f"{actions.dtype} {actions.shape}"
        raise ValueError(f"result has actions {got}; expected float32 [horizon, action_dim]")
    try:
        timings = parse_json(message.metadata["timings_ms"])
        result = PolicyResult(
            stamp_ns=int(message.metadata["stamp_ns"]),
            digest=message.metadata["digest"],
            actions=actions,
            inference_ms=float(message.metadata["inference_ms"]),
            timings_ms={str(name): float(value) for name, value in timings.items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        what = one_line(error)
        raise ValueError(f"result lacks usable metadata ({what}); expected what encode_result writes") from error
    if not all(math.isfinite(value) for value in (result.inference_ms, *result.timings_ms.values())):
        raise ValueError("result has a duration that is not finite; expected milliseconds")
    return result


def _encode(message: TensorMessage) -> bytes:
    """As ``safetensors`` writes it, in a fifth of its time: the arrays are copied once."""
    header: dict[str, Any] = {"__metadata__": dict(message.metadata)}
    # Wide elements first keep every array aligned, as a reader may expect.
    arrays = sorted(message.tensors.items(), key=lambda item: -item[1].itemsize)
    buffers, end = [], 0
    for name, array in arrays:
        start, end = end, end + array.nbytes
        header[name] = {"dtype": _dtype_name(array.dtype), "shape": array.shape, "data_offsets": (start, end)}
        buffers.append(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT)
    return b"".join((struct.pack("<Q", len(text)), text, *buffers))


def _dtype_name(dtype: np.dtype) -> str:
    if dtype.kind not in "biuf":
        raise ValueError(f"tensor is {dtype.name}; expected truth values, whole numbers or floats")
    return "BOOL" if dtype.kind == "b" else f"{dtype.kind.upper()}{8 * dtype.itemsize}"


def check_kind(data: bytes, kind: str) -> Mapping[str, str]:
    """Look at the header alone: the text in it. Raises ValueError where ``data`` is not of that ``kind``."""
    metadata = _read_metadata(data)
    if metadata.get(KIND) != kind:
        raise ValueError(
            f"message is a {quoted(repr(metadata.get(KIND)))}; expected a {kind!r}: "
            "run the same vla_ros release at both ends"
        )
    return metadata


def _decode(data: bytes, kind: str) -> TensorMessage:
    metadata = check_kind(data, kind)
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"message is not valid safetensors: {one_line(error)}") from error
    return TensorMessage(tensors, metadata)


def _read_metadata(data: bytes) -> Mapping[str, str]:
    """The text in the header, which safetensors' own reader leaves out."""
    if len(data) < 8:
        raise ValueError(f"message has {len(data)} bytes; expected a safetensors header")
    (size,) = struct.unpack("<Q", data[:8])
    if size > min(MAX_HEADER_BYTES, len(data) - 8):
        raise ValueError(f"message declares a header of {size} bytes; expected at most what follows")
    try:
        header: Any = parse_json(data[8 : 8 + size])
    except ValueError as error:
        raise ValueError("message has a header that is not valid JSON; expected safetensors") from error
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("message has a header without text metadata; expected safetensors")
    return metadata
