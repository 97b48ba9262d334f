"""Finds the plain composition, which lies among the tests and is installed as data: no code of the package uses it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol

from torch import Tensor

from vla_ros.share import share_path

MODULE = "vla_ros_reference"


class Reference(Protocol):
    """``test/reference``: each takes (policy, observation, num_steps, noise) to actions [batch, horizon, action]."""

    plain_actions: Callable[..., Tensor]
    as_written_actions: Callable[..., Tensor]


@lru_cache(maxsize=1)
def load_reference() -> Reference:
    """The package at ``test/reference`` of the share folder. Raises ValueError where it was not installed."""
    folder = share_path("test/reference")
    spec = importlib.util.spec_from_file_location(
        MODULE, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module
    spec.loader.exec_module(module)
    return module
