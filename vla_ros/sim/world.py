"""The simulated table: a five-joint arm with a gripper, three coloured blocks, two cameras."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

os.environ.setdefault("MUJOCO_GL", "egl")
import mujoco  # noqa: E402  (the rendering backend is chosen when mujoco is imported)

from vla_ros.sim import kinematics as arm  # noqa: E402
from vla_ros.sim.scene import BLOCK_SIZE_M, COLORS, Scene  # noqa: E402

CAMERAS = ("front", "top")
CONTROL_DT_S = 0.01
MARK_RADIUS_M, MARK_COLOR = 0.055, (1.0, 0.85, 0.1, 1.0)
MODEL_PATH = Path(__file__).with_name("tabletop.xml")


class TabletopWorld:
    """One MuJoCo world. ``render`` belongs to the thread that first called it (an EGL context does)."""

    joint_names = arm.JOINT_NAMES
    control_dt_s = CONTROL_DT_S

    def __init__(self, image_width: int = 128, image_height: int = 128) -> None:
        self._size = (image_height, image_width)
        self._model = mujoco.MjModel.from_xml_path(str(MODEL_PATH))
        self._data = mujoco.MjData(self._model)
        self._qpos = [int(self._model.joint(name).qposadr[0]) for name in self.joint_names]
        self._qvel = [int(self._model.joint(name).dofadr[0]) for name in self.joint_names]
        self._tip = self._model.site("tip").id
        self._blocks = {color: self._model.body(color).id for color in COLORS}
        self._renderers: dict[tuple[int, int], mujoco.Renderer] = {}

    def reset(self, scene: Scene) -> None:
        """Put the arm and the blocks where ``scene`` has them, at rest, at time 0."""
        mujoco.mj_resetData(self._model, self._data)
        start = np.asarray(scene.start_joint_positions, dtype=np.float64)
        self._data.qpos[self._qpos] = start
        self._data.qpos[self._model.joint("right_finger").qposadr[0]] = start[-1]
        self._data.ctrl[:] = start
        for block in scene.blocks:
            at = int(self._model.joint(block.color).qposadr[0])
            half_yaw = block.yaw_rad / 2
            self._data.qpos[at : at + 7] = [
                block.x_m, block.y_m, BLOCK_SIZE_M / 2, np.cos(half_yaw), 0.0, 0.0, np.sin(half_yaw),
            ]  # fmt: skip
        mujoco.mj_forward(self._model, self._data)

    def move_camera(self, camera: str, by_m: tuple[float, float, float]) -> None:
        """Somebody has knocked against one of the model's cameras: it stands ``by_m`` from where it was."""
        self._model.camera(camera).pos += by_m

    def step(self, joint_targets: np.ndarray) -> None:
        """Advance by ``control_dt_s`` with the joints' servos aimed at ``joint_targets`` ``[6]`` rad."""
        self._data.ctrl[:] = joint_targets
        mujoco.mj_step(self._model, self._data, nstep=round(CONTROL_DT_S / self._model.opt.timestep))

    @property
    def time_s(self) -> float:
        return float(self._data.time)

    @property
    def joint_positions(self) -> np.ndarray:
        return self._data.qpos[self._qpos].copy()

    @property
    def joint_velocities(self) -> np.ndarray:
        return self._data.qvel[self._qvel].copy()

    @property
    def tip_position(self) -> np.ndarray:
        """Where the tool tip is, ``[3]`` in m."""
        return self._data.site_xpos[self._tip].copy()

    def block_top(self, color: str) -> np.ndarray:
        """Centre of a block's top face where the block is now, ``[3]`` in m."""
        return self._data.xpos[self._blocks[color]] + [0.0, 0.0, BLOCK_SIZE_M / 2]

    def render(self, camera: str, size: tuple[int, int] | None = None, marked: str = "") -> np.ndarray:
        """What one of the model's cameras sees now: RGB uint8 ``[height, width, 3]``, of the world's image size unless
        another is given. The block ``marked`` lies on a yellow disc, which is in this picture alone."""
        size = size or self._size
        if size not in self._renderers:
            self._model.vis.global_.offheight, self._model.vis.global_.offwidth = size
            self._renderers[size] = mujoco.Renderer(self._model, *size)
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                self._renderers[size].scene.flags[flag] = False
        self._renderers[size].update_scene(self._data, camera=camera)
        if marked:
            self._mark(self._renderers[size].scene, marked)
        return self._renderers[size].render()

    def _mark(self, drawn: mujoco.MjvScene, color: str) -> None:
        place = self.block_top(color) * [1.0, 1.0, 0.0]
        size, upright = np.array([MARK_RADIUS_M, 0.001, 0.0]), np.eye(3).ravel()
        kind, rgba = mujoco.mjtGeom.mjGEOM_CYLINDER, np.array(MARK_COLOR, np.float32)
        mujoco.mjv_initGeom(drawn.geoms[drawn.ngeom], kind, size, place, upright, rgba)
        drawn.ngeom += 1

    def close(self) -> None:
        """Free the rendering contexts."""
        while self._renderers:
            self._renderers.popitem()[1].close()
