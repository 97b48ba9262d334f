"""A bag's sensors into the live nodes: ``ros2 launch vla_ros replay.launch.py bag:=my_bag robot:=my_robot.yaml``.

Both nodes run under simulated time. Played by ``ros2 bag play`` where that is installed, else by this package's player;
``record:=true`` writes what the nodes answer, for ``vla_ros replay`` to repeat.
"""

from __future__ import annotations

from pathlib import Path

from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription, SetLaunchConfiguration, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from vla_ros.record.player import PlayerParams
from vla_ros.ros.launching import arguments, values, with_parent


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            *arguments(PlayerParams, without=("robot",)),
            SetLaunchConfiguration("use_sim_time", "true"),
            SetLaunchConfiguration("is_followed", "false"),
            IncludeLaunchDescription(str(Path(__file__).with_name("policy.launch.py"))),
            Node(
                package="vla_ros",
                executable="player",
                namespace=LaunchConfiguration("namespace"),
                parameters=[values(PlayerParams)],
                additional_env=with_parent(),
                output="screen",
                on_exit=Shutdown(reason="the bag has ended"),
            ),
        ]
    )
