"""What the human wants: the newest teleop trajectory, and whether it takes the robot over."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median

import numpy as np

from vla_ros.runtime.path import Path, Target
from vla_ros.units import NS_PER_S

TAKEOVERS = ("message", "motion", "request")
NUM_INTERVALS = 8
MAX_INTERVAL_NS = NS_PER_S // 4
"""Of messages further apart none is expected after the same time again."""
LOOK_AHEAD = 1.25
"""How far ahead the path to a message's end reaches, in usual intervals between messages: one that ended where the next
message is expected, or before, would have the arm stop for each. A leader who is heard about as often as commands go
out is followed without that."""


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

    def __init__(self, settings: TeleopSettings, period_ns: int) -> None:
        """``period_ns`` is how far ahead of their tick targets are asked for."""
        self._period_ns = period_ns
        self._settings = settings
        self._path: Path | None = None
        self._reference: np.ndarray | None = None
        self._heard_ns = 0
        self._followed_ns: int | None = None
        self._intervals_ns: deque[int] = deque(maxlen=NUM_INTERVALS)

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

        Its end is reached no sooner than the next trajectory may be late. A joint that the trajectory doesn't name goes
        on to where it was sent before, or stays: an arm and its gripper may be led by two devices.
        """
        elsewhere = start_positions if self._path is None else self._path.end
        positions = np.where(np.isnan(trajectory.positions), elsewhere, trajectory.positions)
        reach_ns = now_ns + self._look_ahead_ns(now_ns)
        self._heard_ns = self._followed_ns = now_ns
        ahead = [i for i, t in enumerate(trajectory.times_ns) if t > now_ns] or [-1]
        times_ns = [now_ns, *(trajectory.times_ns[i] for i in ahead)]
        times_ns[-1] = max(times_ns[-1], reach_ns)
        if times_ns[-1] == now_ns:
            self._path = Path([now_ns], positions[-1:])
        else:
            self._path = Path(times_ns, np.vstack((start_positions, positions[ahead])))

    def start(self, now_ns: int) -> None:
        """A human has the robot from now on, and is to be heard within the time limit."""
        self._path, self._heard_ns, self._followed_ns = None, now_ns, None

    def stop(self) -> None:
        """The human has given the robot away: a motion counts from where the hand is next."""
        self._path = self._reference = None

    def _look_ahead_ns(self, now_ns: int) -> int:
        """How long the path of a trajectory that comes now is to be at least; 0 where it may be as short as it is."""
        interval_ns = MAX_INTERVAL_NS if self._followed_ns is None else now_ns - self._followed_ns
        if interval_ns < MAX_INTERVAL_NS:
            self._intervals_ns.append(interval_ns)
        else:
            self._intervals_ns.clear()
        usual_ns = median(self._intervals_ns) if self._intervals_ns else 0
        return round(LOOK_AHEAD * usual_ns) + self._period_ns if usual_ns > LOOK_AHEAD * self._period_ns else 0

    def silence_s(self, now_ns: int) -> float:
        return (now_ns - self._heard_ns) / NS_PER_S

    def target(self, t_ns: int) -> Target | None:
        """The target at ``t_ns``; None before the first trajectory."""
        if self._path is None:
            return None
        return self._path.at(t_ns) or Target(self._path.end, np.zeros_like(self._path.end))
