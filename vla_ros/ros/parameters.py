"""A node's parameters, each declared once as a field of a frozen dataclass: default, bounds, unit and description.
Nothing here needs ROS: launch files and tests read the same declarations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

KEY = "parameter"


@dataclass(frozen=True)
class Declared:
    """A number lies within ``low`` and ``high``, not at a ``low`` that ``is_open``; ``or_zero``: or it is 0. A text is
    one of ``choices`` where there are any. ``is_required``: the default cannot be used. ``is_fixed``: it takes effect
    at the start of the process only. ``in_launch``: launch files take it as an argument."""

    default: Any
    description: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    is_open: bool = False
    or_zero: bool = False
    choices: tuple[str, ...] = ()
    is_required: bool = False
    is_fixed: bool = False
    in_launch: bool = True

    @property
    def text(self) -> str:
        """The description with what is expected, for people."""
        bounds = f"{self.expected[0].upper()}{self.expected[1:]}."
        return self.description if self.low is None else f"{self.description} {bounds}"

    @property
    def expected(self) -> str:
        """What a value has to be."""
        if self.is_required:
            return "a value"
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.low is None or self.high is None:
            words: dict[type, str] = {bool: "true or false", str: "text", tuple: "a list of texts"}
            return words.get(type(self.default), "a number")
        span = f"above {self.low:g}, at most {self.high:g}" if self.is_open else f"{self.low:g} to {self.high:g}"
        return f"{'0 or ' if self.or_zero else ''}{span}{' ' * bool(self.unit)}{self.unit}"

    def is_met_by(self, value: Any) -> bool:
        """Whether ``value`` is of the default's type, one of the choices, and within the bounds."""
        if type(value) is not type(self.default) or (self.is_required and not value):
            return False
        if self.choices:
            return value in self.choices
        if self.low is None or self.high is None or (self.or_zero and value == 0):
            return True
        return self.low <= value <= self.high and not (self.is_open and value == self.low)


def parameter(default: Any, description: str, **options: Any) -> Any:
    """The field of one parameter; ``options`` are fields of ``Declared``."""
    return field(default=default, metadata={KEY: Declared(default, description, **options)})


def robot_parameter() -> Any:
    """The parameter ``robot`` of every node that has one."""
    return parameter("tabletop", "Robot file (path of a YAML), or the name of a packaged one.")


@dataclass(frozen=True)
class NodeParameters:
    """Base of a node's parameters. Raises ValueError, naming the parameter, for a value that cannot be used."""

    def __post_init__(self) -> None:
        for name, declared in declared_parameters(type(self)).items():
            value = getattr(self, name)
            # A number may be given without its decimal point, which ROS takes for another type.
            if isinstance(declared.default, float) and type(value) is int:
                value = float(value)
            if isinstance(declared.default, tuple):
                value = tuple(value)
            object.__setattr__(self, name, value)
            if not declared.is_met_by(value):
                got = f"'{value}'" if isinstance(value, str) else f"{value:g}" if type(value) is float else repr(value)
                raise ValueError(f"parameter {name} is {got}; expected {declared.expected}")


def declared_parameters(kind: type[NodeParameters]) -> Mapping[str, Declared]:
    """Every parameter of a node by its name."""
    return {item.name: item.metadata[KEY] for item in fields(kind)}
