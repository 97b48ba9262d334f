"""What may arrive on the link and is no message of the other node: made of a real request and a real result."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import safetensors.numpy

from vla_ros.wire import KIND, REQUEST, RESULT, TensorMessage, check_kind, decode_request

NUM_DAMAGED = 30


@dataclass(frozen=True)
class Sample:
    """A request and its result as they were sent, long answered by the time they are used again."""

    request: bytes
    result: bytes


Garbage = Callable[[Sample], bytes]


def _request(sample: Sample, metadata: Mapping[str, str] | None = None, **tensors: np.ndarray) -> bytes:
    """The request with other tensors and texts in it."""
    message = decode_request(sample.request)
    return _save(TensorMessage({**message.tensors, **tensors}, {**message.metadata, **(metadata or {})}))


def _result(sample: Sample, actions: np.ndarray | None = None, **metadata: str) -> bytes:
    """The result with other actions and texts in it."""
    tensors = safetensors.numpy.load(sample.result)
    if actions is not None:
        tensors["actions"] = actions
    return _save(TensorMessage(tensors, {**check_kind(sample.result, RESULT), **metadata}))


def _save(message: TensorMessage) -> bytes:
    return safetensors.numpy.save(dict(message.tensors), dict(message.metadata))


def _header(size: int, text: bytes = b"") -> bytes:
    return struct.pack("<Q", size) + text


def _kind_only(kind: str) -> bytes:
    text = f'{{"__metadata__":{{"{KIND}":"{kind}"}}}}'.encode()
    return _header(len(text), text)


def _huge_shape(kind: str) -> bytes:
    entry = '{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,16]}'
    text = f'{{"__metadata__":{{"{KIND}":"{kind}"}},"actions":{entry},"noise":{entry}}}'.encode()
    return _header(len(text), text) + bytes(16)


ANYWHERE: dict[str, Garbage] = {
    "nothing": lambda sample: b"",
    "a pickle": lambda sample: b"\x80\x04K\x01.",
    "few bytes": lambda sample: bytes(range(7)),
    "noise": lambda sample: np.random.default_rng(0).bytes(100_000),
    "a huge header": lambda sample: _header(1 << 63) + sample.request[8:],
    "a header of the whole message": lambda sample: _header(len(sample.result)) + sample.result[8:],
    "nested brackets": lambda sample: _header(60_000, b"[" * 60_000),
    "a huge shape": lambda sample: _huge_shape(REQUEST),
    "a huge shape of actions": lambda sample: _huge_shape(RESULT),
    "no tensors": lambda sample: _kind_only(REQUEST),
    "no actions": lambda sample: _kind_only(RESULT),
}

REQUESTS: dict[str, Garbage] = {
    **ANYWHERE,
    "a result": lambda sample: sample.result,
    "no stamp": lambda sample: _request(sample, {"stamp_ns": "now"}),
    "a grid of no numbers": lambda sample: _request(sample, {"image_grid": "[[1, 2]]"}),
    "a huge grid": lambda sample: _request(sample, {"image_grid": "[[1000000000, 1000000000, 1000000000]]"}),
    "noise of another type": lambda sample: _request(sample, noise=np.zeros((10, 3))),
    "noise of another shape": lambda sample: _request(sample, noise=np.zeros((4, 7), np.float32)),
    "noise of no shape": lambda sample: _request(sample, noise=np.ones((), np.float32)),
    "a state of another width": lambda sample: _request(sample, state=np.zeros((1, 9), np.float32)),
    "masks that do not fit": lambda sample: _request(sample, prefix_mask=np.zeros((3, 3), bool)),
    "an unknown token": lambda sample: _request(
        sample, input_ids=np.full_like(decode_request(sample.request).tensors["input_ids"], 1 << 40)
    ),
    "a negative token": lambda sample: _request(
        sample, input_ids=np.full_like(decode_request(sample.request).tensors["input_ids"], -5)
    ),
    "positions far away": lambda sample: _request(
        sample, position_ids=np.full_like(decode_request(sample.request).tensors["position_ids"], 1 << 60)
    ),
    "no patches": lambda sample: _request(sample, {"image_grid": "[]"}, pixel_values=np.zeros((0, 12), np.uint8)),
    "noise that is not finite": lambda sample: _request(
        sample, noise=np.full_like(decode_request(sample.request).tensors["noise"], np.nan)
    ),
    "guidance without weights": lambda sample: _request(sample, previous_actions=np.zeros((10, 3), np.float32)),
    "the same again": lambda sample: sample.request,
}

RESULTS: dict[str, Garbage] = {
    **ANYWHERE,
    "a request": lambda sample: sample.request,
    "no stamp": lambda sample: _result(sample, stamp_ns="now"),
    "a stamp of many digits": lambda sample: _result(sample, stamp_ns="9" * 4000),
    "another stamp": lambda sample: _result(sample, np.full((10, 3), 1e9, np.float32), stamp_ns="1"),
    "another digest": lambda sample: _result(sample, digest="ab" * 32),
    "an endless time": lambda sample: _result(sample, inference_ms="inf"),
    "times that are none": lambda sample: _result(sample, timings_ms="[1, 2]"),
    "actions of another type": lambda sample: _result(sample, np.zeros((10, 3))),
    "actions of another shape": lambda sample: _result(sample, np.zeros((10, 3, 2), np.float32)),
    "actions that are not finite": lambda sample: _result(sample, np.full((10, 3), np.nan, np.float32)),
    "the same again": lambda sample: sample.result,
}


def damaged(message: bytes, seed: int = 0) -> Iterator[bytes]:
    """``message`` cut off, and with bits turned over in its header or anywhere."""
    rng = np.random.default_rng(seed)
    (header_size,) = struct.unpack("<Q", message[:8])
    for i in range(NUM_DAMAGED):
        if i % 3 == 0:
            yield message[: rng.integers(len(message))]
            continue
        turned = bytearray(message)
        for _ in range(rng.integers(1, 6)):
            place = rng.integers(8 + header_size if i % 3 == 1 else len(message))
            turned[place] ^= 1 << rng.integers(8)
        yield bytes(turned)
