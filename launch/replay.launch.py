"""A bag's sensors into the live nodes: ``ros2 launch vla_ros replay.launch.py bag:=my_bag robot:=my_robot.yaml``.

Both nodes run under simulated time. Played by ``ros2 bag play`` where that is installed, else by this package's player;
``record:=true`` writes what the nodes answer, for ``vla_ros replay`` to repeat.
"""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    SetLaunchConfiguration,
    Shutdown,
)
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

PLAYERS = ["auto", "rosbag2", "own"]
PARAMETERS = {"bag": str, "robot": str, "clock_hz": float, "rate": float, "engage": bool}


def generate_launch_description() -> LaunchDescription:
    policy = IncludeLaunchDescription(str(Path(__file__).with_name("policy.launch.py")))
    return LaunchDescription(
        [
            DeclareLaunchArgument("bag", description="Bag whose sensors are played."),
            DeclareLaunchArgument("clock_hz", default_value="500.0", description="How often /clock comes, Hz."),
            DeclareLaunchArgument("rate", default_value="1.0", description="How much faster than recorded."),
            DeclareLaunchArgument("engage", default_value="true", description="Let the policy drive.", choices=["true", "false"]),
            DeclareLaunchArgument("player", default_value="auto", description="What plays the bag.", choices=PLAYERS),
            SetLaunchConfiguration("use_sim_time", "true"),
            policy,
            OpaqueFunction(function=_players),
        ]
    )


def _players(context: LaunchContext) -> list[Node | ExecuteProcess]:
    chosen = LaunchConfiguration("player").perform(context)
    if chosen == "own" or (chosen == "auto" and not _has_rosbag2()):
        return [_player(*PARAMETERS, on_exit=Shutdown(reason="the bag has ended"))]
    from vla_ros.nodes.player import played_topics  # only here: it needs the robot file

    bag, robot = (LaunchConfiguration(name).perform(context) for name in ("bag", "robot"))
    namespace = LaunchConfiguration("namespace").perform(context)
    command = ["ros2", "bag", "play", bag, "--clock", LaunchConfiguration("clock_hz"), "--rate", LaunchConfiguration("rate")]
    play = ExecuteProcess(
        cmd=[*command, "--topics", *played_topics(robot, namespace)],
        output="screen",
        on_exit=Shutdown(reason="the bag has ended"),
    )
    return [play, _player("robot", "engage")]


def _player(*names: str, **options: object) -> Node:
    parameters = {name: ParameterValue(LaunchConfiguration(name), value_type=PARAMETERS[name]) for name in names}
    namespace = LaunchConfiguration("namespace")
    return Node(package="vla_ros", executable="player", namespace=namespace, parameters=[parameters], output="screen", **options)


def _has_rosbag2() -> bool:
    try:
        get_package_prefix("ros2bag")
    except PackageNotFoundError:
        return False
    return True
