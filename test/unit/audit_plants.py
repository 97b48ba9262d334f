"""Policies that wait or move data, one planted line each, through every pass of the audit: a process of its own.

Some again with guided requests: with a product through the expert, which has no graph, and with frozen actions.

Run as a program it prints, as JSON, the events of each plant by pass. Tests find a planted line by its comment.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from policy_helpers import EXPERT, pi_config
from torch import Tensor

from vla_ros.audit.kernels import count_published_kernels
from vla_ros.audit.passes import PassReport, accelerator_pass, graph_pass, guided, host_pass
from vla_ros.execution import runner
from vla_ros.execution.staging import StagingArea
from vla_ros.policies.base import BasePolicy
from vla_ros.policies.modules.vlm_bridge.data_types import PolicyObservation, VLMOutputs
from vla_ros.policies.pi.config import PiConfig
from vla_ros.policies.pi.policy import PiPolicy
from vla_ros.policies.pi.trials import synthetic_request
from vla_ros.transforms.sample import PolicyRequest


def item(state: Tensor) -> Tensor:
    return state * state.sum().item()  # plant: item


def tolist(state: Tensor) -> Tensor:
    return state * state[0, 0].tolist()[0]  # plant: tolist


def boolean_index(state: Tensor) -> Tensor:
    return state + state[state > 0].sum()  # plant: boolean_index


def branch(state: Tensor) -> Tensor:
    return state if state.sum() > 0 else -state  # plant: branch


def nonzero(state: Tensor) -> Tensor:
    return state + state.nonzero().sum()  # plant: nonzero


def numpy(state: Tensor) -> Tensor:
    return state + float(state.numpy().sum())  # plant: numpy


def python_data(state: Tensor) -> Tensor:
    return state + torch.tensor([1.0, 2.0, 3.0], device=state.device)  # plant: python_data


def to_host(state: Tensor) -> Tensor:
    there = state.cpu()  # plant: to_host
    return state + there.shape[0]


def to_device(state: Tensor) -> Tensor:
    return state + torch.ones(3).to(state.device)  # plant: to_device


def nothing(state: Tensor) -> Tensor:
    return state


def filled(state: Tensor) -> Tensor:
    """Made on the device by kernels alone: no event."""
    ones = torch.full((3,), 2.0, device=state.device) + torch.arange(3, device=state.device)
    return torch.where(state > 0, state * ones.to(state.device, state.dtype), 0.0)


PLANTS = (item, tolist, boolean_index, branch, nonzero, numpy, python_data, to_host, to_device, nothing, filled)


class CopiesTwice(StagingArea):
    """Brings its input to the device a second time."""

    def load(self, request: PolicyRequest) -> None:
        super().load(request)
        super().load(request)


def planted(plant: Callable[[Tensor], Tensor]) -> Callable[[PiConfig], BasePolicy]:
    """How to build a policy with that line in each of its steps; its prefix is its registers alone, to be quick."""

    class Planted(PiPolicy):
        def encode_prefix(self, observation: PolicyObservation, with_ce_loss: bool = False) -> VLMOutputs:
            return VLMOutputs((self.obs_registers[None],), None)

        def predict_suffix(self, state: Tensor, *others: Any) -> Tensor:
            return super().predict_suffix(plant(state), *others)

    return Planted


def events_of(report: PassReport) -> list[dict[str, Any]]:
    return [vars(event) for event in report.events]


def step_kernels(config: PiConfig, request: PolicyRequest, num_layers: int) -> dict[str, int]:
    """How many kernels a step is, where the expert has so many pairs of blocks and otherwise the published switches."""
    expert = replace(EXPERT, num_key_value_heads=EXPERT.num_attention_heads, num_hidden_layers=num_layers)
    step = count_published_kernels(replace(config, action_expert_cfg=expert), request)["step"]
    return {"total": step.total, "copies": step.num_copies}


def main() -> None:
    config = pi_config(num_steps=2, action_expert_cfg=replace(EXPERT, num_hidden_layers=1, cross_attention_every=1))
    request = synthetic_request(config, num_cameras=1, image_size=(16, 16), num_text_tokens=6)
    found = {}
    for plant in PLANTS:
        reports = [run(config, request, planted(plant)) for run in (accelerator_pass, host_pass, graph_pass)]
        found[plant.__name__] = {report.name: events_of(report) for report in reports}
    with_frozen = replace(config, max_frozen_actions=2)
    for plant in (item, to_device, nothing):
        for name, variant, passes in (
            ("guided", config, (accelerator_pass, host_pass)),
            ("frozen", with_frozen, (accelerator_pass, host_pass, graph_pass)),
        ):
            reports = [run(variant, guided(variant, request), planted(plant)) for run in passes]
            found[f"{name}_{plant.__name__}"] = {report.name: events_of(report) for report in reports}
    found["kernels"] = [step_kernels(config, request, num_layers) for num_layers in (1, 2)]
    runner.StagingArea = CopiesTwice
    report = accelerator_pass(config, request, planted(nothing))
    found["second_copy"] = {"accelerator": events_of(report)}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
