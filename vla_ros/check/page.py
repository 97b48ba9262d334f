"""Findings as one page of text."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from vla_ros.check.finding import Finding, Level

WIDTH = 110
VERDICTS = {Level.OK: "fits", Level.WARN: "fits, with warnings", Level.FAIL: "does not fit"}
COLOURS = {Level.OK: "32", Level.WARN: "33;1", Level.FAIL: "31;1"}


def page(title: str, findings: Sequence[Finding], *, width: int = WIDTH, colours: bool = False) -> str:
    """A heading for each part, a line for each finding; expectation and remedy below one that isn't OK."""
    aspect_width = max((len(finding.aspect) for finding in findings), default=0)
    lines = [title]
    for part, of_part in groupby(findings, key=lambda finding: finding.part):
        lines += ["", _paint(part, "1", colours)]
        for finding in of_part:
            lines += _lines(finding, aspect_width, width, colours)
    return "\n".join([*lines, "", _summary(findings, colours)])


def _lines(finding: Finding, aspect_width: int, width: int, colours: bool) -> list[str]:
    level = _paint(f"{finding.level.value:4}", COLOURS[finding.level], colours)
    indent = " " * (2 + 4 + 2 + aspect_width + 2)
    room = max(width - len(indent), 30)
    first, *rest = textwrap.wrap(finding.got, room, break_on_hyphens=False) or [""]
    lines = [f"  {level}  {finding.aspect:{aspect_width}}  {first}", *(indent + line for line in rest)]
    if finding.level is Level.OK:
        return lines
    for what, text in (("expected", finding.expected), ("fix", finding.fix)):
        hanging = f"{indent}{'':10}"
        wrapped = textwrap.wrap(text, room - 10, break_on_hyphens=False) or [""]
        lines.append(f"{indent}{what:8}  {wrapped[0]}")
        lines += [hanging + line for line in wrapped[1:]]
    return lines


def _summary(findings: Sequence[Finding], colours: bool) -> str:
    num = Counter(finding.level for finding in findings)
    level = next((level for level in (Level.FAIL, Level.WARN) if num[level]), Level.OK)
    counts = f"{num[Level.FAIL]} FAIL, {num[Level.WARN]} WARN, {num[Level.OK]} OK"
    return f"{_paint(VERDICTS[level], COLOURS[level], colours)}: {counts}"


def _paint(text: str, code: str, colours: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colours else text
