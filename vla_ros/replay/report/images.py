"""What the cameras saw at the worst moments."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np

from vla_ros.bags.read import BagReader
from vla_ros.recordings.events import FrameEvent
from vla_ros.recordings.feed import Feed
from vla_ros.replay.session import ReplaySession
from vla_ros.types import Frame
from vla_ros.units import NS_PER_S

MAX_WIDTH, JPEG_QUALITY = 400, 80
Images = Mapping[tuple[str, int], tuple[Frame, ...]]
"""By bag and ``header_ns`` of the observation."""


def moment_images(session: ReplaySession) -> Images:
    """The bags are looked through once more: for each worst moment the image of every camera taken nearest to it."""
    wanted: dict[str, set[int]] = {}
    for summary in session.summaries:
        for moment in summary.worst:
            wanted.setdefault(moment.bag, set()).add(moment.header_ns)
    robot = session.config.robot
    found = {}
    for bag, times_ns in wanted.items():
        nearest = _nearest_frames(Feed(BagReader(Path(bag)), robot, session.config.settings.namespace), times_ns)
        for time_ns in times_ns:
            frames = (nearest.get((time_ns, camera)) for camera in robot.camera_names)
            found[bag, time_ns] = tuple(frame for frame in frames if frame is not None and _is_decodable(frame))
    return found


def _nearest_frames(events: Iterable[object], times_ns: Collection[int]) -> dict[tuple[int, str], Frame]:
    nearest: dict[tuple[int, str], Frame] = {}
    for event in events:
        if not isinstance(event, FrameEvent):
            continue
        for time_ns in times_ns:
            key = (time_ns, event.frame.camera)
            best = nearest.get(key)
            if best is None or abs(event.frame.stamp_ns - time_ns) < abs(best.stamp_ns - time_ns):
                nearest[key] = event.frame
        if event.received_ns > max(times_ns) + NS_PER_S:
            break
    return nearest


def _is_decodable(frame: Frame) -> bool:
    """One that isn't, no policy has seen either."""
    try:
        return frame.image is not None
    except ValueError:
        return False


def jpeg(image: np.ndarray) -> str:
    """``image``, RGB, as base64 of a JPEG no wider than it is looked at."""
    height, width = image.shape[:2]
    if width > MAX_WIDTH:
        size = (MAX_WIDTH, max(1, round(height * MAX_WIDTH / width)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    is_written, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert is_written
    return base64.b64encode(data.tobytes()).decode()
