"""The simulated table: a five-joint arm with a gripper, three coloured blocks, two cameras."""

from __future__ import annotations

import os
from pathlib import Path
from string import Template

import numpy as np

os.environ.setdefault("MUJOCO_GL", "egl")
import mujoco  # noqa: E402  (the rendering backend is chosen when mujoco is imported)

from vla_ros.sim import kinematics as arm  # noqa: E402
from vla_ros.sim.scene import BLOCK_SIZE_M, COLORS, Scene  # noqa: E402

CAMERAS = ("front", "top")
CONTROL_DT_S = 0.01
_SUBSTEPS = 2
_RGBA = {"red": "0.85 0.10 0.10 1", "green": "0.10 0.65 0.15 1", "blue": "0.12 0.25 0.90 1"}

MODEL = Template(Path(__file__).with_name("tabletop.xml").read_text())
BLOCK = Template(
    '<body name="$color" pos="0.3 0 $half"><freejoint name="$color"/><geom type="box" size="$half $half $half" '
    'mass="0.12" rgba="$rgba" friction="1 0.01 0.001"/></body>'
)


def _model_xml(image_width: int, image_height: int) -> str:
    half = BLOCK_SIZE_M / 2
    return MODEL.substitute(
        timestep_s=CONTROL_DT_S / _SUBSTEPS,
        width=image_width,
        height=image_height,
        shoulder_height=arm.SHOULDER_HEIGHT_M,
        upper_arm=arm.UPPER_ARM_M,
        forearm=arm.FOREARM_M,
        hand=arm.TOOL_M - 0.05,
        blocks="".join(BLOCK.substitute(color=color, rgba=_RGBA[color], half=half) for color in COLORS),
    )


class TabletopWorld:
    """One MuJoCo world. ``render`` belongs to the thread that first called it (an EGL context does)."""

    joint_names = arm.JOINT_NAMES
    control_dt_s = CONTROL_DT_S

    def __init__(self, image_width: int = 128, image_height: int = 128) -> None:
        self._size = (image_height, image_width)
        self._model = mujoco.MjModel.from_xml_string(_model_xml(image_width, image_height))
        self._data = mujoco.MjData(self._model)
        self._qpos = [int(self._model.joint(name).qposadr[0]) for name in self.joint_names]
        self._qvel = [int(self._model.joint(name).dofadr[0]) for name in self.joint_names]
        self._tip = self._model.site("tip").id
        self._blocks = {color: self._model.body(color).id for color in COLORS}
        self._renderer: mujoco.Renderer | None = None

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

    def step(self, joint_targets: np.ndarray) -> None:
        """Advance by ``control_dt_s`` with the joints' servos aimed at ``joint_targets`` ``[6]`` rad."""
        self._data.ctrl[:] = joint_targets
        mujoco.mj_step(self._model, self._data, nstep=_SUBSTEPS)

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

    def render(self, camera: str | mujoco.MjvCamera) -> np.ndarray:
        """What ``camera``, one of the model's by name or a free one, sees now: RGB uint8 ``[height, width, 3]``."""
        if self._renderer is None:
            self._renderer = mujoco.Renderer(self._model, *self._size)
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                self._renderer.scene.flags[flag] = False
        self._renderer.update_scene(self._data, camera=camera)
        return self._renderer.render()

    def close(self) -> None:
        """Free the rendering context."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
