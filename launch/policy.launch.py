"""Both nodes of a policy: ``ros2 launch vla_ros policy.launch.py robot:=my_robot.yaml policy:=my_policy``.

They start in HOLD; ``vla_policy/engage`` lets the policy drive. ``policy:=none`` is the robot's side alone: bounded
teleoperation and, with ``record:=true``, its recording. ``view:=true`` serves the operator's page at http://localhost:8080.
"""

from __future__ import annotations

import os
from time import strftime

from launch import LaunchDescription
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PythonExpression
from launch_ros.actions import Node

from vla_ros.nodes.params import NO_POLICY, ModelNodeParams, PolicyNodeParams
from vla_ros.ros.launching import (
    BOOLEAN,
    DISCOVERY_RANGE,
    argument,
    arguments,
    discovery,
    value,
    values,
    with_parent,
)
from vla_ros.ros.parameters import NodeParameters
from vla_ros.tasks.node import TaskParams
from vla_ros.view.params import ViewParams

LEVELS = ("debug", "info", "warn", "error", "fatal")


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            *arguments(PolicyNodeParams, ModelNodeParams, ViewParams, autostart="true"),
            argument("model", "true", "Start model_node here; false where it runs on another machine.", BOOLEAN),
            argument("use_sim_time", "false", "Take ROS time from /clock.", BOOLEAN),
            argument("namespace", "", "Namespace of both nodes and of their topics."),
            argument("log_level", "info", "Lowest severity that both nodes log.", LEVELS),
            argument("tasks", "false", "Offer the action vla_policy/run_task, of the package vla_ros_msgs.", BOOLEAN),
            argument("record", "false", "Record the robot's topics and the nodes' into a bag.", BOOLEAN),
            argument("record_to", strftime("recording_%Y%m%d-%H%M%S"), "Folder of the new bag (record:=true)."),
            argument("view", "false", "Serve the operator's page (extra view): see it drive, in a browser.", BOOLEAN),
            # As it is set where launch runs, else as ROS has it.
            *discovery(os.environ.get(DISCOVERY_RANGE, "subnet").lower()),
            # The policy node goes to HOLD meanwhile, and stays there until somebody engages again.
            _node(
                "model_node",
                ModelNodeParams,
                condition=IfCondition(
                    PythonExpression(
                        [
                            *("'", LaunchConfiguration("model"), "' == 'true' and "),
                            *("'", LaunchConfiguration("policy"), f"' != '{NO_POLICY}'"),
                        ]
                    )
                ),
                respawn=True,
                respawn_delay=1.0,
            ),
            _node("policy_node", PolicyNodeParams),
            _node("task_node", TaskParams, condition=IfCondition(LaunchConfiguration("tasks"))),
            _recorder(),
            # Its end is nobody else's.
            _node("view_node", ViewParams, condition=IfCondition(LaunchConfiguration("view"))),
        ]
    )


def _node(executable: str, kind: type[NodeParameters], **options: object) -> Node:
    return Node(
        package="vla_ros",
        executable=executable,
        namespace=LaunchConfiguration("namespace"),
        parameters=[{**values(kind), "use_sim_time": value("use_sim_time", bool)}],
        arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
        additional_env=with_parent(),
        output="screen",
        **options,
    )


def _recorder() -> Node:
    return Node(
        package="vla_ros",
        executable="vla_ros",
        namespace=LaunchConfiguration("namespace"),
        parameters=[{"use_sim_time": value("use_sim_time", bool)}],
        arguments=["record", "--robot", LaunchConfiguration("robot"), "--out", LaunchConfiguration("record_to")],
        additional_env=with_parent(),
        output="screen",
        condition=IfCondition(LaunchConfiguration("record")),
    )
