"""One thing that is not as in the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BAG, SETTING, INPUT, BEHAVIOUR, FILE = "bag", "setting", "input", "behaviour", "file"
_HEADLINES = {
    BAG: "the bags are not the baseline's",
    SETTING: "settings or robot file are not the baseline's",
    INPUT: "what the policy sees changed (the processor, its files or a library)",
    BEHAVIOUR: "what the policy does changed",
    FILE: "files of the policy directory changed",
}
_RENEWAL = "if that is as it should be, renew the baseline: --update-baseline"


Value = float | str | None


@dataclass(frozen=True)
class Difference:
    """``what`` differs, of kind BAG, SETTING, INPUT, BEHAVIOUR or FILE.

    ``bag``, ``time_ns`` (``time_s`` since the bag's start) and ``joint`` say where, as far as it is anywhere;
    ``tolerance`` by how much numbers may differ.
    """

    kind: str
    what: str
    got: Value
    expected: Value
    bag: str = ""
    time_ns: int | None = None
    time_s: float | None = None
    joint: str = ""
    tolerance: float | None = None

    @property
    def line(self) -> str:
        """All of it in one line."""
        where = [f"bag '{self.bag}'"] if self.bag else []
        where += [f"at {self.time_s:.3f} s"] if self.time_s is not None else []
        where += [f"joint '{self.joint}'"] if self.joint else []
        allowed = "" if self.tolerance is None else f" (tolerance {self.tolerance:g})"
        place = f"{', '.join(where)}: " if where else ""
        return f"{self.kind}: {place}{self.what}: got {_text(self.got)}, expected {_text(self.expected)}{allowed}"


def headline(differences: Sequence[Difference]) -> str:
    """What kinds of differences there are, and what follows, in one line."""
    kinds = {difference.kind for difference in differences}
    said = "; ".join(text for kind, text in _HEADLINES.items() if kind in kinds)
    if kinds == {FILE}:
        said += ", but the policy sees and does the same"
    elif kinds <= {INPUT, BEHAVIOUR}:
        said += ", and the files of the policy directory are the same: look at the code, the libraries and the device"
    return f"{said}; {_RENEWAL}"


def _text(value: Value) -> str:
    if value is None:
        return "nothing"
    return f"{value:.9g}" if isinstance(value, float) else str(value)
