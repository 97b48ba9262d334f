"""Two policies on the same bags: by how much their errors differ, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vla_ros.recordings.series import mean_of_known, ratio
from vla_ros.replay.records import COMMANDED, MEASURED, Replay, by_observation, chunks_of

NUM_RESAMPLES, RESAMPLES_AT_ONCE = 2000, 100
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


class _Episode:
    """Errors of both policies, overall and by joint, summed over the observations for which both are known: ``sums``
    ``[2, 1 + num_joints]`` of ``counts`` ``[1 + num_joints]``."""

    def __init__(self, num_joints: int) -> None:
        self.sums = np.zeros((2, 1 + num_joints))
        self.counts = np.zeros(1 + num_joints, np.int64)

    def add(self, errors: np.ndarray) -> None:
        """Of one observation; NaN where not known."""
        is_known = np.isfinite(errors).all(axis=0)
        self.sums += np.where(is_known, errors, 0.0)
        self.counts += is_known


def paired_differences(a: Sequence[Replay], b: Sequence[Replay], driver: str = "any") -> tuple[PairedDifference, ...]:
    """The differences of all quantities that are known for both policies, overall before joints.

    Both have the same bags in the same order, of which one is looked at at a time. Chunks are paired by observation and
    compared where both have an action due. Raises ValueError where no two chunks belong together.
    """
    if a[0].joint_names != b[0].joint_names:
        got = f"'{a[0].policy}' has joints {', '.join(a[0].joint_names)}, '{b[0].policy}' {', '.join(b[0].joint_names)}"
        raise ValueError(f"{got}; expected two policies of one robot")
    names, joint_names = (a[0].policy, b[0].policy), a[0].joint_names
    by_target: dict[str, dict[tuple[str, int], _Episode]] = {COMMANDED: {}, MEASURED: {}}
    for one, other in zip(a, b, strict=True):
        _add_bag(by_target, one, other, driver)
    if not by_target[COMMANDED]:
        raise ValueError(
            f"policies '{names[0]}' and '{names[1]}' have no chunk of the same observation with actions due at the "
            "same time; expected the same bags, the same --latency and chunks with common due times"
        )
    found: list[PairedDifference] = []
    for quantity, target in ((OVERALL, COMMANDED), (f"measured_{OVERALL}", MEASURED)):
        quantities = (quantity, *(f"{quantity}.{joint}" for joint in joint_names))
        found += _differences(names, quantities, by_target[target])
    return tuple(found)


def _add_bag(by_target: dict[str, dict[tuple[str, int], _Episode]], a: Replay, b: Replay, driver: str) -> None:
    if a.bag != b.bag:
        return
    others = by_observation(chunks_of(b, driver))
    for key, chunk in by_observation(chunks_of(a, driver)).items():
        if key not in others:
            continue
        _, rows, other_rows = np.intersect1d(chunk.due_ns, others[key].due_ns, return_indices=True)
        if not len(rows):
            continue
        for target, episodes in by_target.items():
            both = np.stack([chunk.offset_from(target)[rows], others[key].offset_from(target)[other_rows]])
            by_joint = mean_of_known(np.abs(both), axis=1)
            overall = mean_of_known(by_joint / a.joint_ranges, axis=1)
            episode = episodes.setdefault((a.bag, chunk.episode), _Episode(len(a.joint_names)))
            episode.add(np.column_stack([overall, by_joint]))


def _differences(
    names: tuple[str, str], quantities: Sequence[str], episodes: Mapping[tuple[str, int], _Episode]
) -> Iterator[PairedDifference]:
    """One for each of ``quantities``, which the errors' columns are; none for a column without any pair."""
    in_order = [episodes[key] for key in sorted(episodes)]
    all_sums, all_counts = (np.stack([getattr(one, name) for one in in_order]) for name in ("sums", "counts"))
    for column, quantity in enumerate(quantities):
        is_known = all_counts[:, column] > 0
        if not is_known.any():
            continue
        counts, (first, second) = all_counts[is_known, column], all_sums[is_known, :, column].T
        low, high = _interval(second - first, counts)
        yield PairedDifference(
            a=names[0],
            b=names[1],
            quantity=quantity,
            a_mean=float(first.sum() / counts.sum()),
            b_mean=float(second.sum() / counts.sum()),
            difference=float((second - first).sum() / counts.sum()),
            low=float(low),
            high=float(high),
            num_episodes=len(counts),
        )


def _interval(totals: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The percentile bootstrap of ``sum(totals) / sum(counts)`` over episodes: chunks of one are not independent."""
    if len(totals) < MIN_EPISODES:
        return np.full(2, np.nan)
    random, means = np.random.default_rng(SEED), []
    for _ in range(0, NUM_RESAMPLES, RESAMPLES_AT_ONCE):  # all at once they are 2000 times all episodes
        chosen = random.integers(len(totals), size=(RESAMPLES_AT_ONCE, len(totals)))
        means.append(ratio(totals[chosen].sum(axis=1), counts[chosen].sum(axis=1)))
    return np.percentile(np.concatenate(means), (2.5, 97.5))
