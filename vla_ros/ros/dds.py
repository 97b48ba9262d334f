"""The Fast DDS profile with which large images arrive and memory is given back, unless the user has chosen one."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version

from vla_ros.share import share_path

KILTED = "FASTDDS_DEFAULT_PROFILES_FILE"
JAZZY = "FASTRTPS_DEFAULT_PROFILES_FILE"
READERS_FROM_PROFILE = "RMW_FASTRTPS_USE_QOS_FROM_XML"
PUBLICATION_MODE = "RMW_FASTRTPS_PUBLICATION_MODE"
FIRST_RCLPY_WITH_FAST_DDS_3 = 8


def use_default_dds_profile() -> None:
    """Point Fast DDS at ``config/fastdds.xml``, its readers included; call it before ``rclpy.init()``.

    Does nothing where the user has set a profile. A publication mode that the user has set is not read where readers
    go by the profile, so that they don't then. Fast DDS 3 (Kilted) warns if the older name is set at all, so the name
    is chosen by rclpy's version. Other middlewares ignore all of it.
    """
    if not (os.environ.get(KILTED) or os.environ.get(JAZZY)):
        name, _, path = profile_assignment().partition("=")
        os.environ[name] = path
        if not os.environ.get(PUBLICATION_MODE):
            os.environ.setdefault(READERS_FROM_PROFILE, "1")


def cure_of_losses() -> str:
    """What whoever publishes images that get lost is to be started with."""
    return f"start the camera's driver with {profile_assignment()}, or raise the buffers in the profile it has"


def profile_assignment() -> str:
    """The environment variable with which any program's images come through, as a shell takes it."""
    try:
        major = int(version("rclpy").split(".")[0])
    except PackageNotFoundError:
        major = FIRST_RCLPY_WITH_FAST_DDS_3
    name = KILTED if major >= FIRST_RCLPY_WITH_FAST_DDS_3 else JAZZY
    return f"{name}={share_path('config/fastdds.xml')}"
