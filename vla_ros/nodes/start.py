"""Where the nodes' processes begin: signals are held from here on, and then comes what takes seconds to import."""

from __future__ import annotations

import os
import signal
from importlib import import_module


def policy_node() -> int:
    """Run ``vla_policy`` until it is told to stop."""
    return _run("policy_node")


def model_node() -> int:
    """Run ``vla_model`` until it is told to stop."""
    return _run("model_node")


def _run(name: str) -> int:
    # Python's own answer, an exception, gets lost where an import catches it; nobody was promised anything yet.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))
    return import_module(f"vla_ros.nodes.{name}").main()
