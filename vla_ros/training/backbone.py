"""The published weights of a backbone under a fresh expert."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from vla_ros.policies import fill
from vla_ros.policies.base import BasePolicy
from vla_ros.policies.config import PolicyConfig
from vla_ros.policies.families import family_of
from vla_ros.policies.importing.backbone import PublishedBackbone
from vla_ros.policies.importing.stored import check_stored, open_stored
from vla_ros.policies.modules.vlm_bridge.registry import BACKBONES
from vla_ros.strict import config_to_dict, explained, leaves, listed, quoted

# Constants that earlier releases of transformers stored, too.
_CONSTANTS = re.compile(r"\.(inv_freq|position_ids)$")


def policy_on(config: PolicyConfig, backbone: PublishedBackbone) -> BasePolicy:
    """The policy of ``config`` with the backbone's weights; the rest of it is random.

    Raises ValueError where ``config`` isn't that of this backbone, and for weights that are damaged, missing, too many,
    of another shape or not finite.
    """
    _check_config(config, backbone)
    shaped = fill.build_on_meta(config, f"start_from {backbone.folder}")
    files = [(path, open_stored(path, lambda name: _our_name(shaped, backbone, name))) for path in backbone.weights]
    with explained(f"start_from {backbone.folder}: "):
        _check_weights(shaped, {name: weight for _, stored in files for name, weight in stored.weights.items()})
    policy = fill.build_policy(config)
    own = dict(policy.named_parameters())
    for path, stored in files:
        check_stored(path, stored)
        with torch.no_grad():
            for name, weight in stored.weights.items():
                if name in own:
                    own[name].copy_(weight)
                    stored.memory.was_read(weight.nbytes)
    return policy


def _check_weights(policy: BasePolicy, weights: Mapping[str, Tensor]) -> None:
    aliases, backbone = fill.shared_names(policy), policy.parts["backbone"]
    shapes = {name: weight.shape for name, weight in policy.named_parameters() if not name.startswith(backbone)}
    shapes |= {name: weight.shape for name, weight in weights.items() if name not in aliases}
    fill.check_shapes(shapes, policy, "expected the weights that its config.json describes")
    for name in weights.keys() & aliases.keys():
        if not torch.equal(weights[name], weights[aliases[name]]):
            raise ValueError(f"{name} differs from {aliases[name]}, which config.json ties it to; untie them there")


def _our_name(policy: BasePolicy, backbone: PublishedBackbone, name: str) -> str | None:
    if _CONSTANTS.search(name):
        return None
    return policy.backbone_name(quoted(BACKBONES[backbone.kind].current_name(name)))


def _check_config(config: PolicyConfig, backbone: PublishedBackbone) -> None:
    """A size that the shapes don't say, such as how positions turn, is to be that of the weights, too."""
    wanted = family_of(config).processor_class().on_backbone(config, backbone.kind, backbone.config)
    ours, theirs = (dict(leaves(config_to_dict(each), "policy")) for each in (config, wanted))
    others = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    if others:
        got = f"{listed(others)} of the train config"
        raise ValueError(f"start_from {backbone.folder}: {got} differ from its config.json; take them from there")
