"""From a session to what its report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vla_ros.bags.read import BagReader
from vla_ros.recordings.events import FrameEvent
from vla_ros.recordings.feed import Feed
from vla_ros.replay.judge.paired import OVERALL, PairedDifference
from vla_ros.replay.judge.summarize import DRIVER_FILTERS
from vla_ros.replay.judge.summary import ErrorTable, PolicySummary
from vla_ros.replay.judge.verdict import Verdict
from vla_ros.replay.records import DRIVERS, Replay
from vla_ros.replay.report.content import (
    CameraImage,
    Difference,
    Errors,
    Intervention,
    Moment,
    PolicyResult,
    ReportInput,
)
from vla_ros.replay.session import Session
from vla_ros.types import Frame

PERCENT = 100.0
TARGETS = {OVERALL: "what the robot was commanded", f"measured_{OVERALL}": "where the robot then went"}


def session_report(session: Session, verdict: Verdict) -> ReportInput:
    """Everything the report shows; the bags are looked through once more for the images of the worst moments."""
    settings = session.config.settings
    mode = DRIVER_FILTERS[session.config.driver]
    bags = [Path(replay.bag).name for replay in session.replays[0]]
    return ReportInput(
        title=f"Replay of {', '.join(bags[:3])}{' and more' if len(bags) > 3 else ''}",
        verdict=verdict.word,
        reasons=verdict.reasons,
        settings={
            "robot": session.config.robot.name,
            "strategy": settings.strategy,
            "latency": _latency(session),
            "commands": f"{settings.control_rate_hz or session.config.robot.control_rate_hz:g} Hz",
            "device": session.config.device,
        },
        policies=tuple(map(_result, [session] * len(session.replays), session.replays, session.summaries)),
        compared_drivers=tuple(name for name in DRIVERS if mode in (None, name)),
        differences=tuple(_difference(found) for found in session.paired),
    )


def _latency(session: Session) -> str:
    given_ms = session.config.settings.latency_ms
    if given_ms is not None:
        return f"{given_ms:g} ms"
    assumed_ms = {replay.assumed_latency_ms for replay in session.replays[0]}
    said = [f"{ms:g} ms, assumed" for ms in sorted(assumed_ms - {None})]
    return " or ".join((*(["as recorded"] if None in assumed_ms else []), *said))


def _result(session: Session, replays: Sequence[Replay], summary: PolicySummary) -> PolicyResult:
    by_bag = {replay.bag: replay for replay in replays}
    found: dict[str, dict[int, tuple[CameraImage, ...]]] = {}
    for bag in by_bag:
        wanted = [moment.header_ns for moment in summary.worst if moment.bag == bag]
        found[bag] = _images(session, Path(bag), wanted) if wanted else {}
    return PolicyResult(
        name=summary.name,
        digest=summary.digest,
        replays=tuple(replays),
        num_chunks=summary.num_chunks,
        from_commands=_errors(summary.commanded),
        from_motion=_errors(summary.measured),
        command_error=summary.command_mae,
        num_limit_events=summary.limit_events.count,
        num_watchdog_events=summary.watchdog_events.count,
        num_processor_events=summary.processor_events.count,
        latencies_ms=summary.latencies.all_ms,
        interventions=tuple(
            Intervention(
                bag=found_one.bag,
                start_s=found_one.start_s,
                duration_s=found_one.duration_s,
                num_chunks=found_one.num_chunks,
                mae_by_joint=found_one.commanded,
                offset_by_joint=found_one.offset,
            )
            for found_one in summary.interventions
        ),
        moments=tuple(
            Moment(
                bag=moment.bag,
                chunk=by_bag[moment.bag].chunks[moment.chunk_index],
                error=moment.error,
                images=found[moment.bag].get(moment.header_ns, ()),
            )
            for moment in summary.worst
        ),
    )


def _errors(table: ErrorTable) -> Errors:
    return Errors(table.by_joint, table.by_step_fraction)


def _difference(found: PairedDifference) -> Difference:
    quantity, _, joint = found.quantity.partition(".")
    scale, unit = (1.0, "rad or m") if joint else (PERCENT, "%")
    numbers = (found.a_mean, found.b_mean, found.low, found.high)
    words = f"{joint or 'Chunks'}, off from {TARGETS[quantity]}"
    return Difference(words, unit, *(scale * number for number in numbers), found.num_episodes)


def _images(session: Session, bag: Path, wanted_ns: Sequence[int]) -> Mapping[int, tuple[CameraImage, ...]]:
    """For each observation time the image of every camera taken nearest to it."""
    robot = session.config.robot
    nearest: dict[tuple[int, str], FrameEvent] = {}
    for event in Feed(BagReader(bag), robot, session.config.namespace):
        if not isinstance(event, FrameEvent):
            continue
        for time_ns in wanted_ns:
            key = (time_ns, event.frame.camera)
            best = nearest.get(key)
            if best is None or abs(event.stamp_ns - time_ns) < abs(best.stamp_ns - time_ns):
                nearest[key] = event
        if event.received_ns > max(wanted_ns) + 1_000_000_000:
            break
    found: dict[int, tuple[CameraImage, ...]] = {}
    for time_ns in wanted_ns:
        frames = [nearest[time_ns, name].frame for name in robot.camera_names if (time_ns, name) in nearest]
        found[time_ns] = tuple(filter(None, map(_image, frames)))
    return found


def _image(frame: Frame) -> CameraImage | None:
    """None for one that cannot be decoded, which no policy has seen either."""
    try:
        return CameraImage(frame.camera, frame.header_ns, frame.image)
    except ValueError:
        return None
