"""A recorded case: ready policy inputs, and what the reference computed from them in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor

from vla_ros.policies.importing.difference import Difference
from vla_ros.policies.modules.flow_loss import FlowDraws
from vla_ros.policies.modules.vlm_bridge.data_types import PolicyObservation, PolicySample, VLMInputs
from vla_ros.policies.modules.vlm_bridge.inputs import PolicyInput
from vla_ros.policies.modules.vlm_bridge.processor import VLMProcessor
from vla_ros.policies.modules.vlm_bridge.registry import BACKBONES
from vla_ros.policies.pi.config import PiConfig
from vla_ros.policies.pi.policy import PiPolicy
from vla_ros.policies.pi.released.weights import load_released
from vla_ros.strict import check_safetensors, explained
from vla_ros.transforms.images import patchify

TOLERANCE = 2e-5  # absolute, float32 on CPU
# No policy reads it, and a token of small norm amplifies rounding: with oneDNN on and off it already differs by 6e-5.
TOLERANCES = {"last_hidden_state": 2e-4}
_INPUTS = {  # name: number of dimensions
    "pixel_values": (3, 5),
    "input_ids": (2,),
    "attention_mask": (2,),
    "obs_register_att_mask": (2,),
    "target_ids": (2,),
    "state": (3,),
    "actions": (3,),
    "noise": (3,),
    "time": (1,),
}


@dataclass(frozen=True)
class RecordedCase:
    """``given`` are the ``in.*`` and ``expected`` the ``out.*`` tensors, by name without that prefix, batched."""

    given: Mapping[str, np.ndarray]
    expected: Mapping[str, np.ndarray]


def read_case(path: Path) -> RecordedCase:
    """Read a ``case.safetensors``; raises ValueError where it is missing, damaged or lacks an input."""
    kinds = (SafetensorError, OSError, AttributeError, KeyError, TypeError, ValueError)
    with explained(f"{path}: not readable (", *kinds, after="); give a recorded case"):
        check_safetensors(path)
        tensors = load_file(path)
    given, expected = (
        {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}
        for prefix in ("in.", "out.")
    )
    for name, num_dims in _INPUTS.items():
        if name not in given:
            raise ValueError(f"{path}: tensor in.{name} is missing; a case has {', '.join(_INPUTS)}")
        if given[name].ndim not in num_dims:
            got = f"tensor in.{name} has shape {list(given[name].shape)}"
            raise ValueError(f"{path}: {got}; expected {' or '.join(map(str, num_dims))} dimensions")
    if not expected:
        raise ValueError(f"{path}: no tensor is named out.*; a case holds what the reference computed")
    return RecordedCase(given, expected)


def make_input(case: RecordedCase, config: PiConfig) -> PolicyInput:
    """The batched policy input of a case, as our own processor would have made it of the same tokens and pixels."""
    processor: type[VLMProcessor] = BACKBONES[config.vlm_type].processor_class()
    given = case.given
    pixel_values, image_grid = _patches(given, config)
    return processor.make_input(
        config,
        pixel_values,
        image_grid,
        input_ids=given["input_ids"],
        attention_mask=given["attention_mask"],
        register_mask=given["obs_register_att_mask"],
        target_ids=given["target_ids"],
        positions=given["position_ids"][:, :, 0] if "position_ids" in given else None,
    )


@torch.no_grad()
def compare(policy: PiPolicy, case: RecordedCase) -> dict[str, float]:
    """The largest absolute difference of every output of the case, over valid positions; infinite where shapes differ.

    Raises ValueError for an output that no part of the policy computes.
    """
    inputs = VLMInputs.from_numpy(make_input(case, policy.config))
    given = {name: torch.from_numpy(case.given[name]) for name in ("state", "actions", "noise", "time")}
    observation = PolicyObservation(inputs, given["state"])
    registers = inputs.attention_mask.new_ones(len(inputs.attention_mask), policy.config.num_obs_registers)
    valid = torch.cat((inputs.attention_mask, registers), dim=1)
    time = given["time"][:, None, None]
    noisy = given["actions"] + time * (given["noise"] - given["actions"])
    prefix = policy.encode_prefix(observation, with_ce_loss=True)
    draws = FlowDraws(given["noise"][:, None], given["time"][:, None])
    loss = policy.compute_loss(PolicySample(observation, given["actions"]), draws)
    outputs: dict[str, Callable[[], Tensor]] = {
        "prefix_pad_masks": lambda: valid,
        "last_hidden_state": lambda: policy.vlm_bridge.final_states(inputs, policy.obs_registers),
        "suffix_hidden_state_list": lambda: torch.stack(prefix.hidden_states, dim=1),
        "noisy_actions": lambda: noisy,
        "velocity": lambda: policy.predict_suffix(
            given["state"], policy.prepare_suffix(prefix, None), noisy[:, None], given["time"][:, None]
        )[:, 0],
        "ce_loss": lambda: loss.parts["ce_loss"][None],
        "flow_mse": lambda: loss.parts["flow_mse"][None],
        "actions_10_steps": lambda: policy.sample_actions(observation, 10, given["noise"]),
        "actions_5_steps": lambda: policy.sample_actions(observation, 5, given["noise"]),
    }
    unknown = sorted(set(case.expected) - set(outputs))
    if unknown:
        known = ", ".join(outputs)
        raise ValueError(f"tensor out.{unknown[0]} is not an output that a policy computes; expected {known}")
    masks = {"last_hidden_state": valid[:, :, None]}
    if not policy.config.expert_only_use_register:
        masks["suffix_hidden_state_list"] = valid[:, None, :, None]
    return {
        name: _worst(outputs[name](), torch.from_numpy(expected), masks.get(name))
        for name, expected in case.expected.items()
    }


def compare_run(folder: Path) -> dict[str, Difference]:
    """Those of the run in ``folder/run``, whose VLM is in ``folder/vlm``, for the case in ``folder``, each with what
    rounding explains."""
    case = read_case(folder / "case.safetensors")
    differences = compare(load_released(folder / "run", folder / "vlm" / "config.json").policy, case)
    return {name: Difference(value, TOLERANCES.get(name, TOLERANCE)) for name, value in differences.items()}


def beyond_tolerance(differences: Mapping[str, float]) -> dict[str, float]:
    """Those of ``compare``'s differences that rounding doesn't explain."""
    return {name: value for name, value in differences.items() if not value <= TOLERANCES.get(name, TOLERANCE)}


def _worst(got: Tensor, expected: Tensor, mask: Tensor | None) -> float:
    if got.shape != expected.shape:
        return float("inf")
    difference = (got.double() - expected.double()).abs().nan_to_num(nan=float("inf"))
    return float(difference.max() if mask is None else difference.masked_fill(~mask, 0.0).max())


def _patches(given: Mapping[str, np.ndarray], config: PiConfig) -> tuple[np.ndarray, tuple[tuple[int, int, int], ...]]:
    pixels = given["pixel_values"]
    if pixels.ndim == 3:  # patches already, with their grids
        if "image_grid_thw" not in given:
            raise ValueError("tensor in.image_grid_thw is missing; pixels in patches need the grid of each image")
        return pixels, tuple((t, h, w) for t, h, w in given["image_grid_thw"][0].tolist())
    _, num_cameras, _, height, width = pixels.shape
    patch = config.vlm_config["vision_config"]["patch_size"]
    grid = (1, height // patch, width // patch)
    return patchify(pixels.transpose(0, 1, 3, 4, 2), patch), (grid,) * num_cameras
