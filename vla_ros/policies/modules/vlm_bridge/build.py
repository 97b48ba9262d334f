"""A transformers configuration from a mapping, read strictly: an unknown key is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import fields
from typing import Any

from vla_ros.strict import explained

# Written by released config.json files beside the declared fields; the rope keys are read by transformers itself.
LEGACY_KEYS = {"architectures", "dtype", "model_type", "rope_scaling", "rope_theta", "torch_dtype"}


def build_config(
    kind: type, groups: Mapping[str, type], document: Mapping[str, Any], more_keys: frozenset[str] = frozenset()
) -> Any:
    """``kind(**document)``, where ``groups`` names the mappings inside it and their classes.

    ``more_keys`` are those that releases of this backbone write besides. Raises ValueError for a missing group and for
    a key or a value that transformers doesn't take or this package doesn't compute.
    """
    _check_keys(document, kind, "policy.vlm_config", more_keys)
    for group, group_kind in groups.items():
        if not isinstance(document.get(group), Mapping):
            raise ValueError(f"policy.vlm_config.{group} is missing; give the group of the backbone's config.json")
        _check_keys(document[group], group_kind, f"policy.vlm_config.{group}", more_keys)
    with explained("policy.vlm_config: refused by transformers: ", Exception):
        config = kind(**deepcopy(dict(document)))  # transformers writes into what it is given
    rope_type = config.text_config.rope_parameters["rope_type"]
    if rope_type != "default":
        raise ValueError(f"policy.vlm_config.text_config: rope_type is '{rope_type}'; only 'default' is computed here")
    return config


def _check_keys(document: Mapping[str, Any], kind: type, where: str, more_keys: frozenset[str]) -> None:
    known = {field.name for field in fields(kind)} | LEGACY_KEYS | more_keys
    unknown = sorted(str(key) for key in document if key not in known)
    if unknown:
        raise ValueError(f"{where}: unknown key '{unknown[0]}'; see {kind.__name__} of transformers for the known ones")
