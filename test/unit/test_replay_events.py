"""What would have happened on the robot, event by event."""

from __future__ import annotations

from vla_ros.replay.records import IncidentLog

VELOCITY = "joint 'elbow': velocity bounded to 1.5"
OUTSIDE = "joint 'base': target {:.3f} is outside -1 to 1"


def told(*reasons: str) -> list[tuple[int, str, int]]:
    """When each event began, its joint, and of how many commands it tells."""
    log = IncidentLog(("base", "elbow"))
    for now_ns, reason in enumerate(reasons):
        log.commanded(now_ns, reason)
    assert {event.kind for event in log.incidents} <= {"limit"}
    return [(event.time_ns, event.joint, event.num_times) for event in log.incidents]


def test_commands_in_a_row_that_one_limit_bounds_are_one_event_and_all_count():
    assert told("", VELOCITY, VELOCITY, VELOCITY, "", VELOCITY) == [(1, "elbow", 3), (5, "elbow", 1)]


def test_numbers_make_no_event_of_their_own():
    assert told(*(OUTSIDE.format(1.2 + 0.001 * k) for k in range(40))) == [(0, "base", 40)]


def test_another_joint_or_another_limit_is_another_event():
    acceleration = "joint 'elbow': acceleration bounded to 8"
    found = told(VELOCITY, acceleration, OUTSIDE.format(-1.5), OUTSIDE.format(-0.5), VELOCITY)
    assert found == [(0, "elbow", 1), (1, "elbow", 1), (2, "base", 2), (4, "elbow", 1)]


def test_joints_whose_names_differ_by_a_number_are_told_apart():
    log = IncidentLog(("joint_1", "joint_2"))
    for now_ns, name in enumerate(("joint_1", "joint_2", "joint_2")):
        log.commanded(now_ns, f"joint '{name}': velocity bounded to 1.5")
    assert [(event.joint, event.num_times) for event in log.incidents] == [("joint_1", 1), ("joint_2", 2)]


def test_a_limit_of_no_joint_is_counted_too():
    assert told("target is not finite and was dropped") == [(0, "", 1)]


def test_what_happens_meanwhile_keeps_its_place():
    log = IncidentLog(("base", "elbow"))
    log.commanded(1, VELOCITY)
    log.add(2, "processor", "no image")
    log.commanded(3, VELOCITY)
    log.add(4, "watchdog", "HOLD: no image")
    assert [(event.time_ns, event.kind, event.num_times) for event in log.incidents] == [
        (1, "limit", 2), (2, "processor", 1), (4, "watchdog", 1),
    ]  # fmt: skip
