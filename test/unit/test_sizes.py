"""What anybody may publish is judged by its size before any work that grows with it."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from vla_ros.messages import images
from vla_ros.messages.joints import positions_by_name
from vla_ros.messages.trajectories import parse_teleop
from vla_ros.nodes.params import PolicyNodeParams
from vla_ros.types import check_task
from vla_ros.wire import MAX_BYTES, REQUEST, RESULT, open_message

MANY = 10_000_000
QUICK_S = 0.5
JOINTS = ("shoulder", "elbow")


class Many:
    """So many items that nobody may look at one by one."""

    def __len__(self) -> int:
        return MANY

    def __iter__(self):
        raise AssertionError("looked at")

    __getitem__ = __contains__ = __iter__


def image(**fields: object) -> SimpleNamespace:
    msg = {"height": 4, "width": 6, "encoding": "rgb8", "step": 18, "is_bigendian": 0, "data": bytes(72)}
    return SimpleNamespace(**msg | fields)


def png(width: int, height: int) -> bytes:
    """One of a colour that compresses well, as a bomb does; whole as far as its headers tell."""
    header = struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg(width: int, height: int) -> bytes:
    frame = struct.pack(">BHHB", 8, height, width, 3) + bytes(9)
    return b"\xff\xd8\xff\xc0" + struct.pack(">H", len(frame) + 2) + frame + b"\xff\xda\0\0" + bytes(20) + b"\xff\xd9"


TOO_LARGE: dict[str, tuple[Callable[[], object], str]] = {
    "an instruction": (
        lambda: check_task("touch " * MANY),
        "instruction has 60000000 characters; expected at most 4000",
    ),
    "an instruction as a parameter": (
        lambda: PolicyNodeParams(task="x" * 4001),
        "parameter task: instruction has 4001 characters; expected at most 4000",
    ),
    "joint names": (
        lambda: positions_by_name(SimpleNamespace(name=Many(), position=[], velocity=[]), JOINTS),
        "joint state has 10000000 names; expected at most 500",
    ),
    "names in a trajectory": (
        lambda: parse_teleop(SimpleNamespace(joint_names=[*JOINTS, *"x" * 10**6], points=[object()]), JOINTS),
        "trajectory has 1000002 joint names; expected at most 500",
    ),
    "points of a trajectory": (
        lambda: parse_teleop(SimpleNamespace(joint_names=JOINTS, points=Many()), JOINTS),
        "trajectory has 10000000 points; expected at most 1000",
    ),
    "an image of another size": (
        lambda: images.decode_frame(image(height=1 << 20, width=1 << 20), 6, 4),
        "image of 1048576x1048576 pixels; expected 6x4",
    ),
    "an image's bytes": (lambda: images.decode_frame(image(data=Many()), 6, 4), "image has 10000000 bytes"),
    "a PNG": (
        lambda: images.decode_frame(SimpleNamespace(format="png", data=png(60_000, 60_000)), 6, 4),
        "image of 60000x60000 pixels; expected 6x4",
    ),
    "a JPEG": (
        lambda: images.decode_frame(SimpleNamespace(format="jpeg", data=jpeg(65_500, 65_500)), 6, 4),
        "image of 65500x65500 pixels; expected 6x4",
    ),
    "a request": (
        lambda: open_message(np.zeros(MAX_BYTES[REQUEST] + 1, np.uint8).data, REQUEST),
        "message has 268435457 bytes; expected at most 268435456",
    ),
    "a result": (
        lambda: open_message(bytes(MAX_BYTES[RESULT] + 1), RESULT),
        "message has 1048577 bytes; expected at most 1048576",
    ),
}


@pytest.mark.parametrize("what", TOO_LARGE)
def test_what_is_too_large_is_refused_in_one_line_and_at_once(what: str) -> None:
    judge, line = TOO_LARGE[what]
    began_s = time.process_time()
    with pytest.raises(ValueError) as refused:
        judge()
    assert str(refused.value).startswith(line) and "\n" not in str(refused.value)
    assert time.process_time() - began_s < QUICK_S
