"""``cfg.yaml`` of a released run and the VLM's ``config.json`` as this package's configuration. No torch.

Classes are compared with a fixed registry and never imported; interpolations may only name another key.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from vla_ros.policies.modules.action_expert.config import ActionExpertConfig
from vla_ros.policies.pi.config import PiConfig
from vla_ros.strict import (
    MAX_DEPTH,
    MAX_LINE,
    MAX_NODES,
    explained,
    leaves,
    parse_config,
    parse_json,
    parse_yaml,
    quoted,
    read_text,
)

# What a released cfg.yaml may name, and what it is here.
POLICY_TARGETS = {"vla_scratch.policies.pi.policy.PiPolicy": "PiPolicy"}
_BRIDGES = "vla_scratch.policies.modules.vlm_bridge"
PROCESSOR_TARGETS = {  # and the backbone each belongs to
    f"{_BRIDGES}.qwen.processor.QwenProcessor": "Qwen3VLForConditionalGeneration",
    f"{_BRIDGES}.paligemma.processor.PaligemmaProcessor": "PaliGemmaForConditionalGeneration",
    f"{_BRIDGES}.smolvlm.processor.SmolVLMProcessor": "SmolVLMForConditionalGeneration",
}
PROCESSOR_CLASSES = ("Qwen3VLProcessor", "PaliGemmaProcessor", "SmolVLMProcessor")
# Outside the policy, a release also says which data it was trained on; nothing of that is read.
DATA_TARGETS = "vla_scratch.datasets."
# Keys of the released expert that leave inference as it is, and the values for which that is so.
FIXED_IN_EXPERT = {"attn_dropout": 0.0, "mlp_dropout": 0.0, "attention_dropout": 0.0, "mlp_activation": "silu"}
UNUSED_IN_EXPERT = "max_position_embeddings"
# Not in a released cfg.yaml: ours to choose.
OURS = ("type", "vlm_config", "num_steps", "max_frozen_actions", "image_mean", "image_std")
MAX_NAME = 200  # no file has a longer one
_INTERPOLATION = re.compile(r"\$\{([A-Za-z_][\w.]*)\}", re.ASCII)
_PROCESSOR_KEYS = {"_target_", "processor_class", "model_id", "max_length", "padding", "target_size"}
_PROCESSOR_KEYS |= {"truncation", "image_size_longest_edge", "max_image_size_longest_edge"}


@dataclass(frozen=True)
class ReleasedConfig:
    """What ``cfg.yaml`` says: ``policy`` lacks its ``vlm_config`` only, ``max_length`` is the padded length of a prompt
    in tokens, and ``image_size`` (height, width) in pixels is given where the release fixes what the model sees."""

    policy: Mapping[str, Any]
    model_id: str
    max_length: int
    image_size: tuple[int, int] | None

    def with_vlm(self, vlm_config: Mapping[str, Any]) -> PiConfig:
        """The policy's configuration; raises ValueError for an unknown key and where the VLM is of another kind."""
        with explained("cfg.yaml: "):
            config = parse_config(PiConfig, {**self.policy, "vlm_config": dict(vlm_config)}, "policy")
        kinds = vlm_config.get("architectures") or [config.vlm_type]
        kinds = kinds if isinstance(kinds, list) else [kinds]
        if config.vlm_type not in kinds:
            got = f"the VLM's config.json describes {quoted(str(kinds[0]))}, cfg.yaml names {config.vlm_type}"
            raise ValueError(f"{got}; give the config.json of '{self.model_id}' with --vlm")
        return config


def read_released_config(path: Path) -> ReleasedConfig:
    """Read ``cfg.yaml``.

    Raises ValueError, naming the key, for a class outside the registry, an interpolation that would run a resolver, an
    unknown or missing key, and a value this package computes nothing for.
    """
    with explained(f"{path}: not readable as YAML: ", OSError, ValueError):
        document = parse_yaml(read_text(path))
    if not isinstance(document, Mapping) or not isinstance(document.get("policy"), Mapping):
        raise ValueError(f"{path}: has no group 'policy'; give the cfg.yaml of a released Pi policy")
    with explained(f"{path}: "):
        return _read(_resolve(document))


