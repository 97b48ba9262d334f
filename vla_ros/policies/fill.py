"""Policies built without memory of their own, and filled weight by weight from wherever those are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from vla_ros.policies.base import BasePolicy
from vla_ros.policies.config import PolicyConfig
from vla_ros.policies.families import family_of
from vla_ros.strict import one_line

NUM_NAMED = 3  # of a long list


def build_policy(config: PolicyConfig) -> BasePolicy:
    """A policy from its configuration, with random weights."""
    return family_of(config).policy_class()(config)


def build_on(device: torch.device, dtype: torch.dtype, build: Callable[[], BasePolicy]) -> BasePolicy:
    """What ``build`` makes, on ``device`` and in ``dtype`` from the start: there is never a second copy of weights."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return build().eval()
    finally:
        torch.set_default_dtype(usual)


def build_on_meta(config: PolicyConfig, where: str) -> BasePolicy:
    """A policy whose weights are shapes only, to be filled. Raises ValueError, beginning with ``where`` the
    configuration came from, where its sizes don't go together."""
    try:
        with torch.device("meta"):
            return build_policy(config)
    except ValueError as error:
        raise ValueError(one_line(error)) from error
    except Exception as error:  # whatever a model library raises for sizes that don't go together
        raise ValueError(f"{where}: its sizes don't fit together: {one_line(error)}") from error


def shared_names(policy: BasePolicy) -> dict[str, str]:
    """The second and further names of parameters that have several, each with the first."""
    first: dict[int, str] = {}
    aliases = {}
    for name, parameter in policy.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            aliases[name] = first[id(parameter)]
    return aliases


def check_shapes(stored: Mapping[str, Sequence[int]], policy: BasePolicy, fix: str) -> None:
    """Every weight of the policy is there in its shape, and no other.

    Raises ValueError that lists what is not so and ends with ``fix``.
    """
    expected = {name: list(weight.shape) for name, weight in policy.named_parameters()}  # a tied one is there once
    lists = {
        "missing weights": [name for name in expected if name not in stored],
        "unexpected weights": [name for name in stored if name not in expected],
        "weights of another shape": [
            f"{name} is {list(stored[name])}, expected {shape}"
            for name, shape in expected.items()
            if name in stored and list(stored[name]) != shape
        ],
    }
    parts = [f"{what} ({_first(names)})" for what, names in lists.items() if names]
    if parts:
        raise ValueError(f"{' and '.join(parts)}; {fix}")


def _first(names: Sequence[str]) -> str:
    more = len(names) - NUM_NAMED
    return ", ".join(names[:NUM_NAMED]) + (f" and {more} more" if more > 0 else "")


def fill_policy(policy: BasePolicy, value: Callable[[str], Tensor]) -> None:
    """Every parameter becomes ``value(name)``; parameters that were one stay one. Constants are computed."""
    aliases = shared_names(policy)
    filled = {name: nn.Parameter(value(name), requires_grad=False) for name, _ in policy.named_parameters()}
    for name in [*filled, *aliases]:
        module, _, leaf = name.rpartition(".")
        policy.get_submodule(module).register_parameter(leaf, filled[aliases.get(name, name)])
    for module in policy.modules():
        for leaf, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta:
                module.register_buffer(leaf, constant_buffer(module, leaf, buffer), persistent=False)


def constant_buffer(module: nn.Module, name: str, buffer: Tensor) -> Tensor:
    """A buffer that no checkpoint holds because it follows from the configuration, computed as transformers does."""
    if name == "position_ids":
        return torch.arange(buffer.shape[-1]).expand(buffer.shape)
    if name == "embed_scale":
        return torch.tensor(module.scalar_embed_scale)
    compute = getattr(module, f"compute_{getattr(module, 'rope_type', None)}_rope_parameters", None)
    if name in ("inv_freq", "original_inv_freq") and compute is not None:
        return compute(module.config)[0]
    raise ValueError(f"{type(module).__name__} has the constant '{name}', which this package can't compute")
