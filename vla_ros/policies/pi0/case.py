"""A recorded case of LeRobot's or openpi's pi0: what the reference made of an observation, step by step, in float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vla_ros.policies.importing.case import CaseRobot, LeRobotCase
from vla_ros.policies.importing.difference import Difference, difference
from vla_ros.policies.importing.lerobot import LeRobotCheckpoint
from vla_ros.policies.importing.openpi import CAMERAS, OpenPiCheckpoint
from vla_ros.policies.importing.settings import Imported
from vla_ros.policies.pi0.lerobot import import_lerobot
from vla_ros.policies.pi0.openpi import import_openpi
from vla_ros.policies.pi0.policy import Pi0Observation, Pi0Policy
from vla_ros.policies.pi0.processor import Pi0Processor
from vla_ros.policies.pi0.request import Pi0Request
from vla_ros.transforms.images import patchify
from vla_ros.types import Observation

# Absolute, in float32 on a CPU.
EXACT, PIXELS, HIDDEN, ACTIONS = 0.0, 5e-7, 1e-5, 2e-4
OPENPI_CHUNKS = {"chunk": 1e-4, "actions": 1e-4}
TOKENIZER = "tokenizer"
FLOW_TIMES = {"t1": (1.0, "noise"), "t0.5": (0.5, "x_t0.5")}
Outputs = dict[str, Difference]


@dataclass(frozen=True)
class Run:
    """A policy, one request of it, and what the reference made of the same observation."""

    policy: Pi0Policy
    processor: Pi0Processor
    request: Pi0Request
    case: LeRobotCase

    @property
    def observation(self) -> Pi0Observation:
        return self.policy.unpack_request(self.request).observation

    def compare(self, name: str, got: Any, allowed: float) -> Outputs:
        """Nothing where the reference doesn't say."""
        return {name: difference(got, self.case.expected[name], allowed)} if name in self.case.expected else {}


def compare_lerobot(checkpoint: LeRobotCheckpoint, case: LeRobotCase, folder: Path, packed: bool = True) -> Outputs:
    """Every recorded output by name; ``folder`` holds the tokenizer. Raises ValueError as an import does."""
    robot = CaseRobot.of(case, [each.key for each in checkpoint.cameras])
    is_relative = checkpoint.relative_dims() or (False,) * len(case.state)
    imported = import_lerobot(checkpoint, robot.settings(is_relative, str(folder / TOKENIZER)))
    return _compare(imported, robot, case, packed)


def compare_openpi(checkpoint: OpenPiCheckpoint, case: LeRobotCase, folder: Path, packed: bool = True) -> Outputs:
    """As ``compare_lerobot``; its times are sums in float32, whose last bits its periods make much of."""
    robot = CaseRobot.of(case, CAMERAS)
    imported = import_openpi(checkpoint, robot.settings((False,) * len(case.state), str(folder / TOKENIZER)))
    return _compare(imported, robot, replace(case, allowed=OPENPI_CHUNKS), packed)


def _compare(imported: Imported, robot: CaseRobot, case: LeRobotCase, packed: bool) -> Outputs:
    policy, processor = imported.policy, imported.processor
    assert isinstance(policy, Pi0Policy) and isinstance(processor, Pi0Processor)
    if packed:
        policy.pack_weights()
    observation = robot.observation(case)
    request = replace(processor.process(observation), noise=case.given["noise"][0])
    run = Run(policy, processor, request, case)
    with torch.inference_mode():
        differences = _inputs(run) | _network(run)
        for num_steps in (10, 5):
            differences |= _actions(run, num_steps, observation)
    return differences


def _inputs(run: Run) -> Outputs:
    """State, tokens, masks and pictures."""
    request, case, processor = run.request, run.case, run.processor
    tokens, mask = processor._pad(request.tokens[request.token_mask].tolist(), processor.settings.max_tokens)
    own = request.state[:, : processor.config.state_dim]
    return {
        **run.compare("state_normalized", own, EXACT),
        **run.compare("state_padded", request.state, EXACT),
        **run.compare("tokens", tokens[None], EXACT),
        **run.compare("token_mask", mask[None], EXACT),
        **_pictures(run, {name: case.expected[name] for name in case.expected if name.startswith("image")}),
    }


