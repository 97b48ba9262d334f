"""How often recordings are drawn: ``PATH`` or ``PATH@WEIGHT``, a bag's or a data set's alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vla_ros.bags.files import find_bags


@dataclass(frozen=True)
class Weighted:
    """A sample of the recordings at ``path`` is drawn ``weight`` times as often as one of others."""

    path: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"the weight of {self.path} is {self.weight:g}; expected at least 0")

    def __str__(self) -> str:
        return self.path if self.weight == 1 else f"{self.path}@{self.weight:g}"

    @classmethod
    def parse(cls, text: str) -> Weighted:
        """What lies at a path with an ``@`` in it is that. Raises ValueError for a weight that is no number."""
        path, at, weight = text.rpartition("@")
        if not at or Path(text).expanduser().exists():
            return cls(text)
        try:
            return cls(path, float(weight))
        except ValueError as error:
            if "the weight of" in str(error):
                raise
            raise ValueError(f"{text}: the weight is '{weight}'; expected a number, as in {path}@0.5") from error

    def at(self, place: Callable[[str], str]) -> Weighted:
        """The same at another path."""
        return Weighted(place(self.path), self.weight)


def paths_of(places: Sequence[str]) -> tuple[Path, ...]:
    """Where they are, whatever they weigh. Raises ValueError as ``Weighted.parse``."""
    return tuple(Path(Weighted.parse(text).path) for text in places)


def bag_weights(places: Sequence[str]) -> Mapping[Path, float]:
    """The weight of each bag in ``places``, bags and folders of them. Raises ValueError for a bag with two weights."""
    weights: dict[Path, float] = {}
    for place in map(Weighted.parse, places):
        for bag in find_bags(Path(place.path)).bags:
            weight = weights.setdefault(bag.resolve(), place.weight)
            if weight != place.weight:
                raise ValueError(f"bag {bag} has weight {weight:g} and {place.weight:g}; expected one: name it once")
    return weights
