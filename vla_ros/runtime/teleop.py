"""What the human wants: the newest teleop trajectory, and whether it takes the robot over."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from vla_ros import topics
from vla_ros.observing.freshness import Fault
from vla_ros.robot import RobotConfig
from vla_ros.runtime.path import Path, Target
from vla_ros.runtime.watchdogs import silence_fault
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
    joint that isn't named. It came on ``topic``, and takes over where no joint is further than ``max_distance`` from
    it, and none from what came on the topics of its ``partners``: the leaders that are one device with it."""

    times_ns: tuple[int, ...]
    positions: np.ndarray
    topic: str = topics.TELEOP.name
    max_distance: float = math.inf
    partners: tuple[str, ...] = ()


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
    """Follows the newest trajectory of each device on one topic; after its last point, that point."""

    def __init__(self, settings: TeleopSettings, robot: RobotConfig, period_ns: int) -> None:
        """``period_ns`` is how far ahead of their tick targets are asked for."""
        self._period_ns = period_ns
        self._settings = settings
        self._robot = robot
        self._hands: dict[bytes, _Hand] = {}
        self._topics: tuple[str, ...] = ()
        self._rest: np.ndarray | None = None
        self._references: dict[str, np.ndarray] = {}
        self._heard_ns = 0
        self._newest: dict[str, tuple[int, TeleopTrajectory]] = {}

    def hear(self, trajectory: TeleopTrajectory, now_ns: int) -> str:
        """A trajectory has come. Returns why it cannot be followed, in one line; empty where it can."""
        self._newest[trajectory.topic] = now_ns, trajectory
        last_ns = trajectory.times_ns[-1]
        if now_ns - last_ns > self._settings.timeout_s * NS_PER_S:
            return f"trajectory ended {(now_ns - last_ns) / NS_PER_S:.2f} s ago; expected one for now: check its stamp"
        return ""

    def takes_over(self, trajectory: TeleopTrajectory) -> bool:
        """Whether a trajectory asks for the robot by itself."""
        if self._settings.takeover != "motion":
            return self._settings.takeover == "message"
        first = trajectory.positions[0]
        known = self._references.get(trajectory.topic, first)
        self._references[trajectory.topic] = reference = np.where(np.isnan(known), first, known)
        # NaN, a joint that is not named, is never above the threshold.
        return bool((np.abs(trajectory.positions - reference) > self._settings.threshold_rad).any())

    def distance(self, trajectory: TeleopTrajectory, positions: np.ndarray | None, now_ns: int) -> str:
        """The joint that is furthest from ``positions`` ``[num_joints]``, commanded now, where that is too far to take
        over, or the leader that isn't heard; else empty."""
        if positions is None:
            return ""
        missing = self._missing(trajectory.partners, now_ns)
        if missing is not None:
            return missing.line
        device = (trajectory, *(self._newest[topic][1] for topic in trajectory.partners))
        return next(filter(None, (self._gap(led, positions) for led in device)), "")

    def _gap(self, trajectory: TeleopTrajectory, positions: np.ndarray) -> str:
        gaps = np.where(self._robot.is_driven, np.nan_to_num(np.abs(trajectory.positions[0] - positions)), 0.0)
        joint = int(gaps.argmax())
        if gaps[joint] <= trajectory.max_distance:
            return ""
        return (
            f"the hand on '{trajectory.topic}' is {gaps[joint]:.2f} from the robot at joint "
            f"'{self._robot.joint_names[joint]}'; expected at most {trajectory.max_distance:g} (teleop.max_distance in "
            "the robot file): bring them together"
        )

    def waits(self, positions: np.ndarray | None, now_ns: int) -> str:
        """Which hand that is heard now is too far from ``positions`` ``[num_joints]`` to be followed from now on; empty
        where none is, or one is followed."""
        since_ns = now_ns - round(self._settings.timeout_s * NS_PER_S)
        heard = [trajectory for heard_ns, trajectory in self._newest.values() if heard_ns >= since_ns]
        far = [self.distance(trajectory, positions, now_ns) for trajectory in heard if self._rest is None]
        return far[0] if far and all(far) else ""

    def follow(self, trajectory: TeleopTrajectory, start_positions: np.ndarray, now_ns: int) -> str:
        """From ``start_positions`` ``[num_joints]``, aimed at for ``now_ns``, through what still lies ahead.

        A joint that the trajectory doesn't name goes on to where it was sent before, or stays: an arm and its gripper
        may be led by two devices. Whoever is followed first is followed until it is silent: what comes on another topic
        waits. Returns why a device is not followed yet, in one line.
        """
        if self._topics and trajectory.topic not in self._topics:
            return ""
        self._heard_ns = now_ns
        named = ~np.isnan(trajectory.positions[-1])
        hand = self._hands.get(named.tobytes())
        if hand is None:
            far = self.distance(trajectory, start_positions, now_ns)
            if far:
                return far
            hand = _Hand(named, self._period_ns)
        self._topics = (trajectory.topic, *trajectory.partners)
        hand.follow(trajectory, start_positions, now_ns)
        self._hands.pop(named.tobytes(), None)
        self._hands[named.tobytes()] = hand  # the last one: of two that name a joint the newer is followed
        if len(self._hands) > MAX_HANDS:
            del self._hands[next(iter(self._hands))]
        self._rest = start_positions.copy() if self._rest is None else self._rest
        self._rest[named] = trajectory.positions[-1][named]
        return ""

    def start(self, now_ns: int) -> None:
        """A human has the robot from now on, and is to be heard within the time limit."""
        self._forget()
        self._heard_ns = now_ns

    def stop(self) -> None:
        """The human has given the robot away: a motion counts from where the hand is next."""
        self._forget()
        self._references.clear()

    def silence(self, now_ns: int) -> Fault | None:
        """A human who has the robot and hasn't been heard for too long, or one of their leaders."""
        topic = self._topics[0] if self._topics else self._robot.teleop[0].topic or topics.TELEOP.name
        fault = silence_fault(topic, (now_ns - self._heard_ns) / NS_PER_S, self._settings.timeout_s)
        return fault or (self._missing(self._topics, now_ns) if len(self._topics) > 1 else None)

    def _missing(self, partners: tuple[str, ...], now_ns: int) -> Fault | None:
        """The first of several leaders that isn't heard."""
        for topic in partners:
            if topic not in self._newest:
                return Fault("teleop", f"nothing has come on '{topic}', of a leader that is one device with the others")
            silence_s = (now_ns - self._newest[topic][0]) / NS_PER_S
            if fault := silence_fault(topic, silence_s, self._settings.timeout_s):
                return fault
        return None

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
        self._topics, self._rest = (), None
