"""What the replays of a policy, or of two, come to."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from compare_helpers import HORIZON, JOINTS, MS, RANGES, START_NS, S, chunk, episodes, event, motion, origin, replay

from vla_ros.recordings.series import TimeSeries
from vla_ros.replay.judge.paired import paired_differences
from vla_ros.replay.judge.summary import NUM_FIRST_INCIDENTS, NUM_WORST, summarize
from vla_ros.replay.judge.verdict import NO_BASELINE
from vla_ros.replay.records import Replay, Stretch
from vla_ros.replay.session import ReplaySession

ERROR = (0.02, -0.04, 0.01)


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    """Means over what is missing must not warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_errors_are_given_in_the_joints_units_and_as_fractions_of_their_ranges() -> None:
    summary = summarize([replay([chunk(START_NS, ERROR), chunk(START_NS + S)])])
    expected = np.abs(ERROR) / 2
    np.testing.assert_allclose(summary.commanded.by_joint, expected)
    np.testing.assert_allclose(summary.commanded.by_joint_fraction, expected / RANGES)
    assert summary.commanded.overall == pytest.approx(np.mean(expected / RANGES))
    assert summary.num_chunks == 2


def test_the_error_grows_with_the_steps_ahead_where_it_does() -> None:
    growing = np.arange(HORIZON)[:, None] * np.array(ERROR)
    first = chunk(START_NS)
    summary = summarize([replay([replace(first, positions=first.positions + growing)])])
    np.testing.assert_allclose(summary.commanded.by_step, np.abs(growing), atol=1e-12)
    fractions = np.mean(np.abs(growing) / RANGES, axis=1)
    np.testing.assert_allclose(summary.commanded.by_step_fraction, fractions, atol=1e-12)


def test_where_the_robot_went_is_compared_apart_from_what_it_was_commanded() -> None:
    first = chunk(START_NS)
    summary = summarize([replay([replace(first, measured=first.measured + 0.1)])])
    np.testing.assert_allclose(summary.measured.by_joint, 0.1)
    np.testing.assert_allclose(summary.commanded.by_joint, 0.0)


def test_what_is_missing_is_left_out_of_every_mean() -> None:
    first = chunk(START_NS, ERROR)
    commanded = first.commanded.copy()
    commanded[2:] = np.nan
    commanded[:, 2] = np.nan
    summary = summarize([replay([replace(first, commanded=commanded)])])
    np.testing.assert_allclose(summary.commanded.by_joint, [0.02, 0.04, np.nan])
    np.testing.assert_allclose(summary.commanded.by_step_fraction, [0.01, 0.01, np.nan, np.nan])
    assert summary.commanded.overall == pytest.approx(0.01)


@pytest.mark.parametrize("driver, error", [("policy", 0.1), ("teleop", 0.2), ("any", 0.2)])
def test_only_chunks_of_the_wanted_driver_count(driver: str, error: float) -> None:
    chunks = [
        chunk(START_NS, (0.1, 0, 0)),
        chunk(START_NS + S, (0.2, 0, 0), driver="TELEOP"),
        chunk(START_NS + 2 * S, (0.3, 0, 0), driver=""),
    ]
    assert summarize([replay(chunks)], driver).commanded.by_joint[0] == pytest.approx(error)


@pytest.mark.parametrize("driver, error", [("policy", 0.1), ("teleop", 0.3), ("any", 0.2)])
def test_only_commands_of_the_wanted_driver_count(driver: str, error: float) -> None:
    times_ns = START_NS + np.arange(100) * 20 * MS
    ours = motion(times_ns) + np.where(np.arange(100) < 50, 0.1, 0.3)[:, None]
    drivers = np.where(np.arange(100) < 50, "POLICY", "TELEOP")
    chunks = [chunk(START_NS), chunk(START_NS + S, driver="TELEOP")]
    given = replay(chunks, commands=TimeSeries(times_ns, ours), command_drivers=drivers)
    np.testing.assert_allclose(summarize([given], driver).command_mae, error)


