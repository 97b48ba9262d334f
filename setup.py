# SPDX-License-Identifier: Apache-2.0
"""An ament_python package for colcon, and the same package for pip."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "vla_ros"
EXECUTABLES = (
    "policy_node",
    "model_node",
    "sim_node",
    "fake_driver_node",
    "teleop_keyboard",
    "teleop_joystick",
    "task_node",
    "player",
    "view_node",
    "vla_ros",
)
ROS_MESSAGES = ("diagnostic-msgs", "sensor-msgs", "std-msgs", "std-srvs", "trajectory-msgs")


def share_files() -> list[tuple[str, list[str]]]:
    """Every file of these folders, kept in its place below ``share/vla_ros``."""
    folders = defaultdict(list)
    for root in ("launch", "config", "models"):
        for path in sorted(Path(root).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                folders[os.path.join("share", PACKAGE, path.parent)].append(str(path))
    return sorted(folders.items())


def ros_wheels(distribution: str, rclpy: str, messages: str, lifecycle: str) -> list[str]:
    """ROS 2 from PyPI: Jazzy, or Kilted until it ends; the two can't share an environment."""
    names = [f"ros-{distribution}-{name}=={messages}" for name in ROS_MESSAGES]
    return [
        f"ros-{distribution}-rclpy[fastrtps]=={rclpy}",
        f"ros-{distribution}-lifecycle-msgs=={lifecycle}",
        *names,
    ]


setup(
    name=PACKAGE,
    version="0.1.0",
    description="Runs a Vision-Language-Action policy on a robot under ROS 2",
    url="https://vla-ros.example",
    license="Apache-2.0",
    author="vla_ros contributors",
    maintainer="vla_ros maintainers",
    maintainer_email="maintainers@vla-ros.example",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={
        PACKAGE: ["py.typed"],
        f"{PACKAGE}.replay.report": ["*.html", "*.css"],
        f"{PACKAGE}.sim": ["*.xml"],
        f"{PACKAGE}.view": ["page/*"],
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        # `ros2 run` and launch look for executables here, and pip puts entry points into bin/ only.
        (f"lib/{PACKAGE}", [f"lib/{PACKAGE}/{name}" for name in EXECUTABLES]),
        *share_files(),
    ],
    python_requires=">=3.11",
    install_requires=[
        "huggingface_hub",
        "hydra-core>=1.3",
        "jaxtyping",
        "numpy",
        "opencv-python-headless",
        "pillow",
        "PyYAML",
        "safetensors",
        "tokenizers",
        "torch>=2.10",
        "transformers>=5",
    ],
    extras_require={
        "ros": ros_wheels("jazzy", rclpy="7.1.6", messages="5.3.6", lifecycle="2.0.3"),
        "ros-kilted": ros_wheels("kilted", rclpy="9.1.2", messages="5.5.1", lifecycle="2.3.0"),
        "kinematics": ["pin>=4"],
        "served": ["msgpack", "websockets>=15"],
        # Needs Python 3.12 and torch below 2.12.
        "lerobot": ["lerobot[pi,smolvla]>=0.6.1,<0.7"],
        "ray": ["ray>=2.60,<3"],
        "sim": ["matplotlib", "mujoco>=4", "PyOpenGL", "rosbags"],
        "view": ["websockets>=15"],
        "train": ["av>=15", "jinja2", "pyarrow>=21", "rosbags", "tqdm"],
        "dev": ["mypy", "playwright>=1.50", "pytest<9", "pytest-timeout", "ruff", "types-PyYAML"],
    },
    entry_points={"console_scripts": [f"{name} = {PACKAGE}.start:{name}" for name in EXECUTABLES]},
)
