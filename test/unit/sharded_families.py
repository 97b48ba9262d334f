"""Started by torchrun with a folder: every family's small version, sharded before each process reads its part of the
weights, against itself whole. Says a line for each."""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch.distributed.fsdp import FSDPModule
from torch.profiler import ProfilerActivity, profile

from vla_ros.policies.act.policy import ActInputs
from vla_ros.policies.base import BasePolicy
from vla_ros.policies.families import family_of, find_config
from vla_ros.policies.fill import build_on_meta, build_policy
from vla_ros.policies.modules.vlm_bridge.data_types import PolicySample
from vla_ros.policies.pi0.policy import Sample
from vla_ros.policies.smolvla.policy import SmolVLASample
from vla_ros.training.parallelize import parallelize
from vla_ros.training.processes import Processes, joined, whole
from vla_ros.training.shards import read_shards

FAMILIES = ("pi-qwen", "pi-paligemma2", "pi-smol", "pi0", "pi05", "smolvla", "act")
CPU = torch.device("cpu")
GATHERED, REDUCED = r"FSDP::all_gather(?: \((.*)\))?", r"FSDP::post_backward_reduce(?: \((.*)\))?"


def make(name: str) -> tuple[BasePolicy, Any]:
    """A small policy, the same in every process, and a request for it."""
    config = find_config(name)
    trials = family_of(config).make_trials()
    config, request = trials.shrink(config, trials.make_request(config))
    changes = {"num_noise_per_sample": 2, "max_frozen_actions": 2, "dropout": 0.0}
    config = replace(config, **{key: value for key, value in changes.items() if hasattr(config, key)})
    torch.manual_seed(0)
    policy = build_policy(config).eval()
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    return policy, request


def sample_of(policy: BasePolicy, request: Any, rank: int) -> tuple[Any, Any]:
    """A training sample of a process, whose chunk reaches the further beyond its episode the later it comes, and its
    draws."""
    config, rng = policy.config, np.random.default_rng([5, rank])
    width = getattr(config, "padded_action_dim", config.action_dim)
    actions = torch.from_numpy(rng.standard_normal((1, config.action_horizon, width), np.float32))
    inputs = policy.unpack_request(request)
    draws, num_known = policy.draw([rng]), np.array([config.action_horizon - 1 - rank])
    if isinstance(inputs, ActInputs):
        return replace(inputs, actions=actions, num_known=num_known), draws
    kinds = {"PiPolicy": PolicySample, "Pi0Policy": Sample, "SmolVLAPolicy": SmolVLASample}
    return kinds[config.type](inputs.observation, actions, num_known), draws


def check(name: str, processes: Processes, weights: Path) -> str:
    policy, request = make(name)
    losses = [policy.compute_loss(*sample_of(policy, request, rank)) for rank in range(processes.num)]
    num_values = {key: sum(loss.num_values[key] for loss in losses) for key in losses[0].terms}
    torch.stack([loss.over(num_values) for loss in losses]).sum().backward()
    expected = {key: value.grad for key, value in policy.named_parameters()}
    if processes.is_first:
        save_file({key: value.detach() for key, value in policy.named_parameters()}, weights)
    processes.wait()
    sharded = build_on_meta(policy.config, "policy").eval()
    parallelize(sharded, processes, CPU, checkpoint_layers=True)
    read_shards(sharded, weights, CPU)
    sample, draws = sample_of(policy, request, processes.rank)
    with torch.no_grad():
        actions = sharded.sample_batch(sample, [np.random.default_rng(0)])
        again = policy.sample_batch(sample, [np.random.default_rng(0)])
    torch.testing.assert_close(actions, again, rtol=1e-4, atol=1e-5)
    assert isinstance(sharded, FSDPModule)
    sharded.reshard()  # what the pass without gradients kept of the policy itself
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        sharded.compute_loss(sample, draws).over(num_values).backward()
    for key, value in sharded.named_parameters():
        got = None if value.grad is None else whole(value.grad)
        assert (got is None) == (expected[key] is None), key
        if got is not None:
            torch.testing.assert_close(
                got, expected[key], rtol=1e-3, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}"
            )
    counts = []
    for pattern in (GATHERED, REDUCED):
        found = (re.fullmatch(pattern, event.name) for event in profiler.events())
        counts.append(Counter(match[1] for match in found if match))
    gathered, reduced = counts
    assert max(gathered.values()) <= 2 and max(reduced.values()) == 1, (gathered, reduced)
    assert len(gathered) == len(sharded.layers()) + 1, gathered
    return f"{name}: {len(gathered)} groups"


def check_half_precision(processes: Processes) -> None:
    """Computed in bfloat16 a loss stays near, and gradients are as precise as the weights; what goes into a layer is
    left alone."""
    policy, request = make("pi-qwen")
    sample, draws = sample_of(policy, request, 0)
    expected = policy.compute_loss(sample, draws).parts["flow_mse"]
    seen = []
    block = policy.action_expert.blocks[0]
    run = block.forward
    block.forward = lambda x, modulation, context, rotary: (
        seen.append((x, rotary)) or run(x, modulation, context, rotary)
    )
    parallelize(policy, processes, CPU, dtype=torch.bfloat16)
    loss = policy.compute_loss(sample, draws)
    loss.total.backward()
    torch.testing.assert_close(loss.parts["flow_mse"], expected, rtol=0.05, atol=0.0)
    ((x, rotary),) = seen
    assert x.dtype == torch.bfloat16 and rotary.cos.dtype == torch.float32
    assert {value.grad.dtype for value in policy.parameters() if value.grad is not None} == {torch.float32}


def main() -> None:
    torch.set_num_threads(1)
    with joined() as processes:
        check_half_precision(processes)
        for name in FAMILIES:
            line = check(name, processes, Path(sys.argv[1], f"{name}.safetensors"))
            if processes.is_first:
                print(line, flush=True)


if __name__ == "__main__":
    main()