def test_commands_beyond_the_recorded_ones_are_not_compared() -> None:
    times_ns = START_NS + np.arange(100) * 20 * MS
    given = replay(recorded_commands=TimeSeries(times_ns[:40], motion(times_ns[:40])))
    summary = summarize([given])
    assert summary.num_commands == 40
    np.testing.assert_allclose(summary.command_mae, 0.0)


def test_a_bag_without_recorded_commands_is_compared_by_its_motion() -> None:
    first = chunk(START_NS)
    nothing = TimeSeries(np.zeros(0, np.int64), np.zeros((0, 3)))
    given = replay([replace(first, commanded=np.full((HORIZON, 3), np.nan))], recorded_commands=nothing)
    summary = summarize([given])
    assert np.isnan(summary.commanded.overall) and np.isnan(summary.command_mae).all() and summary.worst == ()
    assert summary.measured.overall == 0.0


def test_bags_of_one_policy_are_taken_together() -> None:
    bags = [replay([chunk(START_NS, (0.1, 0, 0))]), replay([chunk(START_NS, (0.3, 0, 0))], bag="/data/tuesday")]
    summary = summarize(bags)
    assert summary.commanded.by_joint[0] == pytest.approx(0.2)
    assert (summary.num_chunks, summary.num_episodes) == (2, 2)


def refused(replays: list[Replay], driver: str = "any") -> str:
    with pytest.raises(ValueError) as error:
        summarize(replays, driver)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_nothing_to_compare_is_refused_in_one_line_that_says_who_drove() -> None:
    drove = [chunk(START_NS, driver="TELEOP"), chunk(START_NS + S, driver="")]
    assert "1 while TELEOP drove" in refused([replay(drove)], "policy")
    assert "no chunk in any bag" in refused([replay([])])
    nothing = np.full((HORIZON, 3), np.nan)
    assert "topics of outputs" in refused([replay([chunk(START_NS, commanded=nothing, measured=nothing)])])


def test_replays_that_do_not_belong_together_are_refused() -> None:
    assert "expected one of policy, teleop, any" in refused([replay()], "human")
    assert "one policy" in refused([replay(), replay(bag="/data/tuesday", digest="d2")])
    assert "different robots" in refused([replay(), replay(bag="/data/tuesday", joint_ranges=RANGES * 2)])
    assert "given twice" in refused([replay(), replay()])
    assert "at least one" in refused([])


def test_limits_and_watchdogs_are_counted_and_the_first_listed() -> None:
    limits = tuple(event(0.1 * k, "limit", f"velocity {k}", "elbow") for k in range(30))
    others = (event(4.0, "watchdog", "camera 'front' is stale"), event(5.0, "processor", "no task"))
    summary = summarize([replay(events=(*limits, *others))])
    assert summary.num_incidents["limit"] == 30
    first = [(found.time_s, found.joint, found.line) for found in summary.first_incidents["limit"]]
    in_bag = [((limit.time_ns - START_NS) / S, limit.joint, limit.line) for limit in limits[:NUM_FIRST_INCIDENTS]]
    assert first == in_bag
    assert summary.first_incidents["watchdog"][0].time_s == pytest.approx(4.0)
    assert summary.num_incidents["processor"] == 1


def test_of_limits_every_bounded_command_counts() -> None:
    stretches = (event(1.0, "limit", joint="elbow", num_times=7), event(2.0, "limit", joint="base"))
    summary = summarize([replay(events=stretches)])
    assert summary.num_incidents["limit"] == 8 and len(summary.first_incidents["limit"]) == 2
    (policy,) = document([replay(events=stretches)])["policies"]
    assert policy["limit_events"] == 8
    assert [(found["joint"], found["num_times"]) for found in policy["first_limit_events"]] == [
        ("elbow", 7),
        ("base", 1),
    ]


def test_latency_is_from_observation_to_arrival() -> None:
    chunks = [chunk(START_NS + k * S, arrived_ns=START_NS + k * S + (k + 1) * 10 * MS) for k in range(10)]
    summary = summarize([replay(chunks)])
    assert summary.latency_ms(50) == pytest.approx(55.0)
    assert summary.latency_ms(100) == pytest.approx(100.0)
    assert 95 < summary.latency_ms(99) < 100


