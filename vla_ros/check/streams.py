"""What cameras and joint states have in common: who publishes, how often, and with which stamps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vla_ros.check.finding import Part
from vla_ros.check.seen import Endpoint, Stream, TopicSeen
from vla_ros.messages.times import MAX_LEAD_S
from vla_ros.units import NS_PER_S

ENOUGH_OF_CONTROL_RATE = 0.8


def names(endpoints: Sequence[Endpoint]) -> str:
    return ", ".join(dict.fromkeys(endpoint.node for endpoint in endpoints))


def judge_publishers(part: Part, topic: TopicSeen, expected_type: str, fix: str, fix_type: str) -> bool:
    """Whether somebody publishes the expected type; for a subscription that is best effort, which any QoS serves."""
    fitting = [publisher for publisher in topic.publishers if publisher.type == expected_type]
    if not topic.publishers:
        part.fail("publisher", f"nobody publishes {topic.name}", f"a publisher of {expected_type}", fix)
    elif not fitting:
        types = ", ".join(sorted({publisher.type for publisher in topic.publishers}))
        part.fail("publisher", f"{topic.name} is {types}, from {names(topic.publishers)}", expected_type, fix_type)
    elif len(topic.publishers) > 1:
        got = f"{len(topic.publishers)} publishers of {topic.name}: {names(topic.publishers)}"
        part.warn("publisher", got, "one", "end the others, or give this one a topic of its own")
    else:
        got = f"{topic.name}, {expected_type}, {fitting[0].qos}, from {fitting[0].node}"
        part.ok("publisher", got, expected_type)
    return bool(fitting)


def judge_rate(
    part: Part, stream: Stream, seconds: float, max_age_s: float, fix: str, control_rate_hz: float = 0.0
) -> None:
    """Whether messages come more often than the robot file lets them age, and about as often as commands do."""
    expected = f"a message every {max_age_s:g} s at least (max_age_s)"
    if len(stream) < 2:
        got = f"{len(stream) or 'no'} message{'' if len(stream) == 1 else 's'} in {seconds:g} s"
        return part.fail("rate", got, expected, fix)
    if stream.silence_s > max(max_age_s, 2 * stream.gaps_s.max()):
        return part.fail("rate", f"silent for the last {stream.silence_s:.1f} s", expected, fix)
    got = f"{stream.rate_hz:.1f} Hz, longest gap {stream.gaps_s.max() * 1e3:.0f} ms"
    if np.median(stream.gaps_s) > max_age_s:
        return part.fail("rate", got, expected, fix)
    if stream.rate_hz < ENOUGH_OF_CONTROL_RATE * control_rate_hz:
        expected = f"about {control_rate_hz:g} Hz or more (control_rate_hz)"
        return part.warn("rate", got, expected, "the broadcaster's update rate, or control_rate_hz")
    part.ok("rate", got, expected)


def judge_stamps(part: Part, stream: Stream, max_age_s: float) -> None:
    """Whether messages are stamped with the time they are of, one after the other, and are young enough."""
    num_zero = int((stream.stamps_ns == 0).sum())
    steps_ns = np.diff(stream.stamps_ns)
    num_back, num_same = int((steps_ns < 0).sum()), int((steps_ns == 0).sum())
    if num_zero:
        got = f"{num_zero} of {len(stream)} header stamps are 0"
        part.fail("stamps", got, "the time of the measurement", "the driver: set header.stamp")
    elif num_back:
        got = f"stamps go back {num_back} times in {len(stream)} messages"
        fix = "one publisher only; a looping bag or simulation must restart the policy node too"
        part.fail("stamps", got, "stamps that increase", fix)
    elif num_same:
        got = f"{num_same} of {len(stream)} messages repeat the stamp before"
        fix = "the driver: it stands still, or sends a measurement more than once"
        (part.fail if num_same == len(steps_ns) else part.warn)("stamps", got, "a new stamp each", fix)
    if len(stream) and not part.fails("stamps"):
        _judge_age(part, stream, max_age_s)


def _judge_age(part: Part, stream: Stream, max_age_s: float) -> None:
    ages_s = stream.ages_s
    age_s = float(np.median(ages_s))
    clocks = "clocks: synchronise both machines (chrony), and use_sim_time alike on all nodes"
    if age_s < -MAX_LEAD_S:
        return part.fail("age", f"stamped {_seconds(-age_s)} ahead of now", f"at most {MAX_LEAD_S:g} s ahead", clocks)
    got = f"stamped {age_s * 1e3:.0f} ms before arrival, at most {ages_s.max() * 1e3:.0f} ms"
    if abs(age_s) >= 10.0:
        got = f"stamped {_seconds(age_s)} before arrival"
    expected = f"less than {max_age_s:g} s when the next comes (max_age_s)"
    # Messages that come too seldom have their finding already.
    oldest_s = ages_s if part.fails("rate") else (stream.received_ns[1:] - stream.stamps_ns[:-1]) / NS_PER_S
    if max(age_s, float(np.median(oldest_s))) > max_age_s:
        return part.fail("age", got, expected, f"{clocks}; else a faster driver, or max_age_s in the robot file")
    if oldest_s.max() > max_age_s:
        got = f"{got}; once {_seconds(float(oldest_s.max()))} when the next came"
        return part.warn("age", got, expected, "load on machine and network, or max_age_s in the robot file")
    part.ok("age", got, expected)


def _seconds(value_s: float) -> str:
    if value_s < 60.0:
        return f"{value_s:.2f} s"
    days = value_s / 86400.0
    return f"{days:,.0f} days" if days >= 2.0 else f"{value_s:,.0f} s"
