"""Where is what: the question and answer that teach the backbone to find the blocks before it moves an arm to one.

The answer names every block and the cell of the table it lies in, in random order, so that each colour word is followed
by a place that only the images can tell. The same colour word in an instruction then carries the place with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

QUESTION = "where is each block?"


@dataclass(frozen=True)
class CellGrid:
    """The table in square cells of ``cell_m``, from the corner (``x_min_m``, ``y_min_m``), ``num_x`` by ``num_y``."""

    cell_m: float = 0.03
    x_min_m: float = 0.19
    y_min_m: float = -0.24
    num_x: int = 12
    num_y: int = 16

    @property
    def num_cells(self) -> int:
        return self.num_x * self.num_y

    def token(self, x_m: float, y_m: float) -> str:
        """The location token of the cell that holds the point, the nearest cell for a point outside."""
        column = int(np.clip((x_m - self.x_min_m) // self.cell_m, 0, self.num_x - 1))
        row = int(np.clip((y_m - self.y_min_m) // self.cell_m, 0, self.num_y - 1))
        return location_token(column * self.num_y + row)


def location_token(cell: int) -> str:
    """The special token that stands for one cell."""
    return f"<loc{cell:03d}>"


def answer(blocks: Mapping[str, tuple[float, float]], grid: CellGrid, rng: np.random.Generator) -> str:
    """Every colour followed by its cell, in random order; ``blocks`` holds centres in m."""
    colors = list(blocks)
    rng.shuffle(colors)
    return "".join(f" {color}{grid.token(*blocks[color])}" for color in colors)
