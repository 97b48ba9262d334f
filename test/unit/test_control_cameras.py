"""What the control bench makes of what it saw of a robot with large cameras; its robot file and policy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from runtime_helpers import MS, S

from vla_ros.bench.control.camera_policy import TASK, write_policy, write_robot
from vla_ros.bench.control.judge import HeardChunk, HeardCommand, Span
from vla_ros.bench.control.rows import Drive, Driven, Row, camera_rows, cameras_not_measured
from vla_ros.policies.directory import load_policy
from vla_ros.policies.files import load_processor
from vla_ros.robot import RobotConfig
from vla_ros.types import ActionChunk, Observation

START_NS = 100 * S
PERIOD_NS = 20 * MS
FRAME_NS = S // 30


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> RobotConfig:
    return write_robot(tmp_path_factory.mktemp("cameras") / "robot.yaml", "tabletop")


def command(sent_ns: int) -> HeardCommand:
    return HeardCommand(sent_ns, sent_ns + MS, None, "POLICY", np.zeros(1), np.zeros((1, 6)), np.zeros((1, 6)))


@dataclass(frozen=True)
class Seen:
    """What was heard of the drives, and when the images arrived."""

    driven: Driven
    frames_ns: dict[str, list[int]]


def seen(frame_ns: int = FRAME_NS, chunk_ns: int = 200 * MS) -> Seen:
    """Ten seconds in two drives a minute apart, in which the policy node used 4 s of CPU time."""
    starts_ns = (START_NS, START_NS + 60 * S)

    def times(step_ns: int) -> list[int]:
        return [start_ns + k for start_ns in starts_ns for k in range(0, 5 * S, step_ns)]

    chunk = ActionChunk(0, 0.1, 1.0, np.zeros((20, 6)))
    driven = Driven(
        strategy="latest",
        delay_ms=150.0,
        drives=[Drive(start_ns, Span(start_ns, start_ns + 5 * S), 2.0) for start_ns in starts_ns],
        commands=[command(t) for t in times(PERIOD_NS)],
        chunks=[HeardChunk(t, chunk) for t in times(chunk_ns)],
    )
    return Seen(driven, {"a": times(FRAME_NS), "b": times(frame_ns), "c": times(FRAME_NS)})


def rows_of(drives: Seen, robot: RobotConfig) -> dict[str, Row]:
    words = ("CPU time", "slowest camera", "between two chunks", "fell to HOLD", "longest time", "ticks missed")
    words += ("lateness of commands", "an idle ticker's", "of those by their sender's", "as they arrive")
    found = camera_rows(drives.driven, drives.frames_ns, seen().driven.commands, 0, robot)
    return dict(zip(words, found, strict=True))


def test_the_cpu_time_is_told_with_the_rates_it_was_measured_at(robot: RobotConfig) -> None:
    rows = rows_of(seen(), robot)
    assert all(words in row.what for words, row in rows.items())
    assert all(row.ok is not False for row in rows.values())
    assert "3 cameras of 640x480" in rows["CPU time"].what
    assert rows["CPU time"].measured == pytest.approx(40.0)
    assert rows["slowest camera"].measured == pytest.approx(30.0, abs=0.01)
    assert rows["between two chunks"].measured == pytest.approx(200.0)
    assert rows["longest time"].measured == pytest.approx(20.0)


@pytest.mark.parametrize(
    ("changes", "slow"),
    [({"frame_ns": S // 25}, "slowest camera"), ({"chunk_ns": 300 * MS}, "between two chunks")],
)
def test_with_too_few_images_or_chunks_it_does_not_count(
    changes: dict[str, int], slow: str, robot: RobotConfig
) -> None:
    rows = rows_of(seen(**changes), robot)
    assert rows["CPU time"].ok is False and rows["CPU time"].what.endswith(": does not count")
    assert [words for words, row in rows.items() if row.what.endswith(": too slow")] == [slow]


def test_a_camera_that_gave_nothing_is_a_failure_too(robot: RobotConfig) -> None:
    drives = seen()
    rows = rows_of(replace(drives, frames_ns={**drives.frames_ns, "b": []}), robot)
    assert rows["CPU time"].ok is False and rows["slowest camera"].measured == 0.0


def test_a_policy_node_that_never_drove_is_a_failure() -> None:
    (row,) = cameras_not_measured("it would not engage")
    assert row.ok is False and "it would not engage" in row.what


def test_a_missed_tick_is_a_starved_control_thread(robot: RobotConfig) -> None:
    drives = seen()
    commands = drives.driven.commands
    rows = rows_of(replace(drives, driven=replace(drives.driven, commands=[*commands[:20], *commands[22:]])), robot)
    assert rows["ticks missed"].measured == 2 and rows["ticks missed"].ok is False
    assert rows["longest time"].measured == pytest.approx(60.0)
    rows = rows_of(replace(drives, driven=replace(drives.driven, commands=[])), robot)
    assert rows["ticks missed"].ok is False


def test_the_policy_made_for_it_takes_three_large_images_and_moves_the_joints(
    tmp_path: Path, robot: RobotConfig
) -> None:
    write_policy(tmp_path / "policy", robot)
    load_policy(tmp_path / "policy", "cpu")  # its golden case holds
    processor = load_processor(tmp_path / "policy")
    assert processor.camera_names == robot.camera_names and len(robot.cameras) == 3
    images = {name: np.zeros((480, 640, 3), np.uint8) for name in robot.camera_names}
    observation = Observation(
        stamp_ns=0,
        headers_ns=dict.fromkeys(images, 0),
        images=images,
        joint_positions=np.zeros(robot.num_joints),
        task=TASK,
    )
    request = processor.process(observation)
    chunk = processor.decode(request.noise, observation)
    lower, upper = robot.joint_values("lower"), robot.joint_values("upper")
    assert (chunk.positions >= lower).all() and (chunk.positions <= upper).all() and chunk.positions.std(axis=0).all()
