"""How large what anybody may publish can be: judged before any work that grows with it."""

from __future__ import annotations

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
