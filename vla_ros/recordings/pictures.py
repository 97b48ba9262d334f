"""Single pictures of a bag, by the place that ``Feed`` gives a frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vla_ros.bags.read import BagReader
from vla_ros.messages.images import decode_frame
from vla_ros.recordings.feed import recorded_cameras, resolve_topic
from vla_ros.robot import RobotConfig
from vla_ros.types import Place


class BagPictures:
    """Those of the bag at ``path``, of each of the cameras of ``robot``, recorded in ``namespace``; for use by one
    thread."""

    def __init__(self, path: Path, robot: RobotConfig, namespace: str = "") -> None:
        self._bag = BagReader(path)
        self._cameras = recorded_cameras(self._bag, robot, namespace)
        self._topics = [resolve_topic(camera.topic, namespace) for camera in self._cameras]
        for topic in self._topics:  # how its messages are laid out
            next(self._bag.messages((topic,)), None)

    def picture(self, camera: int, place: Place) -> np.ndarray:
        """RGB uint8 ``[height, width, 3]``. Raises ValueError where it can't be decoded."""
        config = self._cameras[camera]
        return decode_frame(self._bag.message_at(self._topics[camera], place), config.width, config.height)

    def close(self) -> None:
        self._bag.close()
