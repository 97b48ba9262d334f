"""Success and failure of one touch episode, judged in the simulation from true positions."""

from __future__ import annotations

import numpy as np

from vla_ros.sim.scene import Scene
from vla_ros.sim.world import TabletopWorld

TOUCH_RADIUS_M = 0.025
TOUCH_TIME_S = 0.5
TIME_LIMIT_S = 8.0


class TouchEpisode:
    """Watches the tip: ``status`` is running, success, wrong_block or timeout.

    Success is ``TOUCH_TIME_S`` without a break within ``TOUCH_RADIUS_M`` of the named block's top; as long on another
    block first is ``wrong_block``.
    """

    def __init__(self, world: TabletopWorld, scene: Scene) -> None:
        self._world = world
        self._scene = scene
        self._start_s = world.time_s
        self._on_block = ""
        self._since_s = world.time_s
        self.status = "running"
        self.elapsed_s = 0.0

    def update(self) -> str:
        """Look once, after a simulation step; returns ``status``, which does not change once it is not running."""
        if self.status != "running":
            return self.status
        now_s = self._world.time_s
        self.elapsed_s = now_s - self._start_s
        touched = self._touched()
        if touched != self._on_block:
            self._on_block, self._since_s = touched, now_s
        if touched and now_s - self._since_s >= TOUCH_TIME_S - 1e-9:
            self.status = "success" if touched == self._scene.target_color else "wrong_block"
        elif self.elapsed_s >= TIME_LIMIT_S:
            self.status = "timeout"
        return self.status

    def _touched(self) -> str:
        tip = self._world.tip_position
        for block in self._scene.blocks:
            if np.linalg.norm(tip - self._world.block_top(block.color)) <= TOUCH_RADIUS_M:
                return block.color
        return ""
