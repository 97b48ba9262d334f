"""The families of policies there are, where each has its configuration, its processor and its network, and what a
policy's name means.

A policy.yaml names a family by its ``type``: looked up here, never imported from the file. Classes are loaded when they
are asked for, so that the robot's side gets configuration and processor without torch. A new family is a folder beside
``pi/`` and one entry of ``FAMILIES``; a test adds its own by ``FAMILIES["Name"] = Family(...)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from vla_ros.policies.config import PolicyConfig
from vla_ros.policies.processor import PolicyProcessor
from vla_ros.share import policy_dir, share_dir, share_path
from vla_ros.strict import parse_config, parse_yaml, quoted, read_text


@dataclass(frozen=True)
class Family:
    """Its classes as ``module:Class``. ``trials`` is what audit and bench make up where there is no policy directory; a
    family need not have its own. ``extra`` is pip's extra with what its policy needs besides."""

    config: str
    processor: str
    policy: str
    trials: str = "vla_ros.policies.trials:Trials"
    extra: str = ""

    def config_class(self) -> type[PolicyConfig]:
        """Loads no torch."""
        return _load(self.config)

    def processor_class(self) -> type[PolicyProcessor]:
        """Loads no torch."""
        return _load(self.processor)

    def policy_class(self) -> Any:
        """Its ``BasePolicy``; loads torch. Raises ValueError where a package that it needs isn't installed."""
        try:
            return _load(self.policy)
        except ModuleNotFoundError as error:
            install = f"pip install 'vla_ros[{self.extra}]'" if self.extra else "install it"
            raise ValueError(f"the Python package '{error.name}' is missing; {install}") from error

    def make_trials(self) -> Any:
        """Its ``Trials``; loads torch where it is asked for a policy only."""
        return _load(self.trials)()


_PI, _PI0 = "vla_ros.policies.pi", "vla_ros.policies.pi0"
_ACT, _SMOLVLA, _SERVED = "vla_ros.policies.act", "vla_ros.policies.smolvla", "vla_ros.policies.served"
_LEROBOT = "vla_ros.policies.lerobot"
FAMILIES = {
    "PiPolicy": Family(
        f"{_PI}.config:PiConfig", f"{_PI}.processor:PiProcessor", f"{_PI}.policy:PiPolicy", f"{_PI}.trials:PiTrials"
    ),
    "Pi0Policy": Family(
        f"{_PI0}.config:Pi0Config",
        f"{_PI0}.processor:Pi0Processor",
        f"{_PI0}.policy:Pi0Policy",
        f"{_PI0}.trials:Pi0Trials",
    ),
    "ActPolicy": Family(
        f"{_ACT}.config:ActConfig",
        f"{_ACT}.processor:ActProcessor",
        f"{_ACT}.policy:ActPolicy",
        f"{_ACT}.trials:ActTrials",
    ),
    "SmolVLAPolicy": Family(
        f"{_SMOLVLA}.config:SmolVLAConfig",
        f"{_SMOLVLA}.processor:SmolVLAProcessor",
        f"{_SMOLVLA}.policy:SmolVLAPolicy",
        f"{_SMOLVLA}.trials:SmolVLATrials",
    ),
    "ServedPolicy": Family(
        f"{_SERVED}.config:ServedConfig",
        f"{_SERVED}.processor:ServedProcessor",
        f"{_SERVED}.policy:ServedPolicy",
        extra="served",
    ),
    "LeRobotPolicy": Family(
        f"{_LEROBOT}.config:LeRobotConfig",
        f"{_LEROBOT}.processor:LeRobotProcessor",
        f"{_LEROBOT}.policy:LeRobotPolicy",
        extra="lerobot",
    ),
}


def family_of(config: PolicyConfig) -> Family:
    """The family of a policy's configuration."""
    return FAMILIES[config.type]


def find_family(policy_type: object, where: str = "policy") -> Family:
    """A family by the name a file gives; raises ValueError where it isn't registered."""
    if not isinstance(policy_type, str) or policy_type not in FAMILIES:
        raise ValueError(f"{where}.type is {quoted(repr(policy_type))}; expected one of {', '.join(FAMILIES)}")
    return FAMILIES[policy_type]


def read_policy_config(document: Any, where: str) -> PolicyConfig:
    """The ``policy:`` group as its family's configuration; raises ValueError as ``parse_config`` does, and for a family
    that isn't registered."""
    if not isinstance(document, Mapping):
        raise ValueError(f"{where} is {type(document).__name__}; expected a mapping of keys to values")
    return parse_config(find_family(document.get("type"), where).config_class(), document, where)


def config_names() -> tuple[str, ...]:
    """The names of all configurations, also those that a packaged policy directory has."""
    return tuple(sorted(path.stem for path in share_path("config/policy").glob("*.yaml")))


def find_config(name: str) -> PolicyConfig:
    """The configuration of that name; raises ValueError where there is none."""
    if name not in config_names():
        raise ValueError(
            f"policy '{name}' is neither a policy directory nor a configuration; expected one of "
            f"{', '.join(config_names())} or a directory that vla_ros train or import made"
        )
    path = share_path(f"config/policy/{name}.yaml")
    return read_policy_config(parse_yaml(read_text(path)), path.name)


def find_policy(name: str) -> Path | PolicyConfig:
    """A policy directory, by its path or a packaged one by its name, or else the configuration of that name.

    Raises ValueError where there is neither.
    """
    if name in config_names() and not (share_dir() / "models" / name).is_dir():
        return find_config(name)
    try:
        return policy_dir(name)
    except ValueError as error:
        if len(Path(name).parts) == 1:
            return find_config(name)  # what it says names the configurations there are
        raise ValueError(f"{error}; configurations are {', '.join(config_names())}") from error


def _load(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)
