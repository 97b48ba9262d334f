"""A bag and a policy in, a ``Replay`` out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vla_ros import topics
from vla_ros.bags.read import BagReader
from vla_ros.observing.policy_fit import match_policy
from vla_ros.recordings.events import BagEvent
from vla_ros.recordings.feed import Feed, resolve_topic
from vla_ros.replay.bag_run import BagRun
from vla_ros.replay.offline import ReplayPolicy
from vla_ros.replay.records import Replay
from vla_ros.replay.settings import Plan, ReplaySettings, Timing
from vla_ros.robot import RobotConfig

MODE, CHUNK, TRACE = topics.MODE.name, topics.CHUNK.name, topics.TRACE.name
Progress = Callable[[int, int | None, int | None], None]
"""Gets the bag's time, its start and its end, in ns (None where it does not say)."""


class UnusableBag(ValueError):
    """A bag of which nothing can be replayed; others may be usable."""


def replay_bag(
    path: Path,
    robot: RobotConfig,
    policy: ReplayPolicy,
    settings: ReplaySettings,
    namespace: str = "",
    progress: Progress | None = None,
) -> Replay:
    """One bag through the whole node.

    Raises UnusableBag where nothing of it can be used, and ValueError where the robot is not the policy's or the
    recorded latency is wanted and the bag holds none.
    """
    processor = policy.processor
    robot = match_policy(robot, processor.joint_names, processor.camera_names)
    processor.bind(robot.joint_limits)
    with _as_unusable():
        reader = BagReader(path)
    plan = _plan(path, settings, namespace)
    feed = Feed(reader, robot, namespace)
    start_ns, end_ns = (reader.contents.start_ns, reader.contents.end_ns) if reader.contents else (None, None)
    run: BagRun | None = None
    for event in _events(feed):
        if run is None:
            run = BagRun(robot, policy, settings, plan, event.received_ns)
        run.take(event)
        if progress is not None:
            progress(event.received_ns, start_ns, end_ns)
    if run is None:
        why = "; ".join(feed.problems) or "it has no message of the robot's topics"
        raise UnusableBag(f"bag {path}: nothing of it can be used: {why}")
    return run.finish(str(path), (*feed.problems, *_assumptions(path, plan)))


@contextmanager
def _as_unusable() -> Iterator[None]:
    """What is wrong with a bag is told apart from what is wrong with whoever takes its events."""
    try:
        yield
    except ValueError as error:
        raise UnusableBag(str(error)) from error


def _events(feed: Feed) -> Iterator[BagEvent]:
    with _as_unusable():
        yield from feed


def _assumptions(path: Path, plan: Plan) -> tuple[str, ...]:
    assumed = f"each answer was assumed to take {plan.latency_ms or 0.0:g} ms; --latency MS says otherwise"
    return (f"bag {path} has no recorded chunks: {assumed}",) if plan.is_assumed else ()


def _plan(path: Path, settings: ReplaySettings, namespace: str) -> Plan:
    """What of the bag is followed. Raises ValueError where it holds no latency and none is given; UnusableBag where
    that may be because the bag is damaged."""
    names = {name: resolve_topic(name, namespace) for name in (MODE, CHUNK, TRACE)}
    found, damage = _topics_found(BagReader(path), tuple(names.values()))
    says_driver = names[MODE] in found
    if settings.latency_ms is not None:
        return Plan(Timing.FIXED, says_driver, settings.latency_ms)
    if names[TRACE] in found:
        return Plan(Timing.OF_TRACE, says_driver)
    if names[CHUNK] not in found and settings.unknown_latency_ms is not None:
        return Plan(Timing.FIXED, says_driver, settings.unknown_latency_ms, is_assumed=True)
    if names[CHUNK] not in found:
        missing = f"bag {path} has no chunks on '{names[CHUNK]}' to take the latency from; give one: --latency MS"
        raise UnusableBag(f"{damage}; {missing}") if damage else ValueError(missing)
    return Plan(Timing.OF_CHUNKS, says_driver)


def _topics_found(reader: BagReader, topics: tuple[str, ...]) -> tuple[set[str], str]:
    """Which of ``topics`` the bag's index says it has, or, without one, a look through it finds; and the damage, in one
    line, that ended the look before it found any."""
    if reader.contents is not None:
        return {topic.name for topic in reader.contents.topics if topic.num_messages}, ""
    found: set[str] = set()
    try:
        for message in reader.messages(topics):
            found.add(message.topic)
            if len(found) == len(topics):
                break
    except ValueError as error:
        return found, str(error)
    return found, ""
