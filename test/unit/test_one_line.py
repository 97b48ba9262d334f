"""What others wrote, in the lines that are printed of it: one line stays one line, of a length that can be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import safetensors.numpy

from vla_ros.bags.read import Tally
from vla_ros.check.finding import Part
from vla_ros.messages import images
from vla_ros.messages.images import decode_image, decode_pixels
from vla_ros.messages.joints import positions_by_name
from vla_ros.messages.trace import decode_trace
from vla_ros.messages.trajectories import parse_trajectory
from vla_ros.policies.families import find_family
from vla_ros.ros.problems import Problems
from vla_ros.sim.scene import parse_reset
from vla_ros.strict import MAX_LINE, MAX_LISTED, MAX_QUOTED, check_choice, listed, one_line, quoted
from vla_ros.wire import check_kind

HOSTILE = "\x1b[31mgreen\r\n\x9b\u2028FAIL\u202e" + "x" * 100_000
NAMES = ("base", "elbow")
HOSTILE_NAMES = [HOSTILE] * 500


def image(**fields: object) -> SimpleNamespace:
    return SimpleNamespace(**{"height": 1, "width": 1, "step": 3, "is_bigendian": 0, "data": b"abc"} | fields)


def fail(*_: object) -> None:
    raise RuntimeError(HOSTILE)


def decode_with(convert: Callable[..., object], msg: SimpleNamespace) -> object:
    with patch.object(images, "find_cv_bridge", lambda: convert):
        return decode_image(msg)


def trajectory(names: list[str]) -> SimpleNamespace:
    return SimpleNamespace(joint_names=names, points=[])


@pytest.mark.parametrize(
    "read",
    [
        lambda: positions_by_name(SimpleNamespace(name=HOSTILE_NAMES, position=[], velocity=[]), NAMES),
        lambda: parse_trajectory(trajectory(HOSTILE_NAMES), NAMES),
        lambda: parse_trajectory(trajectory([HOSTILE, *NAMES]), NAMES),
        lambda: decode_image(image(encoding=HOSTILE)),
        lambda: decode_with(fail, image(encoding=HOSTILE)),
        lambda: decode_pixels(image(encoding=HOSTILE)),
        lambda: decode_image(SimpleNamespace(format=HOSTILE, data=b"")),
        lambda: decode_image(SimpleNamespace(format=HOSTILE + "; jpeg compressed mono8", data=b"")),
        lambda: decode_trace(HOSTILE),
        lambda: parse_reset(json.dumps({HOSTILE: 1})),
        lambda: parse_reset(json.dumps({"seed": HOSTILE})),
        lambda: check_choice("layout", HOSTILE, ("images", "observation")),
        lambda: find_family(HOSTILE, "policy"),
        lambda: check_kind(safetensors.numpy.save({"a": np.zeros(1)}, {"kind": HOSTILE}), "request"),
    ],
)
def test_a_message_that_is_refused_is_quoted_in_one_printable_line(read):
    with pytest.raises(ValueError) as caught:
        read()
    line = str(caught.value)
    assert line.isprintable() and len(line) < 3 * MAX_LINE
    assert "x1b[31mgreen" in line


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, line: str) -> None:
        self.lines.append(line)


def test_whatever_is_reported_is_printed_in_one_line():
    log, tally, part = Log(), Tally(), Part("camera")
    problems = Problems(log)
    problems.report("camera", HOSTILE)
    tally.add("camera", HOSTILE)
    part.fail("encoding", HOSTILE, "rgb8", "the driver")
    for line in (*log.lines, *problems.current().values(), *tally.lines, part.findings[0].got):
        assert line.isprintable() and len(line) < 3 * MAX_LINE


def test_text_is_escaped_and_cut():
    assert quoted("front\n\x1b[0m") == "front\\n\\x1b[0m"
    assert quoted("joint_ä 1") == "joint_ä 1"
    assert quoted("x" * (MAX_QUOTED + 1)) == "x" * MAX_QUOTED + "…"
    assert one_line(ValueError("no\n  such\x07 file")) == "no such\\x07 file"


def test_names_are_listed_up_to_a_number():
    assert listed([], "no joints") == "no joints"
    assert listed(["a", "b\n"]) == "a, b\\n"
    assert listed(["a"] * (MAX_LISTED + 3)).endswith(" and 3 more")
