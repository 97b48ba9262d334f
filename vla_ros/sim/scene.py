"""Random scenes for "touch the red block": where the blocks lie, where the arm starts, what the instruction says; how
topics ask for them and report them, in JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np

from vla_ros.sim import kinematics
from vla_ros.strict import explained, parse_config, parse_json

COLORS = ("red", "green", "blue")
BLOCK_SIZE_M = 0.05
WORKSPACE_M = ((0.22, 0.52), (-0.20, 0.20))
"""Block centres lie in this x and y range, base frame: 30 x 40 cm."""
MIN_BLOCK_DISTANCE_M = 0.08
MIN_START_DISTANCE_M = 0.15

TRAIN_PHRASES = (
    "touch the {} block",
    "touch the {} cube",
    "tap the {} block",
    "tap the {} cube",
    "reach for the {} block",
    "reach for the {} box",
    "go to the {} cube",
    "go to the {} box",
    "move to the {} block",
    "put the tip on the {} cube",
    "put the tip on the {} box",
    "please touch the {} box",
    "please tap the {} box",
    "can you reach the {} cube",
)
EVAL_PHRASES = (
    "tap the {} box",
    "move to the {} cube",
    "go to the {} block",
    "please reach for the {} cube",
    "can you touch the {} block",
)
"""Paraphrases that no demonstration uses."""


@dataclass(frozen=True)
class Block:
    """A cube of ``BLOCK_SIZE_M`` on the table: its colour, the centre in m, and its yaw in rad."""

    color: str
    x_m: float
    y_m: float
    yaw_rad: float

    @property
    def top(self) -> np.ndarray:
        """Centre of the top face, ``[3]`` in m."""
        return np.array([self.x_m, self.y_m, BLOCK_SIZE_M])


@dataclass(frozen=True)
class Scene:
    """One episode's start: blocks, arm, and the instruction that names ``target_color``."""

    seed: int
    blocks: tuple[Block, ...]
    start_joint_positions: np.ndarray
    target_color: str
    phrase: str

    @property
    def instruction(self) -> str:
        return self.phrase.format(self.target_color)

    @property
    def target(self) -> Block:
        return next(block for block in self.blocks if block.color == self.target_color)

    @property
    def blocks_json(self) -> str:
        """What ``sim/blocks`` says: the blocks' places on the table in m, for labels; no policy sees it."""
        return json.dumps({block.color: [round(block.x_m, 4), round(block.y_m, 4)] for block in self.blocks})

    def with_target(self, color: str) -> Scene:
        """The same scene, the instruction naming another block. Raises ValueError for a colour it does not hold."""
        if color not in [block.color for block in self.blocks]:
            raise ValueError(f"target '{color}'; this scene has {', '.join(b.color for b in self.blocks)}")
        return replace(self, target_color=color)


@dataclass(frozen=True)
class ResetRequest:
    """``sim/reset``: which evaluation scene to start; an instruction or a target block other than the scene's own, if
    given."""

    seed: int
    instruction: str | None = None
    target: str | None = None

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"sim/reset.seed is {self.seed}; expected a whole number of at least 0")


@dataclass(frozen=True)
class EpisodeStatus:
    """``sim/episode``: ``status`` is running, success, wrong_block or timeout; ``episode`` counts the resets."""

    seed: int
    instruction: str
    target: str
    status: str
    elapsed_s: float
    episode: int

    @property
    def is_success(self) -> bool:
        return self.status == "success"

    @property
    def outcome(self) -> str:
        """For people to read."""
        return self.status.replace("_", " ")


def parse_reset(text: str) -> ResetRequest:
    """A ``sim/reset`` message's JSON. Raises ValueError in one line for anything else."""
    with explained("sim/reset is not JSON (", after='); expected {"seed": 1}'):
        values = parse_json(text)
    return parse_config(ResetRequest, values, "sim/reset")


def sample_scene(seed: int, split: str = "eval", *, anywhere: bool = False) -> Scene:
    """The scene of ``seed``: the two splits never share one.

    ``anywhere`` drops the rule that the arm starts at least 15 cm from every block, and starts it low or close to a
    block as often as not: for demonstrations that show how to recover, never for episodes that are scored.
    """
    if split not in ("train", "eval"):
        raise ValueError(f"split '{split}'; expected train or eval")
    rng = np.random.default_rng([seed, 0 if split == "train" else 1])
    blocks = tuple(
        Block(color, x, y, rng.uniform(-np.pi / 4, np.pi / 4))
        for color, (x, y) in zip(COLORS, _centres(rng), strict=True)
    )
    target_color = COLORS[rng.integers(len(COLORS))]
    phrases = TRAIN_PHRASES if split == "train" else EVAL_PHRASES
    phrase = phrases[rng.integers(len(phrases))]
    start = _start_anywhere(rng, blocks) if anywhere else _start_clear(rng, blocks)
    return Scene(seed, blocks, start, target_color, phrase)


def _centres(rng: np.random.Generator) -> list[tuple[float, float]]:
    while True:
        x = rng.uniform(*WORKSPACE_M[0], len(COLORS))
        y = rng.uniform(*WORKSPACE_M[1], len(COLORS))
        apart = np.hypot(x[:, None] - x, y[:, None] - y)
        if apart[np.triu_indices(len(COLORS), 1)].min() >= MIN_BLOCK_DISTANCE_M:
            return list(zip(x.tolist(), y.tolist(), strict=True))


def _start_clear(rng: np.random.Generator, blocks: tuple[Block, ...]) -> np.ndarray:
    while True:
        tip = np.array([rng.uniform(0.20, 0.48), rng.uniform(-0.22, 0.22), rng.uniform(0.18, 0.34)])
        tip = kinematics.nearest_reachable(tip)
        if min(np.linalg.norm(tip - block.top) for block in blocks) >= MIN_START_DISTANCE_M:
            return kinematics.tool_down(tip, roll_rad=rng.uniform(-0.3, 0.3))


def _start_anywhere(rng: np.random.Generator, blocks: tuple[Block, ...]) -> np.ndarray:
    roll = rng.uniform(-0.3, 0.3)
    if rng.random() < 0.5:
        block = blocks[rng.integers(len(blocks))]
        tip = block.top + [*rng.normal(0.0, 0.03, 2), 0.01 + abs(rng.normal(0.0, 0.04))]
    else:
        tip = np.array([rng.uniform(0.18, 0.54), rng.uniform(-0.24, 0.24), rng.uniform(0.08, 0.32)])
    return kinematics.tool_down(kinematics.nearest_reachable(tip), roll_rad=roll)
