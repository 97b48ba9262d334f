"""Policies without weights, by name: the files of ``config/policy``, each the ``policy:`` group of a policy.yaml."""

from __future__ import annotations

import yaml

from vla_ros.policies.config import PolicyConfig
from vla_ros.policies.families import read_policy_config
from vla_ros.share import share_dir, share_path


def config_names() -> tuple[str, ...]:
    """The names of all of them, also those that a packaged policy directory has."""
    return tuple(sorted(path.stem for path in share_path("config/policy").glob("*.yaml")))


def is_config(name: str) -> bool:
    """Whether a name means one of them and not the policy directory packaged under it."""
    return name in config_names() and not (share_dir() / "models" / name).is_dir()


def find_config(name: str) -> PolicyConfig:
    """The configuration of that name; raises ValueError where there is none."""
    if name not in config_names():
        raise ValueError(
            f"policy '{name}' is neither a policy directory nor a configuration; expected one of "
            f"{', '.join(config_names())} or a directory that vla_ros train or import made"
        )
    path = share_path(f"config/policy/{name}.yaml")
    return read_policy_config(yaml.safe_load(path.read_text()), path.name)
