"""ROS's start: with the security that the environment demands, or refused in one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import rclpy
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.signals import SignalHandlerOptions

from vla_ros.ros.dds import use_default_dds_profile
from vla_ros.strict import explained

ENABLE, STRATEGY, KEYSTORE = "ROS_SECURITY_ENABLE", "ROS_SECURITY_STRATEGY", "ROS_SECURITY_KEYSTORE"
MISSING, UNLESS = "ROS security is required and not available: ", f"; see docs/security.md, or unset {ENABLE}"


def start_ros(args: Sequence[str] | None = None) -> None:
    """``rclpy.init`` with the DDS profile; signals stay this program's own, or rclpy's handlers would end ROS under
    running threads.

    Raises ValueError where security is demanded and this installation or its keystore can't give it. Where it is only
    permitted and there is no keystore, ROS protects nothing: that is said.
    """
    use_default_dds_profile()
    problem = keystore_problem(os.environ)
    if problem and os.environ.get(STRATEGY) != "Enforce":
        print(f"vla_ros: nothing is protected: {problem}{UNLESS}", file=sys.stderr, flush=True)
    elif problem:
        raise ValueError(f"{MISSING}{problem}{UNLESS}")
    is_on = os.environ.get(ENABLE) == "true"
    with explained(MISSING, rclpy_implementation.RCLError, after=UNLESS) if is_on else nullcontext():
        rclpy.init(args=None if args is None else list(args), signal_handler_options=SignalHandlerOptions.NO)
        if is_on:  # Fast DDS without its security libraries, as the wheels have it, fails only here
            rclpy.create_node("vla_security", start_parameter_services=False, enable_rosout=False).destroy_node()


def keystore_problem(environment: Mapping[str, str]) -> str:
    """What is wrong with the keystore where security is on, in one line; empty where it is off or nothing is."""
    if environment.get(ENABLE) != "true":
        return ""
    got, strategy = environment.get(KEYSTORE, ""), environment.get(STRATEGY) or "Permissive"
    if (Path(got) / "enclaves").is_dir() and got:
        return ""
    where = f"{KEYSTORE} is '{got}', which has no folder 'enclaves'" if got else f"{KEYSTORE} is not set"
    return f"{ENABLE} is true ({strategy}) and {where}; expected a keystore made by ros2 security create_keystore"
