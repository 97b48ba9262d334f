"""The simulated table-top arm and the packaged policy: ``ros2 launch vla_ros demo.launch.py``.

It holds still until ``ros2 service call /vla_policy/engage std_srvs/srv/Trigger`` lets the policy drive.
"""

from __future__ import annotations

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue


def generate_launch_description() -> LaunchDescription:
    policy = IncludeLaunchDescription(str(Path(__file__).with_name("policy.launch.py")))
    sim_node = Node(
        package="vla_ros",
        executable="sim_node",
        namespace=LaunchConfiguration("namespace"),
        parameters=[
            {
                "robot": ParameterValue(LaunchConfiguration("robot"), value_type=str),
                "seed": ParameterValue(LaunchConfiguration("seed"), value_type=int),
            }
        ],
        output="screen",
        on_exit=Shutdown(reason="the simulated robot has ended"),
    )
    seed = DeclareLaunchArgument("seed", default_value="0", description="Evaluation scene to start with.")
    # First the policy's own arguments, robot and namespace among them, which the simulation shares.
    return LaunchDescription([seed, policy, sim_node])
