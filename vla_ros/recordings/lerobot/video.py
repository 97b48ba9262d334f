"""Frames of a video by their time, one after the other, and videos that are written frame by frame."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from vla_ros.strict import explained, one_line

CODECS = {
    "av1": ("libsvtav1", {"crf": "30", "preset": "10"}),
    "h264": ("libx264", {"crf": "18", "preset": "veryfast"}),
}
"""Encoder and settings by what ``--codec`` calls it."""
GOP = 2  # a key frame so often, as LeRobot has it: any frame is found after decoding one other at most
TICKS_PER_S = 90_000
# A camera whose time is a hair beyond half a frame, by rounding, is meant all the same.
SLACK = 1.001


def decode_frames(file: Path, times_s: np.ndarray, tolerance_s: float) -> Iterator[np.ndarray]:
    """The frame nearest to each of ``times_s``, which increase, RGB uint8 ``[height, width, 3]``.

    Raises ValueError for a file that is missing or damaged, and where no frame is within ``tolerance_s`` of a time.
    """
    if not file.is_file():
        raise ValueError(f"{file} is missing; expected a video of the set: copy or download it again")
    with _damage(file), av.open(str(file)) as container:
        if not container.streams.video:
            raise ValueError("it has no video stream")
        stream: Any = container.streams.video[0]
        stream.thread_type = "AUTO"
        container.seek(max(0, int(times_s[0] / stream.time_base) - 1), stream=stream)
        frames = (
            (float(frame.pts * stream.time_base), frame) for frame in container.decode(stream) if frame.pts is not None
        )
        yield from _nearest(file, frames, times_s, tolerance_s * SLACK)


def frame_times(file: Path) -> np.ndarray:
    """When each frame of the video is, s ``[num_frames]``, increasing: as the file says it, and nothing is decoded.

    Raises ValueError for a file that is missing or damaged; of one that is cut off, frames are missing.
    """
    if not file.is_file():
        raise ValueError(f"{file} is missing; expected a video of the set: copy or download it again")
    with _damage(file), av.open(str(file)) as container:
        if not container.streams.video:
            raise ValueError("it has no video stream")
        stream: Any = container.streams.video[0]
        packets = (packet for packet in container.demux(stream) if packet.pts is not None and packet.size)
        return np.sort([float(packet.pts * stream.time_base) for packet in packets])


def _nearest(
    file: Path, frames: Iterator[tuple[float, Any]], times_s: np.ndarray, tolerance_s: float
) -> Iterator[np.ndarray]:
    best = following = next(frames, None)
    for number, time_s in enumerate(times_s):
        while following is not None and following[0] <= time_s + tolerance_s:
            if best is None or abs(following[0] - time_s) <= abs(best[0] - time_s):
                best = following
            else:
                break
            following = next(frames, None)
        if best is None or abs(best[0] - time_s) > tolerance_s:
            nearest = "none at all" if best is None else f"the nearest at {best[0]:.3f} s"
            got = f"it has no frame at {time_s:.3f} s, for row {number} of {len(times_s)}; {nearest}"
            raise _TooShort(
                f"{file}: {got}; expected one within {tolerance_s:.3f} s: it is cut off, or not of this set"
            )
        yield best[1].to_ndarray(format="rgb24")


class _TooShort(ValueError):
    """Says already where."""


class _damage(AbstractContextManager[None]):
    def __init__(self, file: Path) -> None:
        self._file = file

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, av.FFmpegError | ValueError | OSError) and not isinstance(error, _TooShort):
            what = f"damaged or cut off ({one_line(error, 200)})"
            raise ValueError(f"{self._file}: {what}; copy or download it again") from error


class VideoWriter(AbstractContextManager["VideoWriter"]):
    """Writes the new video ``file``, ``fps`` frames a second from 0 s on, in a ``codec`` of ``CODECS``.

    Raises ValueError where the file can't be written, and for pictures whose sizes are odd, which neither codec takes.
    """

    def __init__(self, file: Path, fps: float, width: int, height: int, codec: str) -> None:
        if width % 2 or height % 2:
            raise ValueError(f"pictures have {width}x{height} pixels; expected even numbers, as video codecs need them")
        name, options = CODECS[codec]
        os.environ.setdefault("SVT_LOG", "1")  # its encoder says everything it was set to, else
        self._file, self._num, self._period = file, 0, TICKS_PER_S / Fraction(fps).limit_denominator(10_000)
        with explained(f"{file}: ", OSError, av.FFmpegError, after="; give a folder that can be written"):
            self._container = av.open(str(file), "w", options={"movflags": "faststart"})
            stream: Any = self._container.add_stream(name, rate=Fraction(fps).limit_denominator(10_000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, TICKS_PER_S)
        stream.codec_context.gop_size = GOP
        stream.codec_context.options = options
        self._stream = stream

    def add(self, image: np.ndarray) -> None:
        """The next frame, RGB uint8 ``[height, width, 3]``."""
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = round(self._num * self._period), Fraction(1, TICKS_PER_S)
        self._num += 1
        with self._failing():
            self._container.mux(self._stream.encode(frame))

    def __exit__(self, *error: object) -> None:
        with self._failing():
            if self._num:
                self._container.mux(self._stream.encode(None))
            self._container.close()

    def _failing(self) -> AbstractContextManager[None]:
        return explained(f"{self._file}: ", OSError, av.FFmpegError, after="; give a disk with more space")
