"""What the human wants: the newest teleop trajectory, and whether it takes the robot over."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from vla_ros.runtime.path import Path, Target
from vla_ros.units import NS_PER_S

TAKEOVERS = ("message", "motion", "request")
NUM_WAITS = 32
MAX_INTERVAL_NS = NS_PER_S // 4
"""Of messages further apart none is expected after the same time again."""
SPARE_SHARE = 0.5
"""Of how much the waits for messages vary: so much longer than the longest of them may the next one be."""
MAX_WARP = 0.02
"""By this share the robot may move faster or slower than the hand, to be less or farther behind it."""
MAX_HANDS = 8


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


class _Hand:
    """One device, by the joints ``named`` ``[num_joints]``, a mask: the path through its newest trajectory.

    A trajectory's end is put off by as long as the next one was waited for after it lately, at most, so that the path
    leads on until the next has come: from there to a constant speed, whatever the rate and the jitter.
    """

    def __init__(self, named: np.ndarray, period_ns: int) -> None:
        self.named = named
        self._period_ns = period_ns
        self._path: Path | None = None
        self._end_ns = self._heard_ns = self._delay_ns = 0
        self._waits_ns: deque[int] = deque(maxlen=NUM_WAITS)

    def follow(self, trajectory: TeleopTrajectory, start_positions: np.ndarray, now_ns: int) -> None:
        """From ``start_positions`` ``[num_joints]``, where it is the first one, through what still lies ahead."""
        self._wait(now_ns)
        times_ns = [*trajectory.times_ns[:-1], trajectory.times_ns[-1] + self._delay_ns]
        ahead = [i for i, t in enumerate(times_ns) if t > now_ns]
        positions = trajectory.positions[:, self.named]
        # From its own target: one that is computed from the command it leads to swings around it.
        start = start_positions[self.named] if self._path is None else self.target(now_ns).positions
        if ahead:
            points = np.vstack((start, positions[ahead]))
            self._path = Path([now_ns, *(times_ns[i] for i in ahead)], points)
        else:
            self._path = Path([now_ns], positions[-1:])
        self._end_ns, self._heard_ns = trajectory.times_ns[-1], now_ns

    def target(self, t_ns: int) -> Target:
        """The target of the named joints at ``t_ns``."""
        assert self._path is not None
        return self._path.at(t_ns) or Target(self._path.end, np.zeros_like(self._path.end))

    def _wait(self, now_ns: int) -> None:
        """A trajectory comes now: learn from it how long one is waited for."""
        elapsed_ns = now_ns - self._heard_ns
        if elapsed_ns > MAX_INTERVAL_NS:
            self._waits_ns.clear()
            self._delay_ns = 0
            return
        self._waits_ns.append(now_ns - self._end_ns + self._period_ns)
        longest_ns = max(self._waits_ns)
        wanted_ns = longest_ns + round(SPARE_SHARE * (longest_ns - min(self._waits_ns)))
        step_ns = round(MAX_WARP * elapsed_ns)
        warped_ns = min(max(wanted_ns, self._delay_ns - step_ns), self._delay_ns + step_ns)
        self._delay_ns = max(warped_ns, longest_ns, 0)


class Teleop:
    """Follows the newest trajectory of each device; after its last point, that point."""

    def __init__(self, settings: TeleopSettings, period_ns: int) -> None:
        """``period_ns`` is how far ahead of their tick targets are asked for."""
        self._period_ns = period_ns
        self._settings = settings
        self._hands: dict[bytes, _Hand] = {}
        self._rest: np.ndarray | None = None
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
        named = ~np.isnan(trajectory.positions[-1])
        hand = self._hands.pop(named.tobytes(), None) or _Hand(named, self._period_ns)
        hand.follow(trajectory, start_positions, now_ns)
        self._hands[named.tobytes()] = hand  # the last one: of two that name a joint the newer is followed
        if len(self._hands) > MAX_HANDS:
            del self._hands[next(iter(self._hands))]
        self._rest = start_positions.copy() if self._rest is None else self._rest
        self._rest[named] = trajectory.positions[-1][named]
        self._heard_ns = now_ns

    def start(self, now_ns: int) -> None:
        """A human has the robot from now on, and is to be heard within the time limit."""
        self._forget()
        self._heard_ns = now_ns

    def stop(self) -> None:
        """The human has given the robot away: a motion counts from where the hand is next."""
        self._forget()
        self._reference = None

    def silence_s(self, now_ns: int) -> float:
        return (now_ns - self._heard_ns) / NS_PER_S

    def target(self, t_ns: int) -> Target | None:
        """The target at ``t_ns``; None before the first trajectory."""
        if self._rest is None:
            return None
        target = Target(self._rest.copy(), np.zeros_like(self._rest))
        for hand in self._hands.values():
            led = hand.target(t_ns)
            target.positions[hand.named], target.velocities[hand.named] = led.positions, led.velocities
        return target

    def _forget(self) -> None:
        self._hands.clear()
        self._rest = None
