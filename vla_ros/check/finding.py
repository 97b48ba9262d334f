"""One finding of a check, and what all of them come to: a page of text, JSON."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partialmethod
from itertools import groupby
from typing import Any

from vla_ros.strict import one_line

WIDTH = 110


class Level(StrEnum):
    """``WARN`` works, but not as well as it should; ``FAIL`` does not work."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


VERDICTS = {Level.OK: "fits", Level.WARN: "fits, with warnings", Level.FAIL: "does not fit"}
COLOURS = {Level.OK: "32", Level.WARN: "33;1", Level.FAIL: "31;1"}


@dataclass(frozen=True)
class Finding:
    """``part`` is what was looked at (``camera front``), ``aspect`` which side of it; ``fix`` says where it can be
    fixed."""

    level: Level
    part: str
    aspect: str
    got: str
    expected: str = ""
    fix: str = ""

    @property
    def subject(self) -> str:
        return f"{self.part}: {self.aspect}"

    @property
    def remedy(self) -> tuple[str, str]:
        """What is said below it, where it isn't OK."""
        return ("", "") if self.level is Level.OK else (self.expected, self.fix)


class Part:
    """Collects the findings on one part."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.findings: list[Finding] = []

    def add(self, level: Level, aspect: str, got: str, expected: str = "", fix: str = "") -> None:
        """Where all is well there is nothing to ``fix``."""
        fix = "" if level is Level.OK else fix
        self.findings.append(Finding(level, self.name, aspect, one_line(got), expected, fix))

    ok = partialmethod(add, Level.OK)
    warn = partialmethod(add, Level.WARN)
    fail = partialmethod(add, Level.FAIL)

    def fails(self, *aspects: str) -> bool:
        """Whether one of these aspects has failed."""
        return any(finding.aspect in aspects for finding in self.findings if finding.level is Level.FAIL)


def is_good(findings: Sequence[Finding]) -> bool:
    """Whether nothing failed; warnings are allowed."""
    return all(finding.level is not Level.FAIL for finding in findings)


def to_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """For ``--json``."""
    names = ("level", "subject", "got", "expected", "fix")
    return {
        "ok": is_good(findings),
        "findings": [{name: getattr(finding, name) for name in names} for finding in findings],
    }


def page(title: str, findings: Sequence[Finding], *, width: int = WIDTH, colours: bool = False) -> str:
    """A heading for each part, a line for each finding; expectation and remedy below one that isn't OK, or below the
    last of several that have the same."""
    aspect_width = max((len(finding.aspect) for finding in findings), default=0)
    lines = [title]
    for part, of_part in groupby(findings, key=lambda finding: finding.part):
        lines += ["", _paint(part, "1", colours)]
        own = list(of_part)
        for finding, following in zip(own, [*own[1:], None], strict=True):
            lines += _lines(finding, aspect_width, width, colours, following)
    return "\n".join([*lines, "", _summary(findings, colours)])


def _lines(
    finding: Finding, aspect_width: int, width: int, colours: bool, following: Finding | None = None
) -> list[str]:
    level, indent = f"{finding.level.value:4}", " " * (2 + 4 + 2 + aspect_width + 2)

    def wrap(head: str, text: str) -> list[str]:
        indents = {"initial_indent": head, "subsequent_indent": " " * len(head)}
        return textwrap.wrap(text, max(width, len(indent) + 30), break_on_hyphens=False, **indents) or [head]

    first, *lines = wrap(f"  {level}  {finding.aspect:{aspect_width}}  ", finding.got)
    said_below = following is not None and finding.remedy == following.remedy
    if finding.level is not Level.OK and not said_below:
        for what, text in (("expected  ", finding.expected), ("fix       ", finding.fix)):
            lines += wrap(f"{indent}{what}", text) if text else []
    return [first.replace(level, _paint(level, COLOURS[finding.level], colours), 1), *lines]


def _summary(findings: Sequence[Finding], colours: bool) -> str:
    num = Counter(finding.level for finding in findings)
    level = next((level for level in (Level.FAIL, Level.WARN) if num[level]), Level.OK)
    counts = f"{num[Level.FAIL]} FAIL, {num[Level.WARN]} WARN, {num[Level.OK]} OK"
    return f"{_paint(VERDICTS[level], COLOURS[level], colours)}: {counts}"


def _paint(text: str, code: str, colours: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colours else text
