"""What the demo's policy is taught: demonstrations by the scripted expert, the words of its tokenizer, and where the
blocks are.

Besides its actions it learns to answer a question. The answer names every block and the cell of the table it lies in,
in random order, so that each colour word is followed by a place that only the images can tell. The same colour word in
an instruction then carries the place with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tqdm import tqdm

from vla_ros.policies.modules.vlm_bridge.qwen.processor import train_tokenizer
from vla_ros.robot import RobotConfig
from vla_ros.sim.demonstrations import DemonstrationConfig, write_demonstrations
from vla_ros.sim.scene import COLORS, EVAL_PHRASES, TRAIN_PHRASES
from vla_ros.strict import parse_config
from vla_ros.training.config import TrainConfig
from vla_ros.training.samples import Lesson
from vla_ros.transforms.sample import TextTarget

QUESTION = "where is each block?"


@dataclass(frozen=True)
class CellGrid:
    """The table in square cells of ``cell_m``, from the corner (``x_min_m``, ``y_min_m``), ``num_x`` by ``num_y``."""

    cell_m: float = 0.03
    x_min_m: float = 0.19
    y_min_m: float = -0.24
    num_x: int = 12
    num_y: int = 16

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


@dataclass(frozen=True)
class TouchLesson(Lesson):
    """The lesson of models/tiny_touch; without ``demonstrations`` the bags are there already."""

    demonstrations: DemonstrationConfig | None
    grid: CellGrid = CellGrid()

    def prepare(self, folder: Path, robot: RobotConfig, num_workers: int, report: Callable[[str], None]) -> None:
        if self.demonstrations is None:
            return
        report(f"demonstrations: {self.demonstrations.num_episodes} episodes into {folder}")
        written = write_demonstrations(folder, robot, self.demonstrations, num_workers)
        list(tqdm(written, total=self.demonstrations.num_bags, unit="bag", dynamic_ncols=True))

    def make_tokenizer(self, tasks: Iterable[str], vocab_size: int) -> Tokenizer:
        """Of the instructions in the bags, the simulated task's phrases, and the location tokens."""
        phrases = [phrase.format(color) for phrase in TRAIN_PHRASES + EVAL_PHRASES for color in COLORS]
        cells = [location_token(cell) for cell in range(self.grid.num_x * self.grid.num_y)]
        return train_tokenizer(sorted(set(tasks)) + phrases + [QUESTION], vocab_size, cells)

    def ask(self, scene: Mapping[str, tuple[float, float]], rng: np.random.Generator) -> TextTarget:
        return TextTarget(QUESTION, answer(scene, self.grid, rng))


def lesson_of(config: TrainConfig) -> Lesson | None:
    """The lesson that ``config`` names. Raises ValueError for one that doesn't exist."""
    if config.lesson is None:
        return None
    if config.lesson.name != "touch":
        raise ValueError(f"lesson.name is '{config.lesson.name}'; expected touch, the only one that there is")
    wanted = config.lesson.demonstrations
    return TouchLesson(None if wanted is None else parse_config(DemonstrationConfig, wanted, "lesson.demonstrations"))
