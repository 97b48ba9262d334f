"""Frames of a video by their time, and videos that are written frame by frame."""

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
# So many frames are decoded rather than passed over: to begin anew at a key frame takes about as long.
NUM_PASSED = 4
NEAR = 0.4  # of the time from one frame to the next


def decode_frames(file: Path, times_s: np.ndarray, tolerance_s: float) -> Iterator[np.ndarray]:
    """The frame nearest to each of ``times_s``, which increase, RGB uint8 ``[height, width, 3]``.

    Raises ValueError for a file that is missing or damaged, and where no frame is within ``tolerance_s`` of a time.
    """
    with VideoReader(file, tolerance_s, num_threads=0) as video:
        for number, time_s in enumerate(times_s):
            yield video.frame_at(time_s, f", for row {number} of {len(times_s)}")


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


class VideoReader(AbstractContextManager["VideoReader"]):
    """The frames of a video by their times, fastest where these increase; ``num_threads`` decode, 0 stands for as many
    as there are cores.

    Raises ValueError for a file that is missing or damaged.
    """

    def __init__(self, file: Path, tolerance_s: float, num_threads: int = 1) -> None:
        self._file, self._tolerance_s = file, tolerance_s * SLACK
        if not file.is_file():
            raise ValueError(f"{file} is missing; expected a video of the set: copy or download it again")
        with _damage(file):
            self._container = av.open(str(file))
            if not self._container.streams.video:
                raise ValueError("it has no video stream")
            self._stream: Any = self._container.streams.video[0]
            if num_threads:
                self._stream.codec_context.thread_count = num_threads
            else:
                self._stream.thread_type = "AUTO"
        self._frames: Iterator[tuple[float, Any]] = iter(())
        # The frame that was last asked for and, where it was looked at, the one behind it; none is nearer than one
        # within ``_near_s`` of a time.
        self._best: tuple[float, Any] | None = None
        self._following: tuple[float, Any] | None = None
        rate = self._stream.average_rate
        self._near_s = float(NEAR / rate) if rate else 0.0

    @property
    def num_frames(self) -> int | None:
        """How many the file says it has, None where it doesn't. Raises ValueError where it ends before the last."""
        entries = list(self._stream.index_entries)
        ends = max((entry.pos + entry.size for entry in entries), default=0)
        if ends > (num_bytes := self._file.stat().st_size):
            what = f"damaged or cut off ({num_bytes} bytes; expected at least {ends})"
            raise ValueError(f"{self._file}: {what}; copy or download it again")
        return len(entries) or None

    def frame_at(self, time_s: float, whose: str = "") -> np.ndarray:
        """The frame nearest to it, RGB uint8 ``[height, width, 3]``. Raises ValueError where none is within the
        tolerance, saying ``whose`` it was to be, and where the file is damaged."""
        with _damage(self._file):
            if not self._is_ahead(time_s):
                self._seek(time_s)
            while self._best is not None and abs(self._best[0] - time_s) > self._near_s:
                following = self._following = self._following or next(self._frames, None)
                if following is None or abs(following[0] - time_s) > abs(self._best[0] - time_s):
                    break
                self._best, self._following = following, None
            if self._best is None or abs(self._best[0] - time_s) > self._tolerance_s:
                nearest = "none at all" if self._best is None else f"the nearest at {self._best[0]:.3f} s"
                got = f"{self._file}: it has no frame at {time_s:.3f} s{whose}; {nearest}"
                expected = f"expected one within {self._tolerance_s:.3f} s: it is cut off, or not of this set"
                raise _TooShort(f"{got}; {expected}")
            return np.asarray(self._best[1].to_ndarray(format="rgb24"))

    def close(self) -> None:
        self._frames = iter(())
        self._container.close()

    def __exit__(self, *error: object) -> None:
        self.close()

    def _is_ahead(self, time_s: float) -> bool:
        """Whether decoding on from here comes to it as soon as from the last key frame before it."""
        if self._best is None or time_s < self._best[0] - self._near_s:
            return False
        entries, period = self._stream.index_entries, self._stream.time_base
        here, key = (
            entries.search_timestamp(int(at / period), backward=True, any_frame=is_any)
            for at, is_any in (((self._following or self._best)[0], True), (time_s, False))
        )
        return bool(key < here + NUM_PASSED)

    def _seek(self, time_s: float) -> None:
        stream = self._stream
        # A key frame just behind it is as good.
        self._container.seek(max(0, int((time_s + self._near_s) / stream.time_base)), stream=stream)
        self._frames = (
            (float(frame.pts * stream.time_base), frame)
            for frame in self._container.decode(stream)
            if frame.pts is not None
        )
        self._best, self._following = next(self._frames, None), None


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