def read_vlm_config(path: Path) -> dict[str, Any]:
    """The VLM's ``config.json`` as a mapping; raises ValueError where it is not one."""
    give = "give the VLM's config.json with --vlm"
    with explained(f"{path}: not readable as JSON (", OSError, ValueError, after=f"); {give}"):
        document = parse_json(read_text(path))
    if not isinstance(document, dict):
        raise ValueError(f"{path}: is {type(document).__name__}; expected the mapping of the VLM's config.json")
    return document


def untied(config: PiConfig) -> PiConfig:
    """The same policy with an output embedding of its own."""
    vlm = {**config.vlm_config, "tie_word_embeddings": False}
    text = vlm.get("text_config")
    if isinstance(text, Mapping) and "tie_word_embeddings" in text:
        vlm["text_config"] = {**text, "tie_word_embeddings": False}
    return replace(config, vlm_config=vlm)


def _read(document: Mapping[str, Any]) -> ReleasedConfig:
    _check_targets(document)
    policy = dict(document["policy"])
    target = str(policy.pop("_target_", None))
    if target not in POLICY_TARGETS:
        raise ValueError(f"policy._target_ is '{target}'; expected {', '.join(POLICY_TARGETS)}")
    model_id, transforms = policy.pop("model_id", None), policy.pop("transforms", None)
    if not isinstance(model_id, str) or not 0 < len(model_id) <= MAX_NAME:
        got = quoted(repr(model_id))
        raise ValueError(f"policy.model_id is {got}; expected the VLM's name, at most {MAX_NAME} characters")
    policy |= {"type": POLICY_TARGETS[target], "action_expert_cfg": _expert(policy.get("action_expert_cfg"))}
    _require(policy, PiConfig, "policy", OURS)
    data = document.get("data")
    for key in ("action_horizon", "state_history"):
        given = data.get(key) if isinstance(data, Mapping) else None
        if given is not None and given != policy[key]:
            raise ValueError(f"policy.{key} is {policy[key]}, data.{key} {given}; make them equal")
    processor = _processor(transforms, str(policy["vlm_type"]))
    length = processor.get("max_length")
    if type(length) is not int or length < 1:
        raise ValueError(f"policy.transforms: max_length is {length!r}; expected a number of tokens above 0")
    return ReleasedConfig(policy, model_id, length, _image_size(processor))


def _image_size(processor: Mapping[str, Any]) -> tuple[int, int] | None:
    """(height, width) of the images the model sees, where the release fixes it."""
    edge = processor.get("max_image_size_longest_edge", processor.get("image_size_longest_edge"))
    size = processor.get("target_size", None if edge is None else [edge, edge])
    if size is None:
        return None
    if not isinstance(size, list) or len(size) != 2 or not all(type(pixels) is int and pixels > 0 for pixels in size):
        raise ValueError(f"policy.transforms: an image of {size!r}; expected its height and width in pixels")
    return size[0], size[1]


