"""The golden case of a policy directory: one raw observation and everything that must come of it. No torch.

A policy whose preprocessing or output drifted still gives actions, only wrong ones; this case makes it visible.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from vla_ros.policies.config import CONFIG_FILE
from vla_ros.policies.processor import PolicyProcessor
from vla_ros.strict import explained
from vla_ros.transforms.sample import PolicyRequest
from vla_ros.types import Observation

PIXEL_TOLERANCE = 1  # of 255: image libraries round differently from release to release
FLOAT_TOLERANCE = 1e-5
DECODED_TOLERANCE = 1e-6  # rad or m, and s: the same numbers are decoded again, so that only rounding differs
ELSEWHERE = 0.1  # rad or m
DECODES = "what actions mean"


@dataclass(frozen=True)
class Decoded:
    """What actions decode to: ``targets`` float64 [2, horizon, num_joints], SI, in the order of ``joint_names``, and
    their ``due_s`` after the observation, float64 [horizon].

    The first are of the golden actions. The second are of a ramp from -1 to 1 and of other joint positions: joints that
    were at 0, or actions that are, would hide what they are relative to and how large they are.
    """

    joint_names: tuple[str, ...]
    targets: np.ndarray
    due_s: np.ndarray


@dataclass(frozen=True)
class GoldenCase:
    """``observation`` is raw, ``request`` its processed form with fixed noise, ``actions`` float32 [horizon,
    action_dim] the normalised result; ``decoded`` is missing in a file of an earlier release."""

    observation: Observation
    request: PolicyRequest
    actions: np.ndarray
    decoded: Decoded | None = None


def make_golden(
    processor: PolicyProcessor, observation: Observation, request: PolicyRequest, actions: np.ndarray
) -> GoldenCase:
    """The golden case of a request and its actions, with what they decode to."""
    return GoldenCase(observation, request, actions, _decode(processor, observation, actions))


def write_golden(path: Path, golden: GoldenCase) -> None:
    """Write ``golden.safetensors``."""
    observation = golden.observation
    tensors = {f"image.{name}": image for name, image in observation.images.items()}
    tensors |= {f"request.{name}": array for name, array in golden.request.to_tensors().items()}
    tensors |= {"joint_positions": observation.joint_positions, "actions": golden.actions}
    metadata = {**golden.request.metadata(), "task": observation.task, "cameras": json.dumps(list(observation.images))}
    if golden.decoded is not None:
        tensors |= {"decoded": golden.decoded.targets, "due_s": golden.decoded.due_s}
        metadata["joints"] = json.dumps(golden.decoded.joint_names)
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path, metadata=metadata)


def read_golden(path: Path, request_type: type[PolicyRequest]) -> GoldenCase:
    """Read ``golden.safetensors``, with the family's own request in it; raises ValueError where it is damaged."""
    kinds = (SafetensorError, OSError, KeyError, TypeError, ValueError)
    with explained(f"{path.name}: damaged (", *kinds, after="); export the policy again"):
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        processed = {n.removeprefix("request."): x for n, x in tensors.items() if n.startswith("request.")}
        request = request_type.from_tensors(processed, metadata)
        cameras = json.loads(metadata["cameras"])
        observation = Observation(
            stamp_ns=request.stamp_ns,
            headers_ns=dict.fromkeys(cameras, request.stamp_ns),
            images={name: tensors[f"image.{name}"] for name in cameras},
            joint_positions=tensors["joint_positions"],
            task=metadata["task"],
        )
        decoded = None
        if "joints" in metadata:
            decoded = Decoded(tuple(json.loads(metadata["joints"])), tensors["decoded"], tensors["due_s"])
        return GoldenCase(observation, request, tensors["actions"], decoded)


def decoding_drift(golden: GoldenCase, processor: PolicyProcessor) -> str:
    """Decode the golden actions again: one line that says what drifted, or nothing."""
    stored = golden.decoded
    if stored is None:
        return ""
    again = _decode(processor, golden.observation, golden.actions)
    if stored.joint_names != again.joint_names:
        return _drift(
            "joints", f"are {list(stored.joint_names)}, {CONFIG_FILE} says {list(again.joint_names)}", DECODES
        )
    for name, before, now in (
        ("due times", stored.due_s, again.due_s),
        ("joint targets", stored.targets, again.targets),
    ):
        if before.shape != now.shape:
            return _drift(name, f"are {list(before.shape)}, now {list(now.shape)}", DECODES)
        worst = np.abs(before - now).max()
        if not worst <= DECODED_TOLERANCE:
            return _drift(name, f"differ by up to {worst:.3g}, expected at most {DECODED_TOLERANCE}", DECODES)
    return ""


def _decode(processor: PolicyProcessor, observation: Observation, actions: np.ndarray) -> Decoded:
    ramp = np.linspace(-1.0, 1.0, actions.size, dtype=np.float32).reshape(actions.shape)
    elsewhere = replace(observation, joint_positions=observation.joint_positions + ELSEWHERE)
    chunks = processor.decode(actions, observation), processor.decode(ramp, elsewhere)
    shape = processor.chunk_shape
    due_s = (np.arange(shape.horizon) + shape.offset) * shape.dt_s
    return Decoded(processor.joint_names, np.stack([chunk.positions for chunk in chunks]), due_s)


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
