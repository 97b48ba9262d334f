"""The thread that writes a recording: there images become JPEGs, chunks are packed and the disk is waited for, while
the node goes on listening."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import cv2
import numpy as np

from vla_ros.bags.definitions import TYPES, Layout, message_type, serialize
from vla_ros.bags.write import BagWriter
from vla_ros.messages.images import decode_image
from vla_ros.strict import explained
from vla_ros.topics import COMPRESSED_IMAGE, IMAGE, compressed

# Where as much waits, the node waits, too, and the middleware counts what it loses.
MAX_WAITING_BYTES = 1 << 28
IMAGES = Layout(IMAGE, TYPES, is_standard=True)


class WriterThread(AbstractContextManager["WriterThread"]):
    """Writes into ``bag`` in a thread of its own, in the order it is told; use it as a context manager.

    With ``jpeg_quality`` images go to ``topics.compressed`` of their topic; one that cannot be is kept as it came, for
    the reason in ``problems``, by topic. Whatever the bag raises, the next call raises. ``num_bytes`` counts what was
    written by topic.
    """

    def __init__(self, bag: BagWriter, jpeg_quality: int | None = None) -> None:
        self.problems: dict[str, str] = {}
        self.num_bytes: dict[str, int] = {}
        self._bag = bag
        self._jpeg_quality = jpeg_quality
        self._known: set[str] = set()
        self._jobs: deque[tuple[Callable[[], None], int]] = deque()
        self._num_waiting_bytes = 0
        self._is_closing = False
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="bag writer", daemon=True)
        self._thread.start()

    def write(self, topic: str, msgtype: str, offered_qos: list[Any], data: bytes, stamp_ns: int) -> None:
        """One message; ``offered_qos`` is looked at with the first one of its topic."""
        write = self._write_image if msgtype == IMAGE and self._jpeg_quality is not None else self._write
        self._tell(partial(write, topic, msgtype, offered_qos, data, stamp_ns), len(data))

    def flush(self) -> None:
        """As ``BagWriter.flush``, with what was told before."""
        self._tell(self._bag.flush, 0)

    def close(self) -> None:
        """Returns when everything is written."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _tell(self, job: Callable[[], None], num_bytes: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._num_waiting_bytes < MAX_WAITING_BYTES or self._error is not None)
            if self._error is not None:
                raise self._error
            self._jobs.append((job, num_bytes))
            self._num_waiting_bytes += num_bytes
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._is_closing)
                if not self._jobs:
                    return
                job, num_bytes = self._jobs.popleft()
            try:
                job()
            except Exception as error:  # the caller's to raise
                self._error = error
            with self._changed:
                self._num_waiting_bytes -= num_bytes
                self._changed.notify_all()
            if self._error is not None:
                return

    def _write_image(self, topic: str, msgtype: str, offered_qos: list[Any], data: bytes, stamp_ns: int) -> None:
        assert self._jpeg_quality is not None
        try:
            packed = as_jpeg(data, self._jpeg_quality)
        except ValueError as error:
            self.problems.setdefault(topic, f"images of {topic} are recorded as they came, not as JPEG: {error}")
            self._write(topic, msgtype, offered_qos, data, stamp_ns)
        else:
            self._write(compressed(topic), COMPRESSED_IMAGE, offered_qos, packed, stamp_ns)

    def _write(self, topic: str, msgtype: str, offered_qos: list[Any], data: bytes | memoryview, stamp_ns: int) -> None:
        if topic not in self._known:
            self._known.add(topic)
            self._bag.add_topic(topic, msgtype, offered_qos)
        self._bag.write(topic, data, stamp_ns)
        self.num_bytes[topic] = self.num_bytes.get(topic, 0) + len(data)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            return self.close()
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join()


def as_jpeg(data: bytes, quality: int) -> memoryview:
    """A serialized Image as a serialized CompressedImage of that JPEG quality, 1 to 100.

    Raises ValueError for one that isn't a colour picture, or too large for a JPEG.
    """
    msg = IMAGES.decode(data)
    bgr = cv2.cvtColor(decode_image(msg), cv2.COLOR_RGB2BGR)
    with explained("image cannot be a JPEG (", cv2.error, after=")"):
        done, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"image of {msg.width}x{msg.height} pixels cannot be a JPEG; expected at most 65500 each way")
    kind = message_type(COMPRESSED_IMAGE)
    return serialize(kind(msg.header, f"{msg.encoding}; jpeg compressed bgr8", np.ravel(jpeg)))
