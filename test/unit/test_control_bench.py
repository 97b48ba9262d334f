"""What the control bench makes of what it heard."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from runtime_helpers import CHUNK_DT_S, HORIZON, MS, PERIOD_NS, ROBOT, S

from vla_ros.bench.control import rows as rows_module
from vla_ros.bench.control.judge import (
    HeardChunk,
    HeardCommand,
    Span,
    chunk_end_ns,
    delays_ms,
    intervals_ms,
    largest_steps,
    limit_use,
    percentile,
    standstill_ns,
    stopping_time_s,
    switch_jumps,
)
from vla_ros.bench.control.rows import BenchRun, Drive, Driven, Row, control_rows, rows_json, table
from vla_ros.cli import main
from vla_ros.runtime.limits import Limiter
from vla_ros.runtime.path import Target
from vla_ros.types import ActionChunk

PERIOD_S = PERIOD_NS / S
START_NS = 100 * S


def commands(num: int = 60, missed: tuple[int, ...] = (), mode: str = "POLICY") -> list[HeardCommand]:
    """What a limiter gives that follows a swing too wide and too fast for it; ``missed`` ticks send nothing."""
    limiter = Limiter(ROBOT, PERIOD_S)
    limiter.start_at(np.zeros(2))
    heard = []
    for k in range(num):
        if k in missed:
            limiter.skip(1)
            continue
        phase = 4.0 * k * PERIOD_S
        command = limiter.follow(Target(np.full(2, 3 * math.sin(phase)), np.full(2, 12 * math.cos(phase))), 0)
        ramp = limiter.braking_ramp(command)
        sent_ns = START_NS + k * PERIOD_NS
        heard.append(
            HeardCommand(sent_ns, sent_ns + MS, k, mode, PERIOD_S + ramp.times_s, ramp.positions, ramp.velocities)
        )
    return heard


def resting(at: list[float], k: int, **changes: Any) -> HeardCommand:
    sent_ns = START_NS + k * PERIOD_NS
    command = HeardCommand(sent_ns, sent_ns + MS, k, "HOLD", np.array([PERIOD_S]), np.array([at]), np.zeros((1, 2)))
    return replace(command, **changes)


def chunk(stamp_ns: int, start: float, speed: float) -> ActionChunk:
    """Both joints at ``speed`` from ``start`` on."""
    times_s = CHUNK_DT_S * (1 + np.arange(HORIZON))
    return ActionChunk(stamp_ns, CHUNK_DT_S, 1.0, np.stack([start + speed * times_s] * 2, axis=1))


def test_what_the_limiter_gives_uses_its_limits_whole_and_breaks_none() -> None:
    use = limit_use([commands()], ROBOT, PERIOD_S)
    assert (use.num_commands, use.num_violations, use.num_unheard) == (60, 0, 0)
    assert use.velocity == pytest.approx(1.0) and use.acceleration == pytest.approx(1.0) and use.position <= 1.0 + 1e-9


def late(heard: list[HeardCommand], periods: float) -> list[HeardCommand]:
    return [replace(command, sent_ns=command.sent_ns + round(periods * PERIOD_NS)) for command in heard]


def test_after_missed_ticks_the_braking_ramp_of_the_last_command_counts() -> None:
    heard = [replace(command, sequence=None) for command in commands(missed=(7, 8, 20))]
    assert limit_use([heard], ROBOT, PERIOD_S).num_violations == 0
    assert limit_use([heard[:7] + late(heard[7:], 0.4)], ROBOT, PERIOD_S).num_violations == 0
    assert limit_use([heard[:7] + late(heard[7:], -1.9)], ROBOT, PERIOD_S).num_violations > 0, (
        "1.1 periods: none missed"
    )
    without_gap = [replace(command, sent_ns=START_NS + k * PERIOD_NS) for k, command in enumerate(heard)]
    assert limit_use([without_gap], ROBOT, PERIOD_S).num_violations > 0


def test_what_was_not_heard_is_counted_and_nothing_is_judged_by_it() -> None:
    heard = commands()
    del heard[10:12]
    use = limit_use([heard], ROBOT, PERIOD_S)
    assert use.num_unheard == 2 and use.num_violations == 0


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({"positions": np.array([[0.0, 0.6]])}, "position"),
        ({"velocities": np.array([[1.6, 0.0]])}, "velocity"),
        ({"positions": np.array([[0.05, 0.0]])}, "velocity"),
        ({"velocities": np.array([[0.2, 0.0]])}, "acceleration"),
        ({"positions": np.array([[0.01, 0.0]])}, "acceleration"),
        ({"positions": np.array([[math.nan, 0.0]])}, "position"),
    ],
)
def test_a_command_outside_a_limit_is_counted(changes: dict[str, np.ndarray], limit: str) -> None:
    before, after = resting([0.0, 0.0], 0), resting([0.0, 0.0], 1, **changes)
    use = limit_use([[before, after]], ROBOT, PERIOD_S)
    assert use.num_violations == 1 and getattr(use, limit) > 1.0


def test_a_braking_ramp_harder_than_allowed_is_counted() -> None:
    ramp = resting(
        [0.0, 0.0],
        0,
        times_s=np.array([PERIOD_S, 2 * PERIOD_S]),
        positions=np.array([[0.0, 0.0], [0.01, 0.0]]),
        velocities=np.array([[1.0, 0.0], [0.0, 0.0]]),
    )
    assert limit_use([[ramp]], ROBOT, PERIOD_S).num_violations == 1


def test_between_segments_the_arm_may_be_moved() -> None:
    first, second = [resting([0.0, 0.0], 0)], [resting([0.4, 0.4], 1)]
    assert limit_use([first, second], ROBOT, PERIOD_S).num_violations == 0
    assert limit_use([first + second], ROBOT, PERIOD_S).num_violations == 1


def test_the_step_at_a_change_of_driver_is_a_share_of_what_a_period_allows() -> None:
    max_step = ROBOT.joint_values("max_velocity") * PERIOD_S
    heard = [resting([0.0, 0.0], 0), resting([0.0, 0.01], 1, mode="TELEOP"), resting([0.3, 0.3], 2, mode="TELEOP")]
    assert largest_steps(heard, "TELEOP", max_step, 1) == [pytest.approx(0.5)]
    assert largest_steps(heard, "POLICY", max_step, 1) == []


def test_a_delay_counts_to_the_first_command_of_the_mode_sent_after_the_message() -> None:
    heard = [resting([0.0, 0.0], k, mode="POLICY" if k < 3 else "TELEOP") for k in range(5)]
    found = delays_ms(heard, "TELEOP", [START_NS + 55 * MS, START_NS + 65 * MS, START_NS + 200 * MS])
    assert found == [pytest.approx(6.0), pytest.approx(16.0), math.inf]
    assert percentile(found, 50) == pytest.approx(16.0) and percentile(found, 99) == math.inf
    assert percentile([], 50) is None


def test_standstill_is_where_it_lasts_and_the_mode_is_right() -> None:
    moving = np.array([[0.1, 0.0]])
    heard = [
        resting([0.0, 0.0], 0),
        resting([0.0, 0.0], 1, velocities=moving),
        resting([0.0, 0.0], 2, mode="POLICY"),
        resting([0.0, 0.0], 3),
        resting([0.0, 0.0], 4),
    ]
    assert standstill_ns(heard, "HOLD", START_NS) == heard[3].arrived_ns
    assert standstill_ns(heard[:3], "HOLD", START_NS) is None


def test_the_stopping_time_is_the_slowest_joints_in_whole_periods() -> None:
    assert stopping_time_s(ROBOT, PERIOD_S) == pytest.approx(0.2)


def test_a_chunk_from_rest_ends_as_much_later_as_it_came() -> None:
    first = HeardChunk(START_NS + 80 * MS, chunk(START_NS, 0.0, 0.1))
    second = HeardChunk(START_NS + 280 * MS, chunk(START_NS + 200 * MS, 0.0, 0.1))
    assert chunk_end_ns([first]) == START_NS + 580 * MS
    assert chunk_end_ns([first, second]) == START_NS + 700 * MS


def test_a_chunk_of_another_speed_is_a_jump_for_latest_and_none_at_the_instant_for_rtc() -> None:
    sent = [resting([0.0, 0.0], k) for k in range(40)]
    drive = [
        HeardChunk(START_NS + 100 * MS, chunk(START_NS, 0.0, 0.2)),
        HeardChunk(START_NS + 350 * MS, chunk(START_NS + 200 * MS, 0.0, 0.5)),
    ]
    latest = switch_jumps([drive], sent, "latest", PERIOD_S)
    assert latest.instant == pytest.approx([0.3])
    rtc = switch_jumps([drive], sent, "rtc", PERIOD_S)
    assert rtc.instant == pytest.approx([0.0], abs=1e-9)
    assert 0 < rtc.sampled[0] < latest.sampled[0]


def test_without_a_second_chunk_there_is_no_switch() -> None:
    drive = [HeardChunk(START_NS + 100 * MS, chunk(START_NS, 0.0, 0.2))]
    assert not len(switch_jumps([drive, []], [resting([0.0, 0.0], 0)], "latest", PERIOD_S).instant)


def test_intervals_leave_out_the_pauses() -> None:
    times_ns = [0, 20 * MS, 41 * MS, 900 * MS, 5019 * MS, 5000 * MS]
    spans = [Span(0, 100 * MS), Span(200 * MS, 300 * MS), Span(800 * MS, 900 * MS), Span(4000 * MS, 6000 * MS)]
    assert intervals_ms(times_ns, spans) == pytest.approx([20.0, 21.0, 19.0])
    assert not len(intervals_ms([], spans))


def at(k: int) -> int:
    return START_NS + k * PERIOD_NS


TWO_CHUNKS = [
    HeardChunk(START_NS + 120 * MS, chunk(START_NS, 0.0, 0.2)),
    HeardChunk(START_NS + 370 * MS, chunk(START_NS + 220 * MS, 0.0, 0.5)),
]


def driven(strategy: str, chunks: list[HeardChunk] = TWO_CHUNKS) -> Driven:
    """One drive with chunks, a takeover, a model node that is killed and comes back."""
    modes = ["HOLD"] * 5 + ["POLICY"] * 40 + ["TELEOP"] * 5 + ["POLICY"] * 20 + ["HOLD"] * 30
    return Driven(
        strategy=strategy,
        delay_ms=200.0,
        drives=[Drive(at(5), Span(at(6), at(44)))],
        commands=[resting([0.0, 0.0], k, mode=mode) for k, mode in enumerate(modes)],
        chunks=[*chunks, HeardChunk(at(52), chunk(at(50), 0.0, 0.0))],
    )


def observed(run: Driven) -> BenchRun:
    """A run in which all went well, beside an idle ticker as steady as it."""
    return BenchRun(
        driven=run,
        scenes_ns=[at(0)],
        hands_ns=[at(44) + MS],
        killed=Drive(at(51), Span(at(60), at(75))),
        back=Span(at(80), at(95)),
        rest=Span(at(100), at(120)),
        idle=[resting([0.0, 0.0], k) for k in range(120)],
        num_drops=0,
    )


@pytest.mark.parametrize("strategy", ["latest", "rtc"])
def test_a_run_in_which_all_went_well_is_a_table_without_a_failure(
    strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "ENOUGH_SWITCHES", 1)
    latest = driven("latest") if strategy == "rtc" else None
    rows = control_rows(observed(driven(strategy)), ROBOT, latest)
    assert [row.what for row in rows if row.ok is False] == []
    found = {row.what.split(",")[0]: row.measured for row in rows}
    assert found["commands outside the robot file"] == 0
    assert found["teleop message to the command that follows"] == pytest.approx(20.0)
    killed = next(row for row in rows if row.what.startswith("kill -9"))
    assert killed.measured == pytest.approx(0.201) and killed.allowed == pytest.approx(0.34 + 0.2)
    ratios = [row.allowed for row in rows if row.what == "  ratio"]
    assert ratios == ([pytest.approx(1 / 3)] * 2 if strategy == "rtc" else [])


def test_switches_are_compared_with_those_of_the_drives_by_latest() -> None:
    steady = [HeardChunk(heard.arrived_ns, chunk(heard.chunk.stamp_ns, 0.0, 0.2)) for heard in TWO_CHUNKS]
    rows = control_rows(observed(driven("latest", steady)), ROBOT, driven("latest"))
    told = [row.measured for row in rows if "jump of the target" in row.what or "drives of its own" in row.what]
    assert told[:2] == pytest.approx([0.0, 0.3], abs=1e-9)


def test_the_ratio_is_promised_for_a_slow_model_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "ENOUGH_SWITCHES", 1)
    quick = replace(driven("rtc"), delay_ms=0.0)
    ratios = [row for row in control_rows(observed(quick), ROBOT, driven("latest")) if row.what == "  ratio"]
    assert len(ratios) == 2 and all(row.ok is None and row.measured is not None for row in ratios)


def test_lateness_without_a_yardstick_is_not_good() -> None:
    rows = control_rows(replace(observed(driven("latest")), idle=[]), ROBOT, None)
    assert next(row for row in rows if row.what.startswith("lateness of commands")).ok is False


def test_fewer_switches_than_promised_do_not_count() -> None:
    rows = control_rows(observed(driven("rtc")), ROBOT, driven("latest"))
    ratios = [row for row in rows if row.what.startswith("  ratio")]
    assert len(ratios) == 2 and all(row.ok is False and "too few switches" in row.what for row in ratios)


def test_a_policy_that_drives_again_by_itself_fails() -> None:
    run = driven("latest", [])
    run.commands[85] = replace(run.commands[85], mode="POLICY")
    failed = [row for row in control_rows(observed(run), ROBOT, None) if row.ok is False]
    assert any("not in HOLD before engage" in row.what and row.measured == 1 for row in failed)


def lateness(run: BenchRun) -> dict[str, Row]:
    rows = control_rows(run, ROBOT, None)
    first = next(i for i, row in enumerate(rows) if row.what.startswith("lateness of commands"))
    return dict(zip(("commands", "beside", "sent", "arrived", "alone"), rows[first : first + 5], strict=True))


def test_commands_may_be_a_little_later_than_an_idle_ticker_at_the_same_moments() -> None:
    run = observed(driven("latest"))
    jitter_ns = [MS if k < 50 and k % 2 else 0 for k in range(120)]
    idle = [replace(c, arrived_ns=c.arrived_ns + jitter) for c, jitter in zip(run.idle, jitter_ns, strict=True)]
    run = replace(run, idle=idle)
    found = lateness(run)
    assert found["beside"].measured == pytest.approx(1.0) and found["alone"].measured == pytest.approx(0.0)
    assert found["sent"].measured == pytest.approx(0.0)
    assert found["commands"].allowed == pytest.approx(1.2 * 1.0 + 0.5)

    def late(name: str) -> dict[str, Row]:
        commands = [
            replace(c, **{name: getattr(c, name) + (2 * MS if k % 2 else 0)}) for k, c in enumerate(run.driven.commands)
        ]
        return lateness(replace(run, driven=replace(run.driven, commands=commands)))

    found = late("sent_ns")
    assert found["commands"].ok is False and found["commands"].measured == pytest.approx(2.0)
    assert found["arrived"].measured == pytest.approx(0.0)
    found = late("arrived_ns")
    assert found["commands"].ok and found["arrived"].measured == pytest.approx(2.0)


ROWS = [
    Row("a short one", 0.25, 1.0, "ms"),
    Row("too much of something", 3.0, 0, "commands"),
    Row("only told", 12.345, None, "%"),
    Row("never came", math.inf, 25.0, "ms"),
    Row("not measured", None, 1.0, "s"),
]


def test_what_is_over_its_limit_or_could_not_be_measured_fails() -> None:
    assert [row.ok for row in ROWS] == [True, False, None, False, False]
    assert Row("rounding", 1.0 + 1e-9, 1.0, "").ok
    assert Row("measured otherwise than promised", 0.5, 1.0, "", is_valid=False).ok is False


def test_the_table_has_columns_and_says_which_rows_fail() -> None:
    lines = table(ROWS).splitlines()
    assert len(lines) == 1 + len(ROWS) and lines[0].split() == ["what", "measured", "allowed"]
    verdicts = [line.split()[-1] for line in lines[1:]]
    assert verdicts == ["ok", "FAIL", "-", "FAIL", "FAIL"]
    assert len({line.rindex(word) for line, word in zip(lines[1:], verdicts, strict=True)}) == 1
    assert "never" in lines[4]


def test_the_figures_are_valid_json() -> None:
    document = json.loads(json.dumps(rows_json(ROWS), allow_nan=False))
    assert document[0] == {"what": "a short one", "measured": 0.25, "allowed": 1.0, "unit": "ms", "ok": True}
    assert document[3]["measured"] is None and document[2]["ok"] is None


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--control", "--scale"], "--scale does not go with --control"),
        (["--control", "--repeats", "3"], "--repeats does not go with --control"),
        (["--control", "--seconds", "0"], "--seconds is 0; expected 1 to 3600"),
        (["--control", "--strategy", "best"], "--strategy is 'best'; expected one of latest, ensemble, rtc"),
        (["--control", "--inference-delay-ms", "-1"], "--inference-delay-ms is -1; expected 0 to 10000"),
        (["--policy", "mid", "--seconds", "3"], "--seconds goes with --control only"),
        ([], "--policy is missing"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_in_one_line(argv: list[str], message: str, capsys: Any) -> None:
    if "--control" in argv:
        pytest.importorskip("rclpy")
    assert main(["bench", *argv]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
