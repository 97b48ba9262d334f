"""The simulated table-top arm and the packaged policy: ``ros2 launch vla_ros demo.launch.py``.

It holds still until ``ros2 service call /vla_policy/engage std_srvs/srv/Trigger`` lets the policy drive.
"""

from __future__ import annotations

from pathlib import Path

from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from vla_ros.ros.launching import arguments, discovery, values, with_parent
from vla_ros.sim.node import SimParams


def generate_launch_description() -> LaunchDescription:
    policy = IncludeLaunchDescription(str(Path(__file__).with_name("policy.launch.py")))
    sim_node = Node(
        package="vla_ros",
        executable="sim_node",
        namespace=LaunchConfiguration("namespace"),
        parameters=[values(SimParams)],
        additional_env=with_parent(),
        output="screen",
        on_exit=Shutdown(reason="the simulated robot has ended"),
    )
    # The policy's own arguments come before the simulation, which shares robot and namespace; it is for one machine.
    return LaunchDescription([*discovery("localhost"), *arguments(SimParams, without=("robot",)), policy, sim_node])
