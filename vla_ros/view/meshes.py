"""Triangles of an STL file, binary or text: what a URDF's links mostly look like."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from vla_ros.strict import check_regular, explained

MAX_FILE_BYTES = 1 << 25
HEADER_BYTES, COUNT_BYTES, TRIANGLE_BYTES = 80, 4, 50
TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_VERTEX = re.compile(rb"vertex\s+(\S+)\s+(\S+)\s+(\S+)")


def read_stl(path: Path, max_triangles: int) -> np.ndarray:
    """The corners of each triangle: float32 ``[num_triangles, 3, 3]``, in the file's unit.

    Raises ValueError for a file that can't be read, isn't STL or is too large, and for more than ``max_triangles``.
    """
    with explained("", OSError):
        check_regular(path)
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ValueError(f"it has {size} bytes; expected at most {MAX_FILE_BYTES}")
        data = path.read_bytes()
    count = int.from_bytes(data[HEADER_BYTES : HEADER_BYTES + COUNT_BYTES], "little")
    if len(data) == HEADER_BYTES + COUNT_BYTES + count * TRIANGLE_BYTES:
        corners = np.frombuffer(data, TRIANGLE, offset=HEADER_BYTES + COUNT_BYTES)["corners"]
    elif data.lstrip()[:5] == b"solid":
        with explained("it isn't readable as STL: "):
            corners = np.array(_VERTEX.findall(data), np.float32).reshape(-1, 3, 3)
    else:
        raise ValueError(f"{path.suffix or 'it'} isn't STL; convert it, as meshes of collision mostly are")
    if len(corners) > max_triangles:
        raise ValueError(f"it has {len(corners)} triangles; expected at most {max_triangles} in all")
    if not np.isfinite(corners).all():
        raise ValueError("it has corners that are not finite")
    return np.array(corners)
