"""The simulated table: a five-joint arm with a gripper, three coloured blocks, two cameras."""

from __future__ import annotations

import os

import numpy as np

os.environ.setdefault("MUJOCO_GL", "egl")
import mujoco  # noqa: E402  (the rendering backend is chosen when mujoco is imported)

from vla_ros.sim import kinematics as arm  # noqa: E402
from vla_ros.sim.scene import BLOCK_SIZE_M, COLORS, Scene  # noqa: E402

CAMERAS = ("front", "top")
CONTROL_DT_S = 0.01
_SUBSTEPS = 2
_RGBA = {"red": "0.85 0.10 0.10 1", "green": "0.10 0.65 0.15 1", "blue": "0.12 0.25 0.90 1"}


def _model_xml(image_width: int, image_height: int) -> str:
    half = BLOCK_SIZE_M / 2
    blocks = "".join(
        f"""
    <body name="{color}" pos="0.3 0 {half}">
      <freejoint name="{color}"/>
      <geom type="box" size="{half} {half} {half}" mass="0.12" rgba="{_RGBA[color]}" friction="1 0.01 0.001"/>
    </body>"""
        for color in COLORS
    )
    return f"""
<mujoco model="tabletop">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{CONTROL_DT_S / _SUBSTEPS}" integrator="implicitfast"><flag sleep="enable"/></option>
  <visual>
    <global offwidth="{image_width}" offheight="{image_height}"/>
    <quality shadowsize="0" offsamples="0" numslices="14" numstacks="8" numquads="1"/>
    <headlight ambient="0.45 0.45 0.45" diffuse="0.45 0.45 0.45" specular="0 0 0"/>
  </visual>
  <default>
    <joint armature="0.05" damping="1.0"/>
    <position kp="150" kv="12"/>
    <default class="arm"><geom rgba="0.82 0.82 0.80 1" density="400" contype="0" conaffinity="0"/></default>
    <default class="tool"><geom rgba="0.20 0.20 0.22 1" density="400"/></default>
  </default>
  <worldbody>
    <light pos="0.4 -0.6 1.4" dir="0 0.4 -1" directional="true" castshadow="false" diffuse="0.35 0.35 0.35"
           specular="0 0 0"/>
    <geom name="floor" type="plane" size="3 3 0.1" pos="0 0 -0.4" rgba="0.42 0.45 0.48 1"/>
    <geom name="table" type="box" size="0.45 0.45 0.02" pos="0.30 0 -0.02" rgba="0.72 0.66 0.58 1"/>
    <camera name="front" pos="1.02 0 0.52" xyaxes="0 1 0 -0.55 0 0.83" fovy="36"/>
    <camera name="top" pos="0.62 0 0.92" xyaxes="0 1 0 -0.95 0 0.30" fovy="33"/>
    <body name="base" childclass="arm">
      <geom type="cylinder" size="0.06 0.04" pos="0 0 0.04"/>
      <body name="turret" pos="0 0 {arm.SHOULDER_HEIGHT_M}" gravcomp="1">
        <joint name="base_yaw" axis="0 0 1"/>
        <geom type="cylinder" size="0.045 0.04" pos="0 0 -0.04"/>
        <body name="upper_arm" gravcomp="1">
          <joint name="shoulder_pitch" axis="0 1 0"/>
          <geom type="capsule" size="0.028" fromto="0 0 0 0 0 {arm.UPPER_ARM_M}"/>
          <body name="forearm" pos="0 0 {arm.UPPER_ARM_M}" gravcomp="1">
            <joint name="elbow_pitch" axis="0 1 0"/>
            <geom type="capsule" size="0.023" fromto="0 0 0 0 0 {arm.FOREARM_M}"/>
            <body name="wrist" pos="0 0 {arm.FOREARM_M}" gravcomp="1">
              <joint name="wrist_pitch" axis="0 1 0"/>
              <geom type="capsule" size="0.020" fromto="0 0 0 0 0 0.05"/>
              <body name="hand" pos="0 0 0.05" gravcomp="1" childclass="tool">
                <joint name="wrist_roll" axis="0 0 1"/>
                <geom type="box" size="0.022 0.014 0.015" pos="0 0 0.015"/>
                <site name="tip" pos="0 0 {arm.TOOL_M - 0.05}" size="0.004"/>
                <body name="left_finger" pos="0.006 0 0.03" gravcomp="1">
                  <joint name="gripper" axis="0 1 0"/>
                  <geom type="box" size="0.005 0.008 0.040" pos="0 0 0.040"/>
                </body>
                <body name="right_finger" pos="-0.006 0 0.03" gravcomp="1">
                  <joint name="right_finger" axis="0 -1 0"/>
                  <geom type="box" size="0.005 0.008 0.040" pos="0 0 0.040"/>
                </body>
              </body>
            </body>
          </body>
        </body>
      </body>
    </body>{blocks}
  </worldbody>
  <contact><exclude body1="left_finger" body2="right_finger"/></contact>
  <equality><joint joint1="right_finger" joint2="gripper"/></equality>
  <actuator>
    {"".join(f'<position name="{name}" joint="{name}"/>' for name in arm.JOINT_NAMES[:4])}
    <position name="wrist_roll" joint="wrist_roll" kp="40" kv="3"/>
    <position name="gripper" joint="gripper" kp="20" kv="2"/>
  </actuator>
</mujoco>"""


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
