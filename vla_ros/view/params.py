"""The parameters of ``view_node``. Nothing here needs ROS or a server: launch files read them, too."""

from __future__ import annotations

from dataclasses import dataclass

from vla_ros.ros.parameters import NodeParameters, parameter, robot_parameter


@dataclass(frozen=True)
class ViewParams(NodeParameters):
    """Of ``view_node``."""

    robot: str = robot_parameter()
    view_address: str = parameter("127.0.0.1", "Address the operator's page listens on; others need view_token_file.")
    view_port: int = parameter(8080, "Port of the operator's page; 0: any that is free.", low=0, high=65535)
    view_token_file: str = parameter("", "File of lines NAME TOKEN [read-only], mode 600: who may open the page.")
    view_read_only: bool = parameter(False, "Nobody who opens the page may act, but for the stop.")