def test_an_intervention_says_what_the_policy_would_have_done_instead() -> None:
    human = [chunk(START_NS + k * S, ERROR, driver="TELEOP") for k in (3, 4)]
    modes = (
        Stretch(START_NS, START_NS + 3 * S, "POLICY"),
        Stretch(START_NS + 3 * S, START_NS + 5 * S, "TELEOP"),
        Stretch(START_NS + 5 * S, START_NS + 10 * S, "POLICY"),
        Stretch(START_NS + 9 * S, START_NS + 10 * S, "TELEOP"),
    )
    given = replay([chunk(START_NS), *human, chunk(START_NS + 5 * S, (1, 1, 1))], modes=modes)
    first, last = summarize([given], "policy").interventions
    assert (first.start_s, first.duration_s, first.num_chunks) == (3.0, 2.0, 2)
    np.testing.assert_allclose(first.commanded, np.abs(ERROR))
    np.testing.assert_allclose(first.offset, ERROR)
    assert first.largest_joint == "gripper" and first.largest == pytest.approx(0.01)  # 2 % of its range
    assert last.num_chunks == 0 and np.isnan(last.commanded).all() and last.largest_joint == ""


def test_the_worst_moments_are_apart_and_name_joint_and_step() -> None:
    chunks = [chunk(START_NS + k * S // 4, (0.001 * k, 0, 0)) for k in range(40)]
    worst = chunks[22]
    positions = worst.positions.copy()
    positions[2, 1] += 3.0
    chunks[22] = replace(worst, positions=positions)
    moments = summarize([replay(chunks)]).worst
    assert len(moments) == NUM_WORST
    assert (moments[0].header_ns, moments[0].joint, moments[0].step) == (worst.header_ns, "elbow", 2)
    assert moments[0].joint_error == pytest.approx(3.0) and moments[0].chunk is chunks[22]
    times = sorted(moment.time_s for moment in moments)
    assert min(np.diff(times)) >= 1.0
    assert moments[1].time_s == pytest.approx(9.75)


def test_a_difference_that_every_episode_shows_has_an_interval_above_zero() -> None:
    old, new = episodes([0.1, 0.2, 0.3, 0.1], "old"), episodes([0.2, 0.32, 0.38, 0.2], "new")
    overall, *_ = differences = paired_differences([old], [new], "teleop")
    by_quantity = {difference.quantity: difference for difference in differences}
    assert overall.quantity == "mae" and (overall.a, overall.b, overall.num_episodes) == ("old", "new", 4)
    joint = by_quantity["mae.base"]
    assert joint.difference == pytest.approx(0.1) and joint.b_mean - joint.a_mean == pytest.approx(joint.difference)
    assert 0.08 <= joint.low <= joint.difference <= joint.high <= 0.12 and joint.low > 0
    assert overall.difference == pytest.approx(0.1 / 2.0 / 3)
    assert by_quantity["mae.gripper"].difference == 0.0
    assert "measured_mae.elbow" in by_quantity


def test_a_difference_that_episodes_disagree_about_has_an_interval_around_zero() -> None:
    old, new = episodes([0.1, 0.2, 0.3, 0.1], "old"), episodes([0.2, 0.1, 0.4, 0.01], "new")
    overall, *_ = paired_differences([old], [new])
    assert overall.low < 0 < overall.high


def test_episodes_are_what_is_resampled_so_that_more_chunks_of_them_prove_nothing() -> None:
    few, many = (
        paired_differences([episodes([0.1, 0.1, 0.1], "a", n)], [episodes([0.1, 0.2, 0.4], "b", n)])[0] for n in (2, 12)
    )
    assert (few.low, few.high) == pytest.approx((many.low, many.high))


def test_one_episode_gives_no_interval() -> None:
    overall, *_ = paired_differences([episodes([0.1], "a")], [episodes([0.2], "b")])
    assert np.isnan(overall.low) and np.isnan(overall.high) and overall.num_episodes == 1


def test_policies_are_compared_on_the_observations_and_due_times_they_share() -> None:
    old = episodes([0.1, 0.1], "old")
    longer = [replace(c, positions=c.positions + np.array([0.1, 0, 0])) for c in old.chunks]
    far_off = np.array([[5.0, 0, 0]])
    longer = [
        replace(
            c,
            due_ns=np.append(c.due_ns, c.due_ns[-1] + S),
            **{name: np.append(getattr(c, name), far_off, axis=0) for name in ("positions", "commanded", "measured")},
        )
        for c in longer[:-2]
    ]
    new = replay([*longer, chunk(START_NS + 100 * S, (9, 9, 9))], policy="new", digest="new")
    by_quantity = {difference.quantity: difference for difference in paired_differences([old], [new])}
    assert by_quantity["mae.base"].difference == pytest.approx(0.1)
    assert by_quantity["mae.elbow"].b_mean == pytest.approx(0.0)


def test_policies_without_a_common_observation_are_refused() -> None:
    with pytest.raises(ValueError, match="no chunk of the same observation"):
        paired_differences([replay()], [replay(bag="/data/tuesday", policy="new")])


def session_of(*policies: list[Replay]) -> ReplaySession:
    return ReplaySession(
        config=None,
        replays=tuple(map(tuple, policies)),
        summaries=tuple(map(summarize, policies)),
        paired=paired_differences(*policies) if len(policies) == 2 else (),
        origin=origin(),
        unused=(),
        drifts=(),
    )


def document(replays: list[Replay]) -> dict:
    found = session_of(replays)
    return found.document(*found.judge(None))


def test_the_json_has_the_promised_keys_and_no_nan() -> None:
    first = chunk(START_NS, ERROR)
    commanded = first.commanded.copy()
    commanded[:, 2] = np.nan
    found = document([replay([replace(first, commanded=commanded)])])
    assert {"verdict", "policies", "differences"} <= found.keys() and found["verdict"] == NO_BASELINE
    (policy,) = found["policies"]
    assert policy["chunks"] == 1 and policy["limit_events"] == 0 and policy["watchdog_events"] == 0
    assert policy["mae_by_joint"] == {"base": 0.02, "elbow": 0.04, "gripper": None}
    assert policy["mae_by_step"] == [0.01] * HORIZON
    assert isinstance(policy["command_mae"], float)
    json.dumps(found, allow_nan=False)


def test_the_json_of_two_policies_lists_differences_with_the_promised_keys() -> None:
    old, new = episodes([0.1, 0.2], "old"), episodes([0.2, 0.3], "new")
    session = session_of([old], [new])
    found = session.document(*session.judge(None))
    keys = {"a", "b", "quantity", "difference", "low", "high", "num_episodes"}
    assert all(keys <= difference.keys() for difference in found["differences"])
    assert len(found["differences"]) == 2 * (1 + len(JOINTS))


def test_the_same_replay_gives_the_same_bytes() -> None:
    def text() -> str:
        rng = np.random.default_rng(3)
        chunks = [chunk(START_NS + k * S // 2, rng.normal(size=3) * 0.01) for k in range(20)]
        return json.dumps(document([replay(chunks, events=(event(1.0, "limit", joint="elbow"),))]), indent=1)

    assert text() == text()
    assert "0.1000000" not in text()  # rounded to nine digits


def test_errors_stand_beside_those_of_an_arm_that_keeps_its_place() -> None:
    one = chunk(START_NS + S, (0.02, 0, 0))
    resting = np.abs(one.commanded - one.commanded[0]).mean(axis=0)
    np.testing.assert_allclose(summarize([replay([one])]).resting.by_joint, resting)
    # Where nothing was commanded, as errors are: against where the robot went.
    unknown = replace(one, commanded=np.full_like(one.commanded, np.nan), measured=2 * one.commanded)
    np.testing.assert_allclose(summarize([replay([unknown])]).resting.by_joint, 2 * resting)


def test_a_human_who_takes_over_makes_no_worst_moment_of_a_bag_that_a_policy_drove() -> None:
    own = [chunk(START_NS + k * 2 * S, (0.001, 0, 0)) for k in range(3)]
    taken_over = chunk(START_NS + 6 * S, (0.3, 0, 0), driver="TELEOP")
    assert {one.chunk.driver for one in summarize([replay([*own, taken_over])]).worst} == {"POLICY"}
    demonstration = [replace(one, driver="TELEOP") for one in own]
    assert len(summarize([replay(demonstration)]).worst) == 3, "where a human drove throughout, all count"
