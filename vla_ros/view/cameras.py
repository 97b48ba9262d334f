"""A robot's cameras on the page: of each the newest picture, decoded and scaled only where somebody looks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rclpy.node import Node
from rclpy.serialization import deserialize_message

from vla_ros import topics
from vla_ros.messages.bounds import MAX_BYTES_PER_PIXEL
from vla_ros.messages.images import MAX_HEADERS_BYTES, decode_frame
from vla_ros.messages.times import time_to_ns
from vla_ros.robot import RobotConfig
from vla_ros.robot.parts import CameraConfig
from vla_ros.ros.bounded import Bound
from vla_ros.ros.clock import steady_now_ns
from vla_ros.ros.endpoints import interface_class
from vla_ros.ros.managed import Role
from vla_ros.ros.qos import CAMERA
from vla_ros.ros.threads import ended
from vla_ros.strict import one_line
from vla_ros.units import NS_PER_S
from vla_ros.view.pictures import encode_picture

PERIOD_S = 0.1
SILENT_S = 1.0


class Cameras:
    """Callbacks, in a thread of their own, keep the newest message as it came; another thread makes pictures of them,
    ten times a second, for ``publish`` (a kind, a message) while ``is_watched``."""

    def __init__(
        self,
        owner: Node,
        robot: RobotConfig,
        publish: Callable[[str, bytes], None],
        is_watched: Callable[[], bool],
    ) -> None:
        self._robot = robot
        self._publish, self._is_watched = publish, is_watched
        self._newest: dict[str, bytes] = {}
        self._heard_ns: dict[str, int] = {}
        self._unreadable: dict[str, str] = {}
        self._began_ns = steady_now_ns()
        self._role = Role(owner, "cameras")
        for camera in robot.cameras:
            self._subscribe(camera)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pictures", daemon=True)

    def start(self) -> None:
        self._role.start()
        self._thread.start()

    def stop(self) -> None:
        """Returns when no callback runs any more."""
        self._stopping.set()
        ended(self._thread)
        self._role.stop()

    def faults(self) -> dict[str, str]:
        """What is wrong with each camera, by its name."""
        lines = dict(self._unreadable)
        for camera in self._robot.cameras:
            silent_s = (steady_now_ns() - self._heard_ns.get(camera.name, self._began_ns)) / NS_PER_S
            if silent_s > max(SILENT_S, camera.max_age_s):
                got = f"camera '{camera.name}': nothing on '{camera.topic}' for {silent_s:.0f} s"
                lines[camera.name] = f"{got}; check its driver"
        return lines

    def _subscribe(self, camera: CameraConfig) -> None:
        kind = interface_class(topics.COMPRESSED_IMAGE if camera.compressed else topics.IMAGE)
        most = MAX_BYTES_PER_PIXEL * camera.width * camera.height + MAX_HEADERS_BYTES
        bound = Bound(most, partial(self._keep, camera.name), partial(self._refuse, camera.name, most))
        topic = self._role.topic(camera.topic)
        subscription = self._role.node.create_subscription(kind, topic, bound.look, CAMERA, raw=True)
        subscription.bound = bound  # type: ignore[attr-defined]  # read by BoundedExecutor

    def _keep(self, name: str, data: bytes, info: Mapping[str, Any]) -> None:
        self._newest[name] = data
        self._heard_ns[name] = steady_now_ns()

    def _refuse(self, name: str, most: int, size: int) -> None:
        self._unreadable[name] = f"camera '{name}': image has {size} bytes; expected at most {most}"

    def _run(self) -> None:
        while not self._stopping.wait(PERIOD_S):
            if not self._is_watched():
                continue
            for number, camera in enumerate(self._robot.cameras):
                data = self._newest.pop(camera.name, None)
                if data is not None:
                    self._show(number, camera, data)

    def _show(self, number: int, camera: CameraConfig, data: bytes) -> None:
        kind = interface_class(topics.COMPRESSED_IMAGE if camera.compressed else topics.IMAGE)
        try:
            msg = deserialize_message(data, kind)
            image = decode_frame(msg, camera.width, camera.height)
            picture = encode_picture(number, time_to_ns(msg.header.stamp) / NS_PER_S, image)
        except Exception as error:  # the middleware raises its own for what is no message
            self._unreadable[camera.name] = f"camera '{camera.name}' on '{camera.topic}': {one_line(error)}"
            return
        self._unreadable.pop(camera.name, None)
        self._publish(f"camera {number}", picture)
