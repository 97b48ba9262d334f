"""The golden case of a policy directory: one raw observation and everything that must come of it. No torch.

A policy whose preprocessing or output drifted still gives actions, only wrong ones; this case makes it visible.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from vla_ros.policies.config import CONFIG_FILE
from vla_ros.policies.processor import PolicyProcessor, stats_shapes
from vla_ros.strict import check_safetensors, explained, parse_json
from vla_ros.transforms.sample import PolicyRequest
from vla_ros.types import Observation

PIXEL_TOLERANCE = 1  # of 255: image libraries round differently from release to release
FLOAT_TOLERANCE = 1e-5
DECODED_TOLERANCE = 1e-6  # rad or m, and s: the same numbers are decoded again, so that only rounding differs
POSE_TOLERANCE = 1e-3  # rad or m: inverse kinematics comes nearer step by step, and rounding says when it stops
ELSEWHERE = 0.1  # rad or m


@dataclass(frozen=True)
class GoldenCase:
    """``observation`` is raw, ``request`` its processed form with fixed noise, ``actions`` float32 [horizon,
    action_dim] the normalised result; ``decoded`` as ``decode_golden`` makes it, empty in a file of an earlier release.
    """

    observation: Observation
    request: PolicyRequest
    actions: np.ndarray
    decoded: Mapping[str, np.ndarray]


def decode_golden(processor: PolicyProcessor, observation: Observation, actions: np.ndarray) -> dict[str, np.ndarray]:
    """What actions mean: the times after the observation at which they are due, float64 [horizon] in s, each joint's
    targets, float64 [2, horizon] in rad or m, and all statistics, those that the normalization doesn't use, too.

    The first targets are of ``actions``. The second are of a ramp from -1 to 1 and of other joint positions: joints or
    actions that are 0 would hide what they are relative to and how large they are.
    """
    ramp = np.linspace(-1.0, 1.0, actions.size, dtype=np.float32).reshape(actions.shape)
    elsewhere = replace(observation, joint_positions=observation.joint_positions + ELSEWHERE)
    chunks = processor.decode(actions, observation), processor.decode(ramp, elsewhere)
    targets, shape = np.stack([chunk.positions for chunk in chunks]), processor.chunk_shape
    due_s = (np.arange(shape.horizon) + shape.offset) * shape.dt_s
    read = stats_shapes(processor.config)  # and no others, which nobody uses
    return {
        "due times": due_s,
        **{f"targets of {name}": targets[..., i] for i, name in enumerate(processor.joint_names)},
        **{f"{key}.{name}": array for key in read for name, array in vars(processor.stats[key]).items()},
    }


def write_golden(path: Path, golden: GoldenCase) -> None:
    """Write ``golden.safetensors``."""
    tensors = {f"request.{name}": array for name, array in golden.request.to_tensors().items()}
    tensors |= {f"decoded.{name}": array for name, array in golden.decoded.items()}
    tensors["actions"] = golden.actions
    _write(path, golden.observation, tensors, golden.request.metadata())


def write_observation(path: Path, observation: Observation) -> None:
    """Write a raw observation alone, of which a golden case is to be made. Its times are not kept."""
    _write(path, observation, {}, {})


def _write(path: Path, seen: Observation, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    images = {f"image.{name}": image for name, image in seen.images.items()}
    arrays = {**images, **tensors, "joint_positions": seen.joint_positions}
    cameras = json.dumps(list(seen.images))
    save_file(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()},
        path,
        metadata={**metadata, "task": seen.task, "cameras": cameras},
    )


def read_golden(path: Path, request_type: type[PolicyRequest]) -> GoldenCase:
    """Read ``golden.safetensors``, with the family's own request in it; raises ValueError where it is damaged."""
    with _damaged(path, "export the policy again"):
        tensors, metadata = _read(path)
        processed = {n.removeprefix("request."): x for n, x in tensors.items() if n.startswith("request.")}
        request = request_type.from_tensors(processed, metadata)
        decoded = {n.removeprefix("decoded."): x for n, x in tensors.items() if n.startswith("decoded.")}
        return GoldenCase(_observation(tensors, metadata, request.stamp_ns), request, tensors["actions"], decoded)


def read_observation(path: Path) -> Observation:
    """What ``write_observation`` wrote, seen at 0; raises ValueError where it is damaged."""
    with _damaged(path, "restore it"):
        return _observation(*_read(path), 0)


def _damaged(path: Path, fix: str) -> AbstractContextManager[None]:
    # A dtype that numpy doesn't have is an AttributeError.
    kinds = (SafetensorError, OSError, AttributeError, KeyError, TypeError, ValueError)
    return explained(f"{path.name}: damaged (", *kinds, after=f"); {fix}")


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    check_safetensors(path)
    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}


def _observation(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str], stamp_ns: int) -> Observation:
    cameras = parse_json(metadata["cameras"])
    return Observation(
        stamp_ns=stamp_ns,
        headers_ns=dict.fromkeys(cameras, stamp_ns),
        images={name: tensors[f"image.{name}"] for name in cameras},
        joint_positions=tensors["joint_positions"],
        task=metadata["task"],
    )


def decoding_drift(golden: GoldenCase, processor: PolicyProcessor) -> str:
    """Decode the golden actions again: one line that says what drifted, or nothing."""
    again = decode_golden(processor, golden.observation, golden.actions)
    tolerance = POSE_TOLERANCE if processor.data.action_space.needs_kinematics else DECODED_TOLERANCE
    for name, before in golden.decoded.items():
        now = again.get(name)
        if now is None or now.shape != before.shape:
            return _drift(name, "are missing or of another number", "what actions mean")
        worst = np.abs(before - now).max()
        if not worst <= tolerance:
            return _drift(name, f"differ by up to {worst:.3g}, expected at most {tolerance}", "what actions mean")
    return ""


def preprocessing_drift(golden: GoldenCase, request: PolicyRequest) -> str:
    """Compare a freshly processed request with the golden one: one line that names the tensor that drifted, or nothing.

    Noise is not compared: the golden actions belong to the noise that is stored.
    """
    expected, got = golden.request.to_tensors(), request.to_tensors()
    for name in expected:
        if name == "noise":
            continue
        if expected[name].shape != got[name].shape or expected[name].dtype != got[name].dtype:
            found = f"{got[name].dtype} {list(got[name].shape)}"
            stored = f"{expected[name].dtype} {list(expected[name].shape)}"
            return _drift(name, f"is {found}, was {stored}")
        if expected[name].size == 0:
            continue
        worst = np.abs(expected[name].astype(np.float64) - got[name].astype(np.float64)).max()
        if not worst <= _tolerance(expected[name].dtype):
            return _drift(name, f"differs by up to {worst:.3g}")
    return ""


def _tolerance(kind: np.dtype) -> float:
    """Pixels and numbers may be rounded otherwise; tokens and masks are what they are."""
    return PIXEL_TOLERANCE if kind == np.uint8 else FLOAT_TOLERANCE if kind.kind == "f" else 0.0


def _drift(name: str, difference: str, what: str = "preprocessing") -> str:
    return (
        f"{what} drifted: golden {name} {difference}; {CONFIG_FILE}, the processor, the statistics or a library "
        "changed since export: restore them or export the policy again"
    )
