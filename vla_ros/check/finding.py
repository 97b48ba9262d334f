"""One finding of a check, and what all of them come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from vla_ros.strict import one_line


class Level(StrEnum):
    """``WARN`` works, but not as well as it should; ``FAIL`` does not work."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


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


class Part:
    """Collects the findings on one part."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.findings: list[Finding] = []

    def ok(self, aspect: str, got: str, expected: str = "") -> None:
        self.findings.append(Finding(Level.OK, self.name, aspect, one_line(got), expected))

    def warn(self, aspect: str, got: str, expected: str, fix: str) -> None:
        self.findings.append(Finding(Level.WARN, self.name, aspect, one_line(got), expected, fix))

    def fail(self, aspect: str, got: str, expected: str, fix: str) -> None:
        self.findings.append(Finding(Level.FAIL, self.name, aspect, one_line(got), expected, fix))

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
