"""Many bags, a stored result for each: what is kept, what is done again, what is refused, and the one report of all."""

from __future__ import annotations

import errno
import json
import os
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from fleet_helpers import SETTINGS, fill, results_of
from replay_helpers import chunk, commands, mode, sensors, swing_policy, task, trace, write_bag
from runtime_helpers import ROBOT

from vla_ros.cli import main
from vla_ros.replay.fleet import folder as folder_module
from vla_ros.replay.fleet.folder import ResultsFolder, Run
from vla_ros.replay.fleet.processes import _Waiting
from vla_ros.replay.fleet.result import DamagedResult, Result, Source, encode, read
from vla_ros.replay.fleet.run import Shard
from vla_ros.replay.fleet.task import Task
from vla_ros.replay.report.page import moment_images, render_report
from vla_ros.replay.run import replay_bag
from vla_ros.replay.session import ReplaySession, SessionConfig, replay_session
from vla_ros.robot import load_robot
from vla_ros.strict import config_to_dict


@pytest.fixture(autouse=True)
def _no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy is its folder's name: how far it is off."""
    for module in ("vla_ros.replay.session", "vla_ros.replay.fleet.worker"):
        monkeypatch.setattr(
            f"{module}.load_replay_policy",
            lambda name, path, device: replace(swing_policy(float(path.name)), name=name, drift=f"{name} drifted"),
        )


@pytest.fixture
def bags(tmp_path: Path) -> list[Path]:
    """Three that differ in what was recorded, one that is cut off, and one that isn't there."""
    parts = [
        [mode(0.1, "TELEOP")],
        [chunk(0.4 + k / 5, 0.55 + k / 5) for k in range(5)],
        [trace(0.5, 0.5, (0.1, 0.1), 0.51, 0.7), trace(1.0, 1.0, (0.1, 0.1), 1.01, 1.2)],
    ]
    found = [
        write_bag(tmp_path / f"bag{i}", sensors(1.5), commands(1.5), task(), *more) for i, more in enumerate(parts)
    ]
    broken = tmp_path / "broken.mcap"
    broken.write_bytes(next(found[0].glob("*.mcap")).read_bytes()[:30])
    return [found[0], broken, found[1], tmp_path / "nowhere", found[2]]


def report_of(session: ReplaySession) -> tuple[str, str]:
    verdict, differences = session.judge(None)
    page = render_report(session, verdict, moment_images(session))
    return page, json.dumps(session.document(verdict, differences))


