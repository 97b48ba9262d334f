"""What a JPEG's markers tell of it, without decoding: its size, and whether all of it is there.

A decoder makes a picture of whatever comes before the end marker. By ITU-T T.81: where there are restart markers they
are counted (E.1.4), and the scans of a progressive picture refine every coefficient to its last bit (G.1.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

START, END = b"\xff\xd8", b"\xff\xd9"
_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
_FRAMES = (_BASELINE, _EXTENDED, _PROGRESSIVE)  # of all others the decoder decides
_SCAN, _RESTART_INTERVAL = 0xDA, 0xDD
# Within a scan a byte 0xff is followed by 0, or by a restart marker.
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_SCAN_END = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_BLOCK, _NUM_COEFFICIENTS, _NUM_RESTARTS = 8, 64, 8


class Jpeg(NamedTuple):
    """A JPEG's header, as far as it tells, and whether the picture is all there."""

    height: int = 0
    width: int = 0
    num_channels: int = 0
    is_progressive: bool = False
    is_whole: bool = False


class _Segment(NamedTuple):
    """One marker with what follows it; ``scan`` is what lies behind a scan's header, and ``end`` where that ends."""

    marker: int
    body: bytes
    scan: bytes
    end: int


def read_jpeg(data: bytes) -> Jpeg | None:
    """None where no picture begins in ``data``."""
    jpeg, frame, interval, is_good, end = Jpeg(), b"", 0, True, 0
    missing: dict[int, list[int]] = {}
    for segment in _segments(data):
        marker, body, scan, end = segment
        if marker in _FRAMES and len(body) >= 6:
            frame, is_progressive = body, marker == _PROGRESSIVE
            height, width = (int.from_bytes(body[i : i + 2], "big") for i in (1, 3))
            jpeg = Jpeg(height, width, body[5], is_progressive)
            missing = {component: [1] * _NUM_COEFFICIENTS for component in body[6::3]} if is_progressive else {}
        elif marker == _RESTART_INTERVAL:
            interval = int.from_bytes(body[:2], "big")
        elif marker == _SCAN:
            if interval and len(frame) >= 9 and len(body) >= 2:
                is_good = is_good and _counts(scan, body, frame, interval)
            _refine(missing, body)
    is_whole = is_good and data.startswith(END, end) and not any(map(any, missing.values()))
    return jpeg._replace(is_whole=is_whole) if end else None


def with_more_in_each_scan(data: bytes, more: bytes) -> bytes:
    """A JPEG with further bytes at the end of every scan: one that was whole takes none of them."""
    ends = [segment.end for segment in _segments(data) if segment.marker == _SCAN]
    return b"".join(data[start:end] + more for start, end in pairwise([0, *ends])) + data[ends[-1] if ends else 0 :]


def _segments(data: bytes) -> Iterator[_Segment]:
    """Up to the end marker, or where it breaks off."""
    position, end, is_plain = len(START), 0, True
    while data[:2] == START and position + 9 < len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        body, scan = data[position + 4 : position + 2 + length], b""
        position += 1 if marker == 0xFF else 2 + length
        is_plain = is_plain and marker not in (_PROGRESSIVE, _RESTART_INTERVAL)
        if marker == _SCAN:
            # Nothing is told between the scans of most pictures: to find their end alone is ten times as quick.
            found = None if is_plain else _SCAN_END.search(data, position)
            end = found.start() if found else data.find(END, position) % (len(data) + 1)
            scan, position = data[position:end], end
        yield _Segment(marker, body, scan, end)


def _counts(scan: bytes, header: bytes, frame: bytes, interval: int) -> bool:
    """Whether as many restart markers come, in their order, as the scan of this ``header`` has in its ``frame``."""
    height, width = (int.from_bytes(frame[i : i + 2], "big") for i in (1, 3))
    sampling = dict(zip(frame[6::3], frame[7::3], strict=False))
    across, down = (max([1, *factors]) for factors in zip(*((s >> 4, s & 15) for s in sampling.values()), strict=True))
    if header[:1] == b"\1":  # of one component alone, block by block
        own = sampling.get(header[1], 0x11)
        width, height, across, down = -(-width * (own >> 4) // across), -(-height * (own & 15) // down), 1, 1
    num_units = -(-width // (_BLOCK * across)) * -(-height // (_BLOCK * down))
    numbers = [marker[0] - 0xD0 for marker in _RESTART.findall(scan)]
    expected = -(-num_units // interval) - 1
    return numbers == [i % _NUM_RESTARTS for i in range(len(numbers))] and len(numbers) in (expected, expected + 1)


def _refine(missing: dict[int, list[int]], header: bytes) -> None:
    """What the scan of this ``header`` leaves ``missing`` of each component's coefficients, in bits."""
    num = header[0] if header else 0
    if len(header) < 4 + 2 * num:
        return
    first, last, bits = header[1 + 2 * num : 4 + 2 * num]
    for component in header[1 : 1 + 2 * num : 2]:
        if component in missing:
            for k in range(first, min(last, _NUM_COEFFICIENTS - 1) + 1):
                missing[component][k] = bits & 15
