"""Robot files whose limits come from a topic: waits for the URDF there, and sees whether a later one has others."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import fields
from pathlib import Path

from rclpy.exceptions import InvalidTopicNameException
from rclpy.node import Node
from rclpy.validate_topic_name import validate_topic_name
from std_msgs.msg import String

from vla_ros.robot import RobotConfig, RobotFile, read_robot_file
from vla_ros.robot.parts import JointConfig
from vla_ros.ros.managed import Role
from vla_ros.topics import STRING, Qos, Topic

PATIENCE_S = 5.0


def load_robot_in_graph(owner: Node, path: str | Path) -> RobotConfig:
    """The robot of a file, from the topic that it names, too, as ``owner`` resolves it. It need not be spun.

    Raises ValueError where the file can't be used, or no URDF that fits it comes within ``PATIENCE_S``.
    """
    file = read_robot_file(path)
    if not file.urdf_topic:
        return file.robot()
    description = RobotDescription(owner, file)
    try:
        return description.wait()
    finally:
        description.stop()


class RobotDescription:
    """The subscription to a robot file's ``urdf_topic``, in a thread of its own.

    The first URDF decides; ``change`` says in one line how the newest differs, and is empty where it doesn't.
    """

    def __init__(self, owner: Node, file: RobotFile) -> None:
        """Raises ValueError where the file's ``urdf_topic`` can't be the name of one."""
        try:
            validate_topic_name(file.urdf_topic)
        except InvalidTopicNameException as error:
            reason = str(error).splitlines()[0].rstrip(":")
            raise ValueError(f"robot file {file.path}: urdf_topic is '{file.urdf_topic}': {reason}") from error
        self.change = ""
        self._file = file
        self._newest_text: str | None = None
        self._robot: Future[RobotConfig] = Future()
        self._role = Role(owner, "description")
        self._topic = self._role.topic(file.urdf_topic)
        self._role.subscribe(Topic(file.urdf_topic, STRING, Qos.LATCHED), self._on_urdf)
        self._role.start()

    def wait(self, patience_s: float = PATIENCE_S) -> RobotConfig:
        """The robot with the limits of the first URDF.

        Raises ValueError where that can't be used or contradicts the robot file, or none comes in ``patience_s``.
        """
        try:
            return self._robot.result(patience_s)
        except TimeoutError as error:
            reason = f"no URDF came on '{self._topic}' (urdf_topic) in {patience_s:g} s: {self._who_publishes()}"
            raise ValueError(f"robot file {self._file.path}: {reason}") from error

    def stop(self) -> None:
        self._role.stop()

    def _on_urdf(self, msg: String) -> None:
        if msg.data == self._newest_text:
            return
        self._newest_text = msg.data
        if self._robot.done():
            self.change = self._compare(msg.data)
            return
        try:
            self._robot.set_result(self._file.robot(msg.data))
        except ValueError as error:
            self._robot.set_exception(error)

    def _compare(self, text: str) -> str:
        try:
            other = _other_limit(self._robot.result(), self._file.robot(text))
        except ValueError as error:
            other = str(error)
        in_force = "the limits of the first stay in force: configure again to take others"
        return f"another URDF came on '{self._topic}': {other}; {in_force}" if other else ""

    def _who_publishes(self) -> str:
        publishers = self._role.node.get_publishers_info_by_topic(self._topic)
        if not publishers:
            return "nobody publishes it; start robot_state_publisher, or correct urdf_topic"
        one, profile = publishers[0], publishers[0].qos_profile
        words = [policy.name.lower().replace("_", " ") for policy in (profile.reliability, profile.durability)]
        got = f"{one.node_name} publishes {', '.join([one.topic_type, *words])}"
        return f"{got}; expected std_msgs/msg/String, reliable, transient local"


def _other_limit(before: RobotConfig, after: RobotConfig) -> str:
    """The first limit that differs; empty where none does. The joints are those of one robot file."""
    for old, new in zip(before.joints, after.joints, strict=True):
        for field in fields(JointConfig):
            was, is_now = getattr(old, field.name), getattr(new, field.name)
            if is_now != was:
                return f"joint '{old.name}' has {field.name} {is_now} in it, was {was}"
    return ""