def _pictures(run: Run, expected: Mapping[str, np.ndarray]) -> Outputs:
    pixels, patch = run.request.pixel_values, run.policy.config.vision.patch_size
    seen = [name for name in expected if name.startswith("image.")]
    masks = [bool(value.all()) for name, value in expected.items() if name.startswith("image_mask.")]
    outputs = {"image_mask": difference(sum(masks), len(pixels), EXACT)}
    floats = pixels / np.float32(127.5) - np.float32(1) if pixels.dtype == np.uint8 else pixels
    for picture, name in zip(floats, seen, strict=False):  # not every case has them all
        patches = patchify(expected[name].transpose(0, 2, 3, 1)[:, None], patch)[0]
        outputs[name] = difference(picture, patches, PIXELS)
    return outputs


def _network(run: Run) -> Outputs:
    """Prefix and velocities. What lies at padding means nothing, in the reference and here."""
    policy, expected = run.policy, run.case.expected
    x, is_valid = policy.embed_prefix(run.observation)
    num_valid, prefix = int(is_valid.sum()), policy.encode_prefix(run.observation)
    outputs, valid = {}, None
    if "prefix_pad_mask" in expected:
        valid = expected["prefix_pad_mask"][0]
        outputs["prefix_pad_mask"] = difference(num_valid, valid.sum(), EXACT)
    if "prefix_position_ids" in expected:
        ids = expected["prefix_position_ids"][0][valid]
        outputs["prefix_position_ids"] = difference(np.arange(num_valid), ids, EXACT)
    if "prefix_embeddings" in expected:
        embedded = expected["prefix_embeddings"][0][valid]
        outputs["prefix_embeddings"] = difference(x[0, :num_valid], embedded, HIDDEN)
    for index, layer in enumerate(prefix.layers):
        outputs |= run.compare(f"prefix_keys.{index}", layer.keys[:, :, :num_valid], HIDDEN)
        outputs |= run.compare(f"prefix_values.{index}", layer.values[:, :, :num_valid], HIDDEN)
    for name, (time, noisy) in FLOW_TIMES.items():
        if f"{name}.velocity" in expected:
            outputs |= _velocity(run, name, torch.full((1, 1), time), torch.from_numpy(run.case.given[noisy]))
    return outputs


def _velocity(run: Run, name: str, time: Tensor, noisy: Tensor) -> Outputs:
    policy, observation = run.policy, run.observation
    prefix, condition = policy.encode_prefix(observation), policy.condition(time)
    embedded = policy.embed_suffix(noisy[:, None], condition.added)
    extended = policy.expert.extend(prefix)
    rotary = policy.expert.rotary(extended.length, embedded.shape[2])
    hidden = policy.expert(embedded, extended, condition.norms, rotary)
    suffix = embedded[:, 0]
    if policy.config.variant == "pi0":
        suffix = torch.cat((policy.state_proj(observation.state), suffix), dim=1)
    else:
        inner = torch.nn.functional.silu(policy.time_mlp_in(policy.embed_time(time)))
        cond = torch.nn.functional.silu(policy.time_mlp_out(inner))
        condition_of = run.compare(f"{name}.adarms_cond", cond[0], HIDDEN)
    velocity = policy.predict_suffix(observation.state, policy.prepare_suffix(prefix, None), noisy[:, None], time)
    return {
        **run.compare(f"{name}.time_embedding", policy.embed_time(time)[0], HIDDEN),
        **(condition_of if policy.config.variant == "pi05" else {}),
        **run.compare(f"{name}.suffix_embeddings", suffix, HIDDEN),
        **run.compare(f"{name}.suffix_hidden", hidden[:, 0], HIDDEN),
        **run.compare(f"{name}.velocity", velocity[:, 0], HIDDEN),
    }


def _actions(run: Run, num_steps: int, observation: Observation) -> Outputs:
    policy, given = run.policy, run.observation
    allowed = run.case.allowed.get("chunk", HIDDEN)
    suffix = policy.prepare_suffix(policy.encode_prefix(given), policy.make_time_grid(num_steps))
    padded = policy.denoise(given.state, suffix, torch.from_numpy(run.request.noise)[None])
    actions = padded[..., : policy.config.action_dim]
    decoded = run.processor.decode(actions[0].numpy(), observation).positions
    steps = f"{num_steps}_steps"
    return {
        **run.compare(f"chunk_padded_{steps}", padded, allowed),
        **run.compare(f"actions_{steps}_normalized", actions, allowed),
        **run.compare(f"actions_{steps}", decoded[None], run.case.allowed.get("actions", ACTIONS)),
    }
