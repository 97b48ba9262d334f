"""What ``vla_ros replay`` prints: progress, and one table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tqdm import tqdm

from vla_ros.units import NS_PER_S

if TYPE_CHECKING:
    from vla_ros.replay.judge.verdict import Verdict
    from vla_ros.replay.run import Progress
    from vla_ros.replay.session import ReplaySession

MAX_LINES = 20


@contextmanager
def progress_bar(name: str) -> Iterator[Progress]:
    """A bar in seconds of the bag, with the time left where the bag says how long it is."""
    layout = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of the bag, {remaining} left"
    with tqdm(desc=name, unit="s", dynamic_ncols=True, disable=None) as bar:
        first_ns: int | None = None

        def show(now_ns: int, start_ns: int | None, end_ns: int | None) -> None:
            nonlocal first_ns
            if first_ns is None:
                first_ns = now_ns if start_ns is None else start_ns
                if end_ns is not None:
                    bar.total, bar.bar_format = (end_ns - first_ns) / NS_PER_S, layout
            bar.update(max(0.0, (now_ns - first_ns) / NS_PER_S - bar.n))

        yield show


def print_session(session: ReplaySession, verdict: Verdict) -> None:
    """Verdict first, then each policy's figures, then what was wrong with the bags."""
    print(f"\n{verdict.word.upper()}: {verdict.reasons[0]}")
    for reason in verdict.reasons[1 : 1 + MAX_LINES]:
        print(f"  {reason}")
    if len(verdict.reasons) > 1 + MAX_LINES:
        print(f"  ... and {len(verdict.reasons) - 1 - MAX_LINES} more, in the JSON")
    for summary in session.summaries:
        names, errors, commands = summary.joint_names, summary.commanded.by_joint, summary.command_mae
        print(f"\npolicy {summary.name}  {summary.digest[:12]}")
        print(f"  {summary.num_chunks} chunks of {len(summary.bags)} bags, {summary.num_episodes} episodes")
        print(f"  latency p50 {summary.latency_ms(50):.0f} ms, p99 {summary.latency_ms(99):.0f} ms")
        counts = [summary.num_incidents[kind] for kind in ("limit", "watchdog", "processor")]
        print("  {} commands bounded by limits, {} stops by watchdogs, {} refusals".format(*counts))
        print(f"  {'mean error':<18}{'chunk':>10}{'of range':>10}{'command':>10}")
        for row in zip(names, errors, summary.commanded.by_joint_fraction, commands, strict=True):
            print("  {:<18}{:10.4f}{:9.2%} {:10.4f}".format(*row))
    problems = [*session.unused, *(line for replay in session.replays[0] for line in replay.problems)]
    for line in problems[:MAX_LINES]:
        print(f"  bag: {line}")
    print(f"\nreplayed in {session.seconds:.1f} s")