def refused(do: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as error:
        do()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("policies", [("0.1",), ("0.1", "0.2")])
def test_merged_shards_give_the_report_of_one_replay_byte_for_byte(tmp_path, bags, policies):
    reports = [fill(results_of(tmp_path, bags, policies), Shard(i, 2)) for i in (1, 2)]
    assert [(report.replayed, report.refused, report.there) for report in reports] == [(3, 0, 0), (2, 2, 0)]
    config = SessionConfig(
        tuple(bags), tuple(map(Path, policies)), load_robot(tmp_path / "robot.yaml"), SETTINGS, num_threads=1
    )
    one = replay_session(config)
    merged = ResultsFolder.find(tmp_path / "results").merge("any")
    assert report_of(merged) == report_of(one)
    assert [len(of_policy) for of_policy in merged.replays] == [3] * len(policies) and len(merged.unused) == 2


def test_a_result_is_read_as_it_was_made_to_the_last_bit(tmp_path, bags):
    made = replay_bag(bags[2], ROBOT, swing_policy(0.1), SETTINGS)
    result = Result("k" * 64, str(bags[2]), Source.of(bags[2]), "d", "this one", replay=made)
    path = tmp_path / "a.safetensors"
    path.write_bytes(encode(result))
    found = read(path, "k" * 64)
    assert encode(found) == path.read_bytes() and replace(found, replay=made) == result
    assert len(made.chunks) > 3 and np.isnan(made.chunks[-1].commanded).any()
    for ours, theirs in zip(made.chunks, found.replay.chunks, strict=True):
        for name, value in (*vars(ours).items(), *vars(ours.fingerprint).items()):
            other = getattr(theirs, name, None) if hasattr(theirs, name) else getattr(theirs.fingerprint, name)
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(value, other)
                assert value.dtype == other.dtype
    assert (found.replay.events, found.replay.modes) == (made.events, made.modes)
    np.testing.assert_array_equal(found.replay.command_drivers, made.command_drivers)


def test_what_has_a_result_is_not_replayed_again_but_what_could_not_be_used_is(tmp_path, bags):
    fill(results_of(tmp_path, bags))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").glob("bag*")}
    report = fill(results_of(tmp_path, bags))
    assert (report.replayed, report.refused, report.there) == (2, 2, 3)
    assert before == {path: path.stat().st_mtime_ns for path in before} and len(before) == 3


def test_a_bag_that_changed_is_replayed_again_and_one_that_was_touched_is_not(tmp_path, bags):
    fill(results_of(tmp_path, bags[:1]))
    (storage,) = bags[0].glob("*.mcap")
    os.utime(storage, (1, 1))
    assert fill(results_of(tmp_path, bags[:1])).there == 1
    storage.write_bytes(storage.read_bytes()[:-1000])
    assert fill(results_of(tmp_path, bags[:1])).replayed == 1


def test_a_second_policy_leaves_the_results_of_the_first_as_they_are(tmp_path, bags):
    fill(results_of(tmp_path, bags[:1]))
    (first,) = results_of(tmp_path, bags[:1]).paths(str(bags[0]))
    made_ns = first.stat().st_mtime_ns
    both = results_of(tmp_path, bags[:1], ("0.1", "0.2"))
    assert fill(both).replayed == 1 and both.paths(str(bags[0]))[0] == first
    assert first.stat().st_mtime_ns == made_ns and len(both.merge("any").summaries) == 2


def test_a_growing_fleet_replays_its_new_bags_only(tmp_path, bags):
    fill(results_of(tmp_path, bags[:1]))
    assert fill(results_of(tmp_path, [*bags[:1], bags[2]])).there == 1
    assert len(ResultsFolder.find(tmp_path / "results").merge("any").replays[0]) == 2


@pytest.mark.parametrize("keep", [0, 5, 900, -1], ids=["empty", "header", "arrays", "a byte"])
def test_a_damaged_result_is_refused_by_name_and_replayed_again(tmp_path, bags, keep):
    results = results_of(tmp_path, bags[:1])
    fill(results)
    (path,) = results.paths(str(bags[0]))
    whole = path.read_bytes()
    # A byte of the last array, whose size stays.
    path.write_bytes(whole[:keep] if keep >= 0 else whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    line = refused(lambda: results.merge("any"))
    assert str(path) in line and "damaged" in line and "again" in line
    report = fill(results)
    assert report.replayed == 1 and str(path) in report.notes[0]
    assert path.read_bytes() == whole


def test_a_missing_result_is_counted_and_named(tmp_path, bags):
    fill(results_of(tmp_path, bags), Shard(1, 2))
    line = refused(lambda: ResultsFolder.find(tmp_path / "results").merge("any"))
    assert f"2 of 5 bags have no result, the first is {bags[1]}" in line


def test_results_of_other_settings_lie_beside_and_are_asked_for_by_name(tmp_path, bags):
    fill(results_of(tmp_path, bags[:1]))
    assert fill(results_of(tmp_path, bags[:1], settings=replace(SETTINGS, strategy="ensemble"))).replayed == 1
    assert fill(results_of(tmp_path, bags[:1], policies=("0.2",))).replayed == 1
    line = refused(lambda: ResultsFolder.find(tmp_path / "results"))
    assert "several replays" in line and "0.1 on 1 bags, ensemble" in line and "0.2 on 1 bags, latest" in line
    merged = [ResultsFolder.find(path).merge("any") for path in sorted((tmp_path / "results").glob("run-*.json"))]
    found = {(one.summaries[0].name, one.config.settings.strategy) for one in merged}
    assert found == {("0.1", "latest"), ("0.1", "ensemble"), ("0.2", "latest")}


def test_a_result_under_another_name_is_not_taken_for_it(tmp_path, bags):
    results = results_of(tmp_path, [bags[0], bags[2]])
    fill(results)
    (one,), (other,) = (results.paths(str(bag)) for bag in (bags[0], bags[2]))
    other.write_bytes(one.read_bytes())
    assert f"is of bag {bags[0]}; expected {bags[2]}" in refused(lambda: results.merge("any"))
    with pytest.raises(DamagedResult, match="is of replay"):
        read(one, "k" * 64)


def test_a_robot_file_that_changed_is_refused_with_what_changed(tmp_path, bags):
    fill(results_of(tmp_path, bags[:1]))
    changed = config_to_dict(ROBOT) | {"control_rate_hz": 25.0}
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(changed))
    line = refused(lambda: ResultsFolder.find(tmp_path / "results").merge("any"))
    assert "control_rate_hz is 25.0; expected 50.0" in line


def test_a_policy_that_changed_meanwhile_is_refused(tmp_path, bags):
    results = results_of(tmp_path, bags[:1])
    (policy,) = results.run.plan.policies
    plan = replace(results.run.plan, policies=(replace(policy, digest="0ther"),))
    line = refused(lambda: fill(ResultsFolder(results.path, Run(plan, results.run.bags))))
    assert "its digest is d1ce57; expected 0ther" in line


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path, bags, monkeypatch):
    fill(results_of(tmp_path, bags[:1]))
    write, folder = Path.write_bytes, tmp_path / "results"
    before = sorted(folder.iterdir())

    def fill_up(path: Path, data: bytes) -> int:
        if data.startswith(b"{"):  # the run file still has room
            return write(path, data)
        write(path, data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill_up)
    line = refused(lambda: fill(results_of(tmp_path, [bags[0], bags[2]])))
    assert f"results {folder}: No space left on device" in line
    assert sorted(folder.iterdir()) == before and len(before) == 2


