"""What ``vla_ros replay`` prints: progress, and one table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from vla_ros.replay.run import Progress
    from vla_ros.replay.session import Session
    from vla_ros.replay.comparison.verdict import Verdict

NS_PER_S = 1e9
MAX_LINES = 20


def progress_bar(name: str) -> Progress:
    """A bar in seconds of the bag, with the time left where the bag says how long it is."""
    bar: tqdm | None = None

    def show(now_ns: int, start_ns: int | None, end_ns: int | None) -> None:
        nonlocal bar
        if bar is None:
            total = (end_ns - start_ns) / NS_PER_S if start_ns is not None and end_ns is not None else None
            layout = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of the bag, {remaining} left"
            bar = tqdm(desc=name, total=total, unit="s", dynamic_ncols=True, bar_format=layout if total else None)
            bar.start_ns = start_ns if start_ns is not None else now_ns
        done_s = (now_ns - bar.start_ns) / NS_PER_S
        if done_s > bar.n:
            bar.update(done_s - bar.n)

    return show


def print_session(session: Session, verdict: Verdict) -> None:
    """Verdict first, then each policy's figures, then what was wrong with the bags."""
    print(f"\n{verdict.word.upper()}: {verdict.reasons[0]}")
    for reason in verdict.reasons[1 : 1 + MAX_LINES]:
        print(f"  {reason}")
    if len(verdict.reasons) > 1 + MAX_LINES:
        print(f"  ... and {len(verdict.reasons) - 1 - MAX_LINES} more, in the JSON")
    for summary in session.summaries:
        names, errors, commands = summary.joint_names, summary.commanded.by_joint, summary.command_mae
        latencies = summary.latencies
        print(f"\npolicy {summary.name}  {summary.digest[:12]}")
        print(f"  {summary.num_chunks} chunks of {len(summary.bags)} bags, {summary.num_episodes} episodes")
        print(f"  latency p50 {latencies.p50_ms:.0f} ms, p99 {latencies.p99_ms:.0f} ms")
        counts = (summary.limit_events, summary.watchdog_events, summary.processor_events)
        print("  {} commands bounded by limits, {} stops by watchdogs, {} refusals".format(*(c.count for c in counts)))
        print(f"  {'mean error':<18}{'chunk':>10}{'of range':>10}{'command':>10}")
        for row in zip(names, errors, summary.commanded.by_joint_fraction, commands, strict=True):
            print("  {:<18}{:10.4f}{:9.2%} {:10.4f}".format(*row))
    problems = [*session.unused, *(line for replay in session.replays[0] for line in replay.problems)]
    for line in problems[:MAX_LINES]:
        print(f"  bag: {line}")
    print(f"\nreplayed in {session.seconds:.1f} s")
