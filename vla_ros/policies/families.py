"""The families of policies there are: where each has its configuration, its processor and its network.

A policy.yaml names a family by its ``type``: looked up here, never imported from the file. Classes are loaded when they
are asked for, so that the robot's side gets configuration and processor without torch. A new family is a folder beside
``pi/`` and one entry of ``FAMILIES``; a test adds its own by ``FAMILIES["Name"] = Family(...)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from vla_ros.policies.config import PolicyConfig
from vla_ros.policies.processor import PolicyProcessor
from vla_ros.strict import parse_config


@dataclass(frozen=True)
class Family:
    """Its classes as ``module:Class``. ``trials`` is what audit and bench make up where there is no policy directory; a
    family need not have its own."""

    config: str
    processor: str
    policy: str
    trials: str = "vla_ros.policies.trials:Trials"

    def config_class(self) -> type[PolicyConfig]:
        """Loads no torch."""
        return _load(self.config)

    def processor_class(self) -> type[PolicyProcessor]:
        """Loads no torch."""
        return _load(self.processor)

    def policy_class(self) -> Any:
        """Its ``BasePolicy``; loads torch."""
        return _load(self.policy)

    def make_trials(self) -> Any:
        """Its ``Trials``; loads torch where it is asked for a policy only."""
        return _load(self.trials)()


_PI = "vla_ros.policies.pi"
FAMILIES = {
    "PiPolicy": Family(
        f"{_PI}.config:PiConfig", f"{_PI}.processor:PiProcessor", f"{_PI}.policy:PiPolicy", f"{_PI}.trials:PiTrials"
    ),
}


def family_of(config: PolicyConfig) -> Family:
    """The family of a policy's configuration."""
    return FAMILIES[config.type]


def find_family(policy_type: object, where: str = "policy") -> Family:
    """A family by the name a file gives; raises ValueError where it isn't registered."""
    if not isinstance(policy_type, str) or policy_type not in FAMILIES:
        raise ValueError(f"{where}.type is {policy_type!r}; expected one of {', '.join(FAMILIES)}")
    return FAMILIES[policy_type]


def read_policy_config(document: Any, where: str) -> PolicyConfig:
    """The ``policy:`` group as its family's configuration; raises ValueError as ``parse_config`` does, and for a family
    that isn't registered."""
    if not isinstance(document, Mapping):
        raise ValueError(f"{where} is {type(document).__name__}; expected a mapping of keys to values")
    return parse_config(find_family(document.get("type"), where).config_class(), document, where)


def _load(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)
