"""What an operator may ask for, as a page sends it: read strictly, within bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from vla_ros.strict import check_choice, parse_json, quoted
from vla_ros.types import check_task

STOP = "stop"
INSTRUCT, JOG, MARK = "instruct", "jog", "mark"
DRIVES = ("engage", "takeover", "hold", "reset")
KINDS = (STOP, INSTRUCT, JOG, MARK, *DRIVES)
MARKS = ("start", "success", "failure", "discard")
MAX_MESSAGE_BYTES = 131_072
"""A page's message: more than an instruction that is refused for its length, so that its sender learns why."""


@dataclass(frozen=True)
class Act:
    """``text`` is an instruction, or the mark of an episode; ``joint`` is the one to jog, at ``share`` of its speed, -1
    to 1."""

    kind: str
    text: str = ""
    joint: str = ""
    share: float = 0.0

    @property
    def line(self) -> str:
        """For people and the log."""
        if self.kind == INSTRUCT:
            return f"instruction '{quoted(self.text)}'"
        return f"episode: {self.text}" if self.kind == MARK else self.kind


def read_act(message: str | bytes) -> Act:
    """The act in a page's message. Raises ValueError for any other."""
    document = parse_json(message)
    if not isinstance(document, dict) or not isinstance(kind := document.get("act"), str):
        raise ValueError("message names no act; reload the page")
    check_choice("act", quoted(kind), KINDS)
    if kind == INSTRUCT:
        return Act(kind, text=read_instruction(document.get("text")))
    if kind == MARK:
        mark = document.get("mark")
        check_choice("mark", quoted(str(mark)), MARKS)
        return Act(kind, text=str(mark))
    if kind == JOG:
        return Act(kind, joint=str(document.get("joint")), share=_share(document.get("share")))
    return Act(kind)


def read_instruction(text: Any) -> str:
    """An instruction without the space around it. Raises ValueError for none, one that is too long for ``task``, and
    control characters, which no policy has learnt and no log should get."""
    if not isinstance(text, str) or not text.strip():
        raise ValueError("instruction is empty; expected some words")
    check_task(text)
    text = text.strip()
    for at, character in enumerate(text):
        if ord(character) < 32 or 127 <= ord(character) < 160 or 0xD800 <= ord(character) < 0xE000:
            raise ValueError(
                f"instruction has the control character U+{ord(character):04X} at {at}; expected one line of text"
            )
    return text


def _share(value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not -1 <= value <= 1:
        raise ValueError(f"share of a joint's speed is {quoted(str(value))}; expected -1 to 1")
    return float(value)
