"""Both nodes of a policy: ``ros2 launch vla_ros policy.launch.py robot:=my_robot.yaml policy:=my_policy``.

They start in HOLD; ``vla_policy/engage`` lets the policy drive.
"""

from __future__ import annotations

from time import strftime

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

BOOLEAN = ["true", "false"]
LEVELS = ["debug", "info", "warn", "error", "fatal"]
DTYPES = ["auto", "float32", "bfloat16"]
PARAMETERS = {
    "policy_node": {
        "robot": str,
        "policy": str,
        "task": str,
        "control_rate_hz": float,
        "strategy": str,
        "teleop_takeover": str,
        "teleop_threshold_rad": float,
        "teleop_timeout_s": float,
        "takeover_button": int,
        "handoff_ramp_s": float,
        "shadow": bool,
        "model_timeout_s": float,
        "result_timeout_s": float,
        "realtime_priority": int,
    },
    "model_node": {"policy": str, "strategy": str, "device": str, "dtype": str, "num_threads": int},
}
COMMON_PARAMETERS = {"autostart": bool, "use_sim_time": bool}


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            _argument("task", "", "Instruction to start with; others come on vla_policy/task."),
            _argument("robot", "tabletop", "Robot file (path of a YAML), or the name of a packaged one."),
            _argument("policy", "tiny_touch", "Policy directory, or the name of a packaged one."),
            _argument("control_rate_hz", "0.0", "Commands per second, Hz; 0 takes the robot file's."),
            _argument("strategy", "latest", "How chunks follow each other.", ["latest", "ensemble", "rtc"]),
            _argument("teleop_takeover", "message", "What of a human's takes over.", ["message", "motion", "request"]),
            _argument(
                "teleop_threshold_rad", "0.02", "Motion of a joint that takes over, rad (teleop_takeover:=motion)."
            ),
            _argument("teleop_timeout_s", "0.5", "HOLD where the human is silent for longer, s."),
            _argument("takeover_button", "-1", "Index of the button of 'joy' that takes over; -1: none."),
            _argument("handoff_ramp_s", "0.2", "Over how long a change of driver is drawn out, s; 0: at once."),
            _argument("shadow", "true", "Ask the policy while a human drives, too.", BOOLEAN),
            _argument("model_timeout_s", "1.0", "A model node that is not heard for longer is a fault, s."),
            _argument("result_timeout_s", "1.0", "A model that takes longer to answer is a fault, s."),
            _argument("realtime_priority", "10", "SCHED_FIFO priority of the ticker where permitted; 0: ordinary."),
            _argument("device", "auto", "Where the model runs; auto: a GPU if there is one.", ["auto", "cpu", "cuda"]),
            _argument("dtype", "auto", "Weights; auto: bfloat16 on a GPU, else float32.", DTYPES),
            _argument("num_threads", "1", "Threads of one operation of the model on CPU."),
            _argument("model", "true", "Start model_node here; false where it runs on another machine.", BOOLEAN),
            _argument("autostart", "true", "Configure and activate; false leaves that to ros2 lifecycle.", BOOLEAN),
            _argument("use_sim_time", "false", "Take ROS time from /clock.", BOOLEAN),
            _argument("namespace", "", "Namespace of both nodes and of their topics."),
            _argument("log_level", "info", "What both nodes log at least.", LEVELS),
            _argument("record", "false", "Record the robot's topics and the nodes' into a bag.", BOOLEAN),
            _argument("record_to", strftime("recording_%Y%m%d-%H%M%S"), "Folder of the new bag (record:=true)."),
            # The policy node goes to HOLD meanwhile, and stays there until somebody engages again.
            _node("model_node", condition=IfCondition(LaunchConfiguration("model")), respawn=True, respawn_delay=1.0),
            _node("policy_node"),
            _recorder(),
        ]
    )


def _argument(name: str, default: str, description: str, choices: list[str] | None = None) -> DeclareLaunchArgument:
    return DeclareLaunchArgument(name, default_value=default, description=description, choices=choices)


def _node(executable: str, condition: IfCondition | None = None, **options: object) -> Node:
    types = {**COMMON_PARAMETERS, **PARAMETERS[executable]}
    return Node(
        package="vla_ros",
        executable=executable,
        namespace=LaunchConfiguration("namespace"),
        parameters=[{name: ParameterValue(LaunchConfiguration(name), value_type=kind) for name, kind in types.items()}],
        arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
        output="screen",
        condition=condition,
        **options,
    )


def _recorder() -> Node:
    return Node(
        package="vla_ros",
        executable="vla_ros",
        namespace=LaunchConfiguration("namespace"),
        parameters=[{"use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)}],
        arguments=["record", "--robot", LaunchConfiguration("robot"), "--out", LaunchConfiguration("record_to")],
        output="screen",
        condition=IfCondition(LaunchConfiguration("record")),
    )
