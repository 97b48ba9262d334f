"""A bag's sensors into the live nodes: ``ros2 launch vla_ros replay.launch.py bag:=my_bag robot:=my_robot.yaml``.

Both nodes run under simulated time. Played by ``ros2 bag play`` where that is installed, else by this package's player;
``record:=true`` writes what the nodes answer, for ``vla_ros replay`` to repeat.
"""

from __future__ import annotations

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, SetLaunchConfiguration, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

PARAMETERS = {"bag": str, "robot": str, "player": str, "clock_hz": float, "rate": float, "engage": bool}


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument("bag", description="Bag whose sensors are played."),
            DeclareLaunchArgument("clock_hz", default_value="500.0", description="How often /clock comes, Hz."),
            DeclareLaunchArgument("rate", default_value="1.0", description="How much faster than recorded."),
            DeclareLaunchArgument(
                "engage", default_value="true", description="Let the policy drive.", choices=["true", "false"]
            ),
            DeclareLaunchArgument(
                "player", default_value="auto", description="What plays the bag.", choices=["auto", "rosbag2", "own"]
            ),
            SetLaunchConfiguration("use_sim_time", "true"),
            IncludeLaunchDescription(str(Path(__file__).with_name("policy.launch.py"))),
            Node(
                package="vla_ros",
                executable="player",
                namespace=LaunchConfiguration("namespace"),
                parameters=[
                    {
                        name: ParameterValue(LaunchConfiguration(name), value_type=kind)
                        for name, kind in PARAMETERS.items()
                    }
                ],
                output="screen",
                on_exit=Shutdown(reason="the bag has ended"),
            ),
        ]
    )
