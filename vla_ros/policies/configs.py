"""What a name on the command line means: a policy directory, or a policy without weights, a file of ``config/policy``
that is the ``policy:`` group of a policy.yaml."""

from __future__ import annotations

from pathlib import Path

import yaml

from vla_ros.policies.config import PolicyConfig
from vla_ros.policies.families import read_policy_config
from vla_ros.share import policy_dir, share_dir, share_path


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
    return read_policy_config(yaml.safe_load(path.read_text()), path.name)


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
