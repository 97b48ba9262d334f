"""A robot by its file, its drivers played by a fake one: ``ros2 launch vla_ros robot.launch.py robot:=so101``.

``policy:=my_policy`` lets a policy drive it. With ``fake:=false`` the robot's own drivers are to be started beside it:
docs/robots says how.
"""

from __future__ import annotations

from pathlib import Path

from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription, Shutdown
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from vla_ros.ros.launching import BOOLEAN, argument, arguments, values, with_parent
from vla_ros.sim.fake_driver_node import FakeDriverParams


def generate_launch_description() -> LaunchDescription:
    fake_driver = Node(
        package="vla_ros",
        executable="fake_driver_node",
        namespace=LaunchConfiguration("namespace"),
        parameters=[values(FakeDriverParams)],
        additional_env=with_parent(),
        output="screen",
        condition=IfCondition(LaunchConfiguration("fake")),
        on_exit=Shutdown(reason="the fake driver has ended"),
    )
    return LaunchDescription(
        [
            argument("fake", "true", "Play the robot's drivers; false where they run themselves.", BOOLEAN),
            argument("policy", "none", "Policy directory, or none: people drive, nothing else."),
            *arguments(FakeDriverParams, robot="so101"),
            # It declares the same arguments, whose values are those from above, and how far nodes are found.
            IncludeLaunchDescription(str(Path(__file__).with_name("policy.launch.py"))),
            fake_driver,
        ]
    )
