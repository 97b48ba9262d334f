"""What went into a chunk, as a line of JSON on ``vla_policy/trace``: enough to make the same chunk again from a bag."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from vla_ros import topics
from vla_ros.strict import parse_json, quoted


@dataclass(frozen=True)
class Trace:
    """One chunk that was followed, or kept while a human drove; times are ns of ROS time.

    ``cameras_ns`` is the header stamp of each image its observation held, ``joint_positions`` are its joints, rad, in
    the robot file's order, ``task`` the instruction; ``asked_ns`` is when the request was made, ``taken_ns`` when the
    answer was taken.
    """

    cameras_ns: Mapping[str, int]
    joint_positions: tuple[float, ...]
    task: str
    asked_ns: int
    taken_ns: int


def encode_trace(trace: Trace) -> str:
    """The line."""
    return json.dumps(asdict(trace))


def decode_trace(line: str) -> Trace:
    """The inverse; raises ValueError for any other line."""
    try:
        document = parse_json(line)
        cameras_ns = {str(name): int(stamp) for name, stamp in document["cameras_ns"].items()}
        joint_positions = tuple(map(float, document["joint_positions"]))
        return Trace(
            cameras_ns, joint_positions, str(document["task"]), int(document["asked_ns"]), int(document["taken_ns"])
        )
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"'{quoted(line)}' is not the trace of a chunk; expected what {topics.TRACE} says") from error
