"""Which position the policy wants at a moment: action chunks laid out in time, by one of three strategies."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from vla_ros.runtime.path import Path, Target, blend, path_of, smooth_step
from vla_ros.types import ActionChunk
from vla_ros.units import NS_PER_S

ENSEMBLE_DECAY = 0.01
MAX_ENSEMBLE = 64


class Scheduler(Protocol):
    """Turns the chunks that arrive into a target for any moment."""

    def offer(self, chunk: ActionChunk, start_positions: np.ndarray, now_ns: int, num_late: int = 0) -> None:
        """Take a new chunk at ``now_ns``; ``start_positions`` ``[num_joints]`` is the command in force at its
        ``stamp_ns``, ``num_late`` how many actions later it came than was predicted."""

    def target(self, t_ns: int) -> Target | None:
        """The target at ``t_ns``; None where no chunk reaches that far."""

    def clear(self) -> None:
        """Forget every chunk."""


class LatestScheduler:
    """The newest chunk alone decides, from the moment it arrives."""

    def __init__(self) -> None:
        self._path: Path | None = None

    def offer(self, chunk: ActionChunk, start_positions: np.ndarray, now_ns: int, num_late: int = 0) -> None:
        self._path = path_of(chunk, start_positions)

    def target(self, t_ns: int) -> Target | None:
        return self._path.at(t_ns) if self._path is not None else None

    def clear(self) -> None:
        self._path = None


class EnsembleScheduler:
    """The mean of every chunk that reaches a moment, weights ``exp(-0.01 i)``, oldest first (Zhao et al., arXiv
    2304.13705, section IV). A chunk's weight grows from 0 over the time of one action when it comes, and falls to 0
    over that of its last, so that the mean is continuous."""

    def __init__(self) -> None:
        self._members: list[_Member] = []

    def offer(self, chunk: ActionChunk, start_positions: np.ndarray, now_ns: int, num_late: int = 0) -> None:
        fade_ns = round(chunk.chunk_dt_s * NS_PER_S)
        self._members = [member for member in self._members if member.path.last_ns >= now_ns][1 - MAX_ENSEMBLE :]
        self._members.append(_Member(path_of(chunk, start_positions), now_ns, fade_ns))

    def target(self, t_ns: int) -> Target | None:
        found = [(member, member.path.at(t_ns)) for member in self._members]
        reaching = [(member, target) for member, target in found if target is not None]
        if not reaching:
            return None
        weights, rates = np.array([member.weight(t_ns) for member, _ in reaching]).T
        if not weights.any():  # at the very first moment of the first chunk
            return reaching[-1][1]
        decay = np.exp(-ENSEMBLE_DECAY * np.arange(len(reaching)))
        weights, rates = weights * decay, rates * decay
        positions = np.stack([target.positions for _, target in reaching])
        velocities = np.stack([target.velocities for _, target in reaching])
        mean = weights @ positions / weights.sum()
        return Target(mean, (weights @ velocities + rates @ (positions - mean)) / weights.sum())

    def clear(self) -> None:
        self._members = []


class RealTimeScheduler:
    """Real-time chunking (Black et al., arXiv 2506.07339): a chunk was made to continue the one before it, so the
    newest decides; what is left of a difference is blended away over the time of one action, and of every action it was
    late."""

    def __init__(self) -> None:
        self._newest: _Blend | None = None

    def offer(self, chunk: ActionChunk, start_positions: np.ndarray, now_ns: int, num_late: int = 0) -> None:
        blend_s = chunk.chunk_dt_s * (1 + max(num_late, 0))
        if self._newest is not None:
            self._newest.forget_what_ended(now_ns)
        self._newest = _Blend(self._newest, path_of(chunk, start_positions), now_ns, blend_s)

    def target(self, t_ns: int) -> Target | None:
        return self._newest.at(t_ns) if self._newest is not None else None

    def clear(self) -> None:
        self._newest = None


STRATEGIES: dict[str, type[LatestScheduler] | type[EnsembleScheduler] | type[RealTimeScheduler]] = {
    "latest": LatestScheduler,
    "ensemble": EnsembleScheduler,
    "rtc": RealTimeScheduler,
}


class _Member:
    """One chunk of an ensemble."""

    def __init__(self, path: Path, since_ns: int, fade_ns: int) -> None:
        self.path = path
        self._since_ns = since_ns
        self._fade_s = fade_ns / NS_PER_S

    def weight(self, t_ns: int) -> tuple[float, float]:
        """Its share before the decay, and the share's derivative, 1/s."""
        rising, rising_rate = smooth_step((t_ns - self._since_ns) / NS_PER_S, self._fade_s)
        falling, falling_rate = smooth_step((self.path.last_ns - t_ns) / NS_PER_S, self._fade_s)
        return rising * falling, rising_rate * falling - rising * falling_rate


class _Blend:
    """A path that takes over smoothly from whatever was followed before it, which may be a blend itself."""

    def __init__(self, old: _Blend | None, new: Path, switch_ns: int, blend_s: float) -> None:
        self._old = old
        self._new = new
        self._switch_ns = switch_ns
        self._blend_s = blend_s

    def at(self, t_ns: int) -> Target | None:
        new = self._new.at(t_ns)
        elapsed_s = (t_ns - self._switch_ns) / NS_PER_S
        if new is None or self._old is None or elapsed_s >= self._blend_s:
            return new
        # Where the old one ends before the blend does, it stands still at its end meanwhile.
        end = self._old._new.end
        old = self._old.at(t_ns) or Target(end, np.zeros_like(end))
        return blend(old, new, *smooth_step(elapsed_s, self._blend_s))

    def forget_what_ended(self, now_ns: int) -> None:
        """Let go of what no later moment needs, or every chunk there ever was would hang on this one."""
        if self._old is not None and now_ns >= self._switch_ns + round(self._blend_s * NS_PER_S):
            self._old = None
        elif self._old is not None:
            self._old.forget_what_ended(now_ns)
