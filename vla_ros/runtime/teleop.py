"""What the human wants: the newest teleop trajectory, and whether it takes the robot over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_ros.runtime.path import Path, Target
from vla_ros.units import NS_PER_S

TAKEOVERS = ("message", "motion", "request")


@dataclass(frozen=True)
class TeleopSettings:
    """``takeover`` says what takes the robot over: any ``message``, a ``motion`` of some joint by ``threshold_rad``
    since the human last gave it away, or a ``request`` alone (the service, a button). Silence for ``timeout_s`` ends
    TELEOP."""

    takeover: str = "message"
    threshold_rad: float = 0.02
    timeout_s: float = 0.5


@dataclass(frozen=True)
class TeleopTrajectory:
    """Set points ``positions`` ``[num_points, num_joints]`` at ``times_ns`` on the steady clock, increasing; NaN for a
    joint that isn't named."""

    times_ns: tuple[int, ...]
    positions: np.ndarray


class Teleop:
    """Follows the newest trajectory; after its last point, that point."""

    def __init__(self, settings: TeleopSettings) -> None:
        self._settings = settings
        self._path: Path | None = None
        self._reference: np.ndarray | None = None
        self._heard_ns = 0

    def refusal(self, trajectory: TeleopTrajectory, now_ns: int) -> str:
        """Why a trajectory cannot be followed, in one line; empty where it can."""
        last_ns = trajectory.times_ns[-1]
        if now_ns - last_ns > self._settings.timeout_s * NS_PER_S:
            return f"trajectory ended {(now_ns - last_ns) / NS_PER_S:.2f} s ago; expected one for now: check its stamp"
        return ""

    def takes_over(self, trajectory: TeleopTrajectory) -> bool:
        """Whether a trajectory asks for the robot by itself."""
        if self._settings.takeover != "motion":
            return self._settings.takeover == "message"
        first = trajectory.positions[0]
        known = first if self._reference is None else self._reference
        self._reference = np.where(np.isnan(known), first, known)
        # NaN, a joint that is not named, is never above the threshold.
        return bool((np.abs(trajectory.positions - self._reference) > self._settings.threshold_rad).any())

    def follow(self, trajectory: TeleopTrajectory, start_positions: np.ndarray, now_ns: int) -> None:
        """From ``start_positions`` ``[num_joints]``, aimed at for ``now_ns``, through what still lies ahead.

        A joint that the trajectory doesn't name goes on to where it was sent before, or stays: an arm and its gripper
        may be led by two devices.
        """
        ahead = [i for i, t in enumerate(trajectory.times_ns) if t > now_ns]
        elsewhere = start_positions if self._path is None else self._path.end
        positions = np.where(np.isnan(trajectory.positions), elsewhere, trajectory.positions)
        self._heard_ns = now_ns
        if not ahead:
            self._path = Path([now_ns], positions[-1:])
            return
        times_ns = [now_ns, *(trajectory.times_ns[i] for i in ahead)]
        self._path = Path(times_ns, np.vstack((start_positions, positions[ahead])))

    def start(self, now_ns: int) -> None:
        """A human has the robot from now on, and is to be heard within the time limit."""
        self._path, self._heard_ns = None, now_ns

    def stop(self) -> None:
        """The human has given the robot away: a motion counts from where the hand is next."""
        self._path = self._reference = None

    def silence_s(self, now_ns: int) -> float:
        return (now_ns - self._heard_ns) / NS_PER_S

    def target(self, t_ns: int) -> Target | None:
        """The target at ``t_ns``; None before the first trajectory."""
        if self._path is None:
            return None
        return self._path.at(t_ns) or Target(self._path.end, np.zeros_like(self._path.end))
