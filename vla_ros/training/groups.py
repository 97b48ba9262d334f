"""Which parameters learn, and how fast: a learning rate for each part of a policy, and frozen ones by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn, optim

from vla_ros.policies.base import BasePolicy
from vla_ros.strict import listed, quoted
from vla_ros.training.config import LearningRates

BASE = "base"  # the part that is everything else


@dataclass(frozen=True)
class ParameterGroup:
    """The parameters of a part that learn, by name, and the part's learning rate before warm-up and decay."""

    part: str
    learning_rate: float
    parameters: Mapping[str, nn.Parameter]


def freeze(policy: BasePolicy, names: Iterable[str]) -> None:
    """Parameters that ``names`` mean don't learn: those of a part, of a module or of one parameter by its dotted name,
    or all that a pattern with ``*`` matches. Raises ValueError for one that matches none."""
    for name in names:
        matched = [weight for own, weight in policy.named_parameters() if _means(policy, name, own)]
        if not matched:
            modules = dict.fromkeys(own.partition(".")[0] for own, _ in policy.named_parameters())
            there = f"its parts are {_parts(policy)}, its modules {listed(list(modules))}"
            got = f"frozen: '{quoted(name)}' matches no parameter of {policy.config.type}"
            raise ValueError(f"{got}; {there}: give one of these, a dotted name inside, or a pattern with *")
        for weight in matched:
            weight.requires_grad_(False)


def parameter_groups(policy: BasePolicy, lr: LearningRates) -> tuple[ParameterGroup, ...]:
    """A group for each part that has parameters which learn.

    Raises ValueError where nothing learns, and for a learning rate of a part that the policy lacks or that is frozen.
    """
    parts: dict[str, dict[str, nn.Parameter]] = {BASE: {}, **{part: {} for part in policy.parts}}
    for name, weight in policy.named_parameters():
        if weight.requires_grad:
            parts[_part_of(policy, name)][name] = weight
    if not any(parts.values()):
        raise ValueError(f"frozen leaves no parameter of {policy.config.type} to train; leave one of its parts out")
    for part, rate in lr.given.items():
        if part != BASE and part not in parts:
            raise ValueError(f"lr.{part} is {rate:g}; {policy.config.type} has the parts {_parts(policy)}: remove it")
        if part != BASE and not parts[part]:
            raise ValueError(f"lr.{part} is {rate:g} and all parameters of {part} are frozen; remove one of the two")
    return tuple(ParameterGroup(part, lr.of(part), weights) for part, weights in parts.items() if weights)


def make_optimizer(groups: Iterable[ParameterGroup], **settings: object) -> optim.AdamW:
    """AdamW over ``groups``, each of which keeps its part's name as ``part``."""
    given = [{"params": list(group.parameters.values()), "part": group.part} for group in groups]
    return optim.AdamW(given, **settings)  # type: ignore[arg-type]


def optimizer_state(optimizer: optim.Optimizer, groups: Iterable[ParameterGroup]) -> dict[str, dict[str, Tensor]]:
    """What it remembers of each parameter that ever had a gradient, by name."""
    states = optimizer.state_dict()["state"]
    return {name: states[i] for i, name in enumerate(_names(groups)) if i in states}


def begin_moments(optimizer: optim.AdamW, groups: Iterable[ParameterGroup], names: Collection[str]) -> None:
    """Have it remember zeros of the parameters ``names``, to be filled, and nothing of others. Raises ValueError for
    one that it doesn't have."""
    parameters = {name: parameter for group in groups for name, parameter in group.parameters.items()}
    if unknown := sorted(set(names) - set(parameters)):
        raise ValueError(f"the optimizer remembers {listed(unknown)}; the policy learns no such parameter")
    optimizer.state.clear()
    for name in names:
        parameter = parameters[name].detach()
        moments = {kind: torch.zeros_like(parameter) for kind in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameters[name]] = {"step": torch.zeros(()), **moments}


def _names(groups: Iterable[ParameterGroup]) -> Iterable[str]:
    return (name for group in groups for name in group.parameters)


def _means(policy: BasePolicy, wanted: str, name: str) -> bool:
    if wanted in policy.parts or wanted == BASE:
        return _part_of(policy, name) == wanted
    return f"{name}.".startswith(f"{wanted}.") or fnmatchcase(name, wanted)


def _part_of(policy: BasePolicy, name: str) -> str:
    return next((part for part, prefixes in policy.parts.items() if name.startswith(prefixes)), BASE)


def _parts(policy: BasePolicy) -> str:
    return ", ".join((BASE, *policy.parts))