def test_a_folder_inside_a_bag_and_two_bags_of_one_name_are_refused(tmp_path, bags):
    run = results_of(tmp_path, bags[:1]).run
    assert f"lies in {bags[0]}" in refused(lambda: ResultsFolder(bags[0] / "results", run))
    assert f"lies in {bags[0]}" in refused(lambda: ResultsFolder(bags[0], run))
    twice = [bags[0], tmp_path / "x" / bags[0].name]
    assert "two bags are called 'bag0'" in refused(lambda: results_of(tmp_path, twice))


def test_of_many_results_only_a_few_replays_are_in_memory_at_a_time(tmp_path, bags, monkeypatch):
    many = [tmp_path / f"copy{i}" for i in range(40)]
    results = results_of(tmp_path, many, ("0.1", "0.2"))
    for name, key in zip(("0.1", "0.2"), results.run.plan.keys, strict=True):
        made = replay_bag(bags[0], ROBOT, replace(swing_policy(float(name)), name=name), SETTINGS)
        for bag in many:
            result = Result(key, str(bag), Source(), "d", "this one", replay=replace(made, bag=str(bag)))
            path = results.path / f"{bag.name}.{key[:16]}.safetensors"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encode(result))
    alive: weakref.WeakValueDictionary[int, object] = weakref.WeakValueDictionary()
    most, num_read = 0, 0

    def watch(path: Path, key: str) -> Result:
        nonlocal most, num_read
        found = read(path, key)
        alive[num_read] = found.replay
        most, num_read = max(most, len(alive)), num_read + 1
        return found

    monkeypatch.setattr(folder_module, "read", watch)
    page, _ = report_of(results.merge("any"))
    # Worst moments and charts are of some, whatever the number of bags.
    assert num_read > 300 and most < 40 and "copy39" in page


def test_a_killed_worker_s_bag_is_given_to_another_once() -> None:
    a, b = Task("a", (0,)), Task("b", (0,))
    waiting = _Waiting([a, b])
    assert waiting.take() == a and waiting.lose(a, "signal SIGKILL") is None
    assert [waiting.take(), waiting.take(), waiting.take()] == [b, a, None]
    lost = waiting.lose(a, "signal SIGKILL")
    assert lost is not None and "bag a: 2 processes that replayed it ended (signal SIGKILL)" in lost.lost


@pytest.mark.parametrize("text", ["3/2", "0/2", "1", "a/b", "1/0", "-1/2", "1/2/3", ""])
def test_a_shard_is_one_of_its_number(text: str) -> None:
    assert "--shard is" in refused(lambda: Shard.parse(text))


def test_shards_have_every_bag_once() -> None:
    bags = list(map(str, range(10)))
    assert sorted(bag for i in (1, 2, 3) for bag in Shard.parse(f"{i}/3").of(bags)) == bags


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "no BAG is given"),
        (["bag", "--jobs", "2"], "--jobs without --results DIR"),
        (["bag", "--shard", "1/2"], "--shard without --results DIR"),
        (["bag", "--ray"], "--ray without --results DIR"),
        (["bag", "--results", "r", "--jobs", "0"], "--jobs is 0; expected at least 1"),
        (["bag", "--results", "r", "--jobs", "2", "--ray"], "--jobs with --ray"),
        (["bag", "--results", "r", "--shard", "1/2", "--out", "x"], "--out with --shard"),
        (["bag", "--results", "r", "--shard", "3/2"], "--shard is 3/2; expected i/n"),
        (["bag", "--merge", "r"], "bag bag with --merge"),
        (["--merge", "r", "--strategy", "rtc"], "--strategy with --merge"),
        (["--merge", "no_such_folder"], "no run-*.json"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_in_one_line(arguments, expected, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["replay", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line and not list(tmp_path.iterdir())


def test_without_ray_the_extra_that_brings_it_is_named(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "vla_ros.replay.fleet.cluster", raising=False)
    assert main(["replay", str(tmp_path / "bag"), "--results", str(tmp_path / "results"), "--ray"]) == 2
    assert "pip install 'vla_ros[ray]'" in capsys.readouterr().err