def _resolve(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """``document`` with every ``${key.path}`` replaced; any other interpolation is refused."""
    for where, value in leaves(document, ""):
        if isinstance(value, str) and "${" in _INTERPOLATION.sub("", value):
            raise ValueError(
                f"{where} is '{quoted(value)}'; only another key may stand in ${{…}}: write the value there"
            )
    resolved = _resolved(document, document, itertools.count(), 0)
    assert isinstance(resolved, dict)
    return resolved


def _resolved(value: Any, document: Any, num: Iterator[int], depth: int) -> Any:
    """``value`` with what it names; ``num`` counts what stands there then: that may be far more than the file holds."""
    if next(num) > MAX_NODES or depth > MAX_DEPTH:
        raise ValueError(f"its interpolations stand for more than {MAX_NODES} values or {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        return {str(key): _resolved(item, document, num, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item, document, num, depth + 1) for item in value]
    if not isinstance(value, str) or "${" not in value:
        return value
    if match := _INTERPOLATION.fullmatch(value):
        return _resolved(_find(match[1], document), document, num, depth + 1)
    text = _INTERPOLATION.sub(lambda match: str(_resolved(match[0], document, num, depth + 1)), value)
    if len(text) > MAX_LINE:
        raise ValueError(f"'{quoted(value)}' stands for more than {MAX_LINE} characters; write the value there")
    return text


def _find(path: str, document: Any) -> Any:
    for key in path.split("."):
        if not isinstance(document, Mapping) or key not in document:
            raise ValueError(f"interpolation key '{quoted(path)}' not found; write the value there")
        document = document[key]
    return document


def _check_targets(document: Mapping[str, Any]) -> None:
    for where, value in leaves(document, ""):
        if where.rpartition(".")[2] != "_target_":
            continue
        if where.startswith("policy."):
            allowed = value in (POLICY_TARGETS if where == "policy._target_" else PROCESSOR_TARGETS)
        else:
            allowed = isinstance(value, str) and value.startswith(DATA_TARGETS)
        if not allowed:
            known = ", ".join((*POLICY_TARGETS, *PROCESSOR_TARGETS))
            raise ValueError(f"{where} is '{value}', a class outside the registry; nothing was loaded. Known: {known}")


def _processor(transforms: Any, vlm_type: str) -> Mapping[str, Any]:
    if not isinstance(transforms, list) or len(transforms) != 1 or not isinstance(transforms[0], Mapping):
        raise ValueError("policy.transforms: expected a list with the one processor of the VLM")
    processor = transforms[0]
    unknown = sorted(str(key) for key in processor if key not in _PROCESSOR_KEYS)
    if unknown:
        known = ", ".join(sorted(_PROCESSOR_KEYS))
        raise ValueError(f"policy.transforms: unknown key '{unknown[0]}'; known keys are {known}")
    if processor.get("processor_class", PROCESSOR_CLASSES[0]) not in PROCESSOR_CLASSES:
        got = f"processor_class is '{processor['processor_class']}', outside the registry"
        raise ValueError(f"policy.transforms: {got}; expected one of {', '.join(PROCESSOR_CLASSES)}")
    target = processor.get("_target_")
    if PROCESSOR_TARGETS.get(str(target)) != vlm_type:
        raise ValueError(f"policy.transforms: _target_ is '{target}', which is not the processor of {vlm_type}")
    return processor


def _expert(group: Any) -> Mapping[str, Any]:
    if not isinstance(group, Mapping):
        raise ValueError(f"policy.action_expert_cfg is {group!r}; expected a mapping of keys to values")
    for key, expected in FIXED_IN_EXPERT.items():
        if key in group and group[key] != expected:
            got = f"policy.action_expert_cfg.{key} is {group[key]!r}"
            raise ValueError(f"{got}; this package computes {expected!r} only")
    kept = {key: value for key, value in group.items() if key not in (*FIXED_IN_EXPERT, UNUSED_IN_EXPERT)}
    _require(kept, ActionExpertConfig, "policy.action_expert_cfg", ())
    return {**kept, "qk_norm": "none" if kept["qk_norm"] is None else kept["qk_norm"]}


def _require(group: Mapping[str, Any], kind: type, where: str, optional: tuple[str, ...]) -> None:
    """Every key of ``kind`` stands there: our defaults are not those a release was trained with."""
    missing = [field.name for field in fields(kind) if field.name not in (*group, *optional)]
    if missing:
        raise ValueError(f"{where}: key '{missing[0]}' is missing; write the value the run was trained with")
