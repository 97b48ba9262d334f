"""How large what anybody may publish can be: judged before any work that grows with it."""

from __future__ import annotations

import struct

from vla_ros import topics

MAX_NAMES = 500
MAX_POINTS = 1000
MAX_BYTES_PER_PIXEL = 8
# Of a whole message, as it is sent: these bounds and an instruction's, with room for names and headers.
MAX_BYTES = {
    topics.BOOL: 64,
    topics.STRING: 16_384,
    topics.TRAJECTORY: 524_288,
    topics.JOINT_STATE: 131_072,
    topics.JOY.type: 16_384,
    topics.STATUS.type: 131_072,
}
_CDR_LITTLE_ENDIAN = b"\0\1"


def count_points(data: bytes) -> int:
    """How many points a serialized JointTrajectory says it has, read in no time: each of them costs Python 10 us to
    take apart, which no other thread has then. 0 where it cannot be read so."""
    order = "<" if data[:2] == _CDR_LITTLE_ENDIAN else ">"

    def number(position: int) -> int:
        return struct.unpack_from(f"{order}I", data, position)[0]

    def behind_text(position: int) -> int:
        return position + 4 + -(-number(position) // 4) * 4

    try:
        position = behind_text(4 + 8)  # CDR's header and the stamp
        num_names, position = number(position), position + 4
        for _ in range(min(num_names, MAX_NAMES)):
            position = behind_text(position)
        return number(position)
    except struct.error:
        return 0
