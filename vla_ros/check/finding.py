"""One finding of a check, and what all of them come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """``WARN`` works, but not as well as it should; ``FAIL`` does not work."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Finding:
    """``part`` is what was looked at (``camera front``), ``aspect`` which side of it; ``mend`` says where."""

    level: Level
    part: str
    aspect: str
    got: str
    expected: str = ""
    mend: str = ""

    @property
    def subject(self) -> str:
        return f"{self.part}: {self.aspect}"


@dataclass(frozen=True)
class Part:
    """Makes the findings of one part."""

    name: str

    def ok(self, aspect: str, got: str, expected: str = "") -> Finding:
        return Finding(Level.OK, self.name, aspect, got, expected)

    def warn(self, aspect: str, got: str, expected: str, mend: str) -> Finding:
        return Finding(Level.WARN, self.name, aspect, got, expected, mend)

    def fail(self, aspect: str, got: str, expected: str, mend: str) -> Finding:
        return Finding(Level.FAIL, self.name, aspect, got, expected, mend)


def is_good(findings: Sequence[Finding]) -> bool:
    """Whether nothing failed; warnings are allowed."""
    return all(finding.level is not Level.FAIL for finding in findings)


def count(findings: Sequence[Finding], level: Level) -> int:
    return sum(finding.level is level for finding in findings)


def to_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """For ``--json``."""
    return {
        "ok": is_good(findings),
        "findings": [
            {
                "level": finding.level.value,
                "subject": finding.subject,
                "got": finding.got,
                "expected": finding.expected,
                "mend": finding.mend,
            }
            for finding in findings
        ],
    }
