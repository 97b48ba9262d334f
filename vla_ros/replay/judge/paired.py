"""Two policies on the same bags: by how much their errors differ, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vla_ros.recordings.series import mean_of_known, ratio
from vla_ros.replay.records import COMMANDED, MEASURED, Replay, by_observation, chunks_of

NUM_RESAMPLES = 2000
SEED = 0
MIN_EPISODES = 2
OVERALL = "mae"


@dataclass(frozen=True)
class PairedDifference:
    """How much larger the mean error of policy ``b`` is than that of ``a``, over the chunks that both made.

    ``quantity`` is ``mae``, a fraction of the joints' ranges, or ``mae.JOINT`` in the joint's unit, both against what
    the robot was commanded; ``measured_mae`` and ``measured_mae.JOINT`` are against where it went. ``difference`` is
    ``b_mean - a_mean``, ``low`` to ``high`` its 95 % interval by resampling episodes: NaN where there is only one.
    """

    a: str
    b: str
    quantity: str
    a_mean: float
    b_mean: float
    difference: float
    low: float
    high: float
    num_episodes: int

    @property
    def joint(self) -> str:
        """Empty where it is over all joints."""
        return self.quantity.partition(".")[2]

    @property
    def is_measured(self) -> bool:
        """Whether errors are against where the robot went, not what it was commanded."""
        return self.quantity.startswith("measured")

    @property
    def scale(self) -> float:
        """From the numbers to what is shown: percent of the joints' ranges, or a joint's own unit."""
        return 1.0 if self.joint else 100.0


@dataclass(frozen=True)
class _Pair:
    """``errors`` [2, 1 + num_joints] of both policies for one observation, overall and by joint, and the episode it is
    of; NaN where not known."""

    episode: tuple[str, int]
    errors: np.ndarray


def paired_differences(a: Sequence[Replay], b: Sequence[Replay], driver: str = "any") -> tuple[PairedDifference, ...]:
    """The differences of all quantities that are known for both policies, overall before joints.

    Chunks are paired by bag and observation and compared where both have an action due. Raises ValueError where no two
    chunks belong together.
    """
    if a[0].joint_names != b[0].joint_names:
        got = f"'{a[0].policy}' has joints {', '.join(a[0].joint_names)}, '{b[0].policy}' {', '.join(b[0].joint_names)}"
        raise ValueError(f"{got}; expected two policies of one robot")
    names = a[0].policy, b[0].policy
    found: list[PairedDifference] = []
    for quantity, target in ((OVERALL, COMMANDED), (f"measured_{OVERALL}", MEASURED)):
        pairs = list(_pairs(a, b, driver, target))
        if not pairs:
            raise ValueError(
                f"policies '{names[0]}' and '{names[1]}' have no chunk of the same observation with actions due at the "
                "same time; expected the same bags, the same --latency and chunks with common due times"
            )
        found += _differences(names, (quantity, *(f"{quantity}.{joint}" for joint in a[0].joint_names)), pairs)
    return tuple(found)


def _pairs(a: Sequence[Replay], b: Sequence[Replay], driver: str, target: str) -> Iterator[_Pair]:
    others = {replay.bag: by_observation(chunks_of(replay, driver)) for replay in b}
    for replay in a:
        other = others.get(replay.bag, {})
        for key, chunk in by_observation(chunks_of(replay, driver)).items():
            if key not in other:
                continue
            _, rows, other_rows = np.intersect1d(chunk.due_ns, other[key].due_ns, return_indices=True)
            if len(rows):
                both = np.stack([chunk.offset_from(target)[rows], other[key].offset_from(target)[other_rows]])
                by_joint = mean_of_known(np.abs(both), axis=1)
                overall = mean_of_known(by_joint / replay.joint_ranges, axis=1)
                yield _Pair((replay.bag, chunk.episode), np.column_stack([overall, by_joint]))


def _differences(
    names: tuple[str, str], quantities: Sequence[str], pairs: Sequence[_Pair]
) -> Iterator[PairedDifference]:
    """One for each of ``quantities``, which the pairs' columns are; none for a column without any pair."""
    episodes = {episode: i for i, episode in enumerate(sorted({pair.episode for pair in pairs}))}
    index = np.array([episodes[pair.episode] for pair in pairs])
    errors = np.stack([pair.errors for pair in pairs])
    for column, quantity in enumerate(quantities):
        is_known = np.isfinite(errors[:, :, column]).all(axis=1)
        if not is_known.any():
            continue
        first, second = errors[is_known, :, column].T
        counts = np.bincount(index[is_known], minlength=len(episodes))
        totals = np.bincount(index[is_known], weights=second - first, minlength=len(episodes))
        low, high = _interval(totals[counts > 0], counts[counts > 0])
        yield PairedDifference(
            a=names[0],
            b=names[1],
            quantity=quantity,
            a_mean=float(first.mean()),
            b_mean=float(second.mean()),
            difference=float((second - first).mean()),
            low=float(low),
            high=float(high),
            num_episodes=int((counts > 0).sum()),
        )


def _interval(totals: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The percentile bootstrap of ``sum(totals) / sum(counts)`` over episodes: chunks of one are not independent."""
    if len(totals) < MIN_EPISODES:
        return np.full(2, np.nan)
    chosen = np.random.default_rng(SEED).integers(len(totals), size=(NUM_RESAMPLES, len(totals)))
    means = ratio(totals[chosen].sum(axis=1), counts[chosen].sum(axis=1))
    return np.percentile(means, (2.5, 97.5))
