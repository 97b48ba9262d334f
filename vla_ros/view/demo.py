"""The demo's nodes beside the page: the simulated arm, and a policy that drives it as soon as somebody engages."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vla_ros.demo.processes import Processes
from vla_ros.demo.world import WorldConfig
from vla_ros.ros.dds import use_default_dds_profile


@contextmanager
def running_demo(robot: str, policy: str, log_dir: Path) -> Iterator[Processes]:
    """Start the nodes, of this machine alone and in a ROS domain of their own unless the user has chosen one; they
    configure and activate themselves, and end whatever happens."""
    os.environ.setdefault("ROS_DOMAIN_ID", str(10 + os.getpid() % 90))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    use_default_dds_profile()  # before the children start, which inherit it
    config = WorldConfig(robot, policy, "latest", 0.0, log_dir)
    with Processes(log_dir) as processes:
        for name, parameters in config.nodes.items():
            is_managed = name != "sim_node"
            processes.start_node(name, {**parameters, "autostart": True} if is_managed else parameters)
        print(f"the demo's nodes start in ROS domain {os.environ['ROS_DOMAIN_ID']}; logs in {log_dir}", flush=True)
        yield processes
