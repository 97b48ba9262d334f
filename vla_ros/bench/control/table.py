"""A table of what was measured and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Row:
    """One line; ``measured`` None where nothing could be, ``allowed`` None where it is only told; not ``is_valid``
    where it was not measured under the conditions it is promised for."""

    what: str
    measured: float | None
    allowed: float | None
    unit: str
    is_valid: bool = True

    @property
    def ok(self) -> bool | None:
        """None where nothing is promised; what could not be measured as it should be is not good."""
        if self.allowed is None:
            return None
        return self.is_valid and self.measured is not None and self.measured <= self.allowed * (1 + TOLERANCE)


def table(rows: Sequence[Row]) -> str:
    """The rows below a heading, in columns."""
    cells = [("what", "measured", "allowed", "", "")]
    words = {True: "ok", False: "FAIL", None: "-"}
    cells += [(row.what, _number(row.measured), _number(row.allowed), row.unit, words[row.ok]) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(_line(line, widths) for line in cells)


def rows_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows for ``--json``, in the table's order. Keys of each: ``what`` (its text; a row that belongs to the one
    above begins with two blanks), ``measured`` (null where nothing could be), ``allowed`` (the largest good value, null
    where it is only told), ``unit``, and ``ok`` (null where nothing is promised)."""
    return [
        {"what": row.what, "measured": _finite(row.measured), "allowed": row.allowed, "unit": row.unit, "ok": row.ok}
        for row in rows
    ]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    what, measured, allowed, unit, ok = cells
    numbers = f"{measured:>{widths[1]}}  {allowed:>{widths[2]}}"
    return f"{what:<{widths[0]}}  {numbers}  {unit:<{widths[3]}}  {ok}".rstrip()


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "never"
    return f"{value:.0f}" if value == round(value) and abs(value) < 1e6 else f"{value:.3g}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
