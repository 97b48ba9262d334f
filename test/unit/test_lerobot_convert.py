"""Bags to LeRobot data sets and back: what comes back is what went in, pictures within the codec."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("av")
from lerobot_set_helpers import SET  # noqa: E402

from vla_ros.bags.read import BagReader  # noqa: E402
from vla_ros.bags.write import BagWriter  # noqa: E402
from vla_ros.cli import main  # noqa: E402
from vla_ros.messages.trajectories import Trajectory  # noqa: E402
from vla_ros.recordings.events import BagEvent, Command, Marker, Task  # noqa: E402
from vla_ros.recordings.feed import LEARNED, Feed  # noqa: E402
from vla_ros.recordings.lerobot.dataset import LeRobotSet, Rows  # noqa: E402
from vla_ros.recordings.lerobot.to_bags import EventWriter  # noqa: E402
from vla_ros.robot import load_robot  # noqa: E402
from vla_ros.share import robot_file  # noqa: E402
from vla_ros.training.config import SetConfig  # noqa: E402
from vla_ros.training.dataset import Source, load_bags  # noqa: E402
from vla_ros.training.episodes import EpisodeCutter, FrameRule, LearnFrom, Sample  # noqa: E402
from vla_ros.training.sets import open_set  # noqa: E402
from vla_ros.types import Frame, JointSample, Mode  # noqa: E402

EVERYBODY = {"learn_from": LearnFrom(1, 1, 1), "before_takeover_s": 0.0}
DATA = Path(__file__).parents[1] / "data"
GOLDEN, THREE_JOINTS = DATA / "tabletop_touch", DATA / "three_joints.yaml"
COLUMNS = ("driver", "intervention", "stamp_ns")
START_NS, ROW_NS = 1_700_000_000_000_000_000, 50_000_000


def convert(*args: object) -> int:
    return main(["convert", *map(str, args)])


def rows_of(folder: Path, episode: int = 0) -> Rows:
    read = LeRobotSet(folder)
    return read.rows(read.episodes[episode], COLUMNS)


def pictures_of(folder: Path, key: str) -> np.ndarray:
    read = LeRobotSet(folder)
    rows = read.rows(read.episodes[0])
    return np.stack(list(read.pictures(read.info.features[key], read.episodes[0], rows))).astype(np.int64)


@pytest.fixture(scope="module")
def there_and_back(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``set`` of the golden bag, ``bags`` of that, and ``again``, a set of those."""
    folder = tmp_path_factory.mktemp("converted")
    assert convert(GOLDEN, folder / "set", "--to", "lerobot", "--robot", "tabletop") == 0
    assert convert(folder / "set", folder / "bags", "--to", "mcap", "--robot", "tabletop") == 0
    assert convert(folder / "bags", folder / "again", "--to", "lerobot", "--robot", "tabletop", "--codec", "h264") == 0
    return folder


def test_a_set_of_bags_of_a_set_is_the_same_set(there_and_back: Path) -> None:
    first, second = (rows_of(there_and_back / name) for name in ("set", "again"))
    assert len(first.times_s) == 88 and set(first.others["driver"]) == {"POLICY", "TELEOP", "HOLD"}
    assert 0 < first.others["intervention"].sum() < 20
    for name in COLUMNS:
        np.testing.assert_array_equal(first.others[name], second.others[name])
    np.testing.assert_array_equal(first.states, second.states)
    np.testing.assert_allclose(first.actions, second.actions, rtol=0, atol=1e-12)
    assert first.tasks == second.tasks and len(set(first.tasks)) == 1
    seen, again = (pictures_of(there_and_back / name, "observation.images.front") for name in ("set", "again"))
    assert np.abs(seen - again).mean() < 4


class Seen(NamedTuple):
    sample: Sample
    images: np.ndarray


def samples_of(events: Iterable[BagEvent], source: Source, episodes: str) -> dict[int, Seen]:
    """What training learns of, by time; the label is the command in force at the observation itself."""
    robot = load_robot(robot_file("tabletop"))
    rule = FrameRule(horizon=1, chunk_dt_s=0.1, offset=0.0, resize=lambda image: image, episodes=episodes, **EVERYBODY)
    cutter = EpisodeCutter(robot, rule, lambda kind, line: None)
    for event in events:
        cutter.take(event)
    samples = (sample for each in cutter.finish() for sample in each.samples)
    images = load_bags([source], robot, rule).frames.images
    return {sample.stamp_ns: Seen(sample, shown) for sample, shown in zip(samples, images, strict=True)}


def test_observations_and_commands_are_the_bags_own(there_and_back: Path) -> None:
    robot = load_robot(robot_file("tabletop"))
    (bag,) = (there_and_back / "bags").glob("episode_*")
    original, back = (samples_of(Feed(BagReader(path), robot, "", LEARNED), path, "task") for path in (GOLDEN, bag))
    made = SetConfig(str(there_and_back / "set"))
    learned = samples_of(next(open_set(made, robot).episodes()), made, "marker")
    assert len(original) > 70
    for samples in (learned, back):
        # A command between two rows may have been somebody else's.
        assert set(original) <= set(samples) and len(samples) <= len(original) + 3
        for stamp_ns, (expected, shown) in original.items():
            sample, images = samples[stamp_ns]
            assert (sample.driver, sample.is_intervention) == (expected.driver, expected.is_intervention)
            # To the set's 32 bits.
            np.testing.assert_allclose(sample.joint_positions, expected.joint_positions, rtol=0, atol=2e-7)
            np.testing.assert_allclose(sample.actions, expected.actions, rtol=0, atol=2e-7)  # type: ignore[arg-type]
            assert np.abs(images.astype(int) - shown.astype(int)).mean() < 4


def test_bags_and_sets_make_one_training(there_and_back: Path) -> None:
    robot = load_robot(robot_file("tabletop"))
    rule = FrameRule(horizon=5, chunk_dt_s=0.1, offset=1.0, resize=lambda image: image[::32, ::32], **EVERYBODY)
    made = SetConfig(str(there_and_back / "set"), weight=0.5)
    frames = load_bags([made, GOLDEN], robot, rule).frames
    assert frames.tasks == ("move to the green cube",) * 2
    for own, weight in ((frames.episode == 0, 0.5), (frames.episode == 1, 1.0)):
        assert own.sum() > 30 and (frames.weight[own] == weight).all()


@pytest.mark.skipif(find_spec("lerobot") is None or find_spec("datasets") is None, reason="needs lerobot[dataset]")
@pytest.mark.parametrize("name", ["set", "again"])
def test_lerobots_own_reader_takes_what_is_made_of_bags(
    name: str, there_and_back: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    kept = LeRobotDataset("local/made", root=there_and_back / name, video_backend="pyav")
    assert kept[40]["driver"] == rows_of(there_and_back / name).others["driver"][40]
    assert kept[87]["task"] == rows_of(there_and_back / name).tasks[0]
    assert kept.meta.stats["observation.images.front"]["q99"].shape == (3, 1, 1)


def episode(start_ns: int, num_rows: int, outcome: str, *tasks: str) -> Iterator[BagEvent]:
    """Of the robot with three joints, whose second task begins in the middle."""
    yield BagEvent(start_ns - 2, Marker("start"))
    for row in range(num_rows):
        now_ns, joints = start_ns + row * ROW_NS, np.array([0.1, 0.2, 0.3]) + 0.01 * row
        if row in (0, num_rows // 2)[: len(tasks)]:
            yield BagEvent(now_ns - 1, Task(tasks[row > 0]))
        yield BagEvent(now_ns, Mode.TELEOP)
        yield BagEvent(now_ns, Command("arm", now_ns, Trajectory(now_ns, np.zeros(1), joints[None] + 0.02, None)))
        yield BagEvent(now_ns, JointSample(now_ns, joints, np.full(3, np.nan)))
        for late_ns, camera in enumerate(("front", "top")):
            image = np.full((24, 32, 3), 10 * row, np.uint8)
            yield BagEvent(now_ns + late_ns, Frame(camera, now_ns + late_ns, now_ns + late_ns, image))
    yield BagEvent(start_ns + num_rows * ROW_NS, Marker(outcome))


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bags of marked episodes."""
    folder, robot = tmp_path_factory.mktemp("marked"), load_robot(THREE_JOINTS)
    kept = [
        [(8, "success", "reach", "go home"), (6, "discard", "reach"), (0, "success", "reach"), (7, "failure", "reach")],
        [(9, "success", "reach")],
    ]
    for number, episodes in enumerate(kept):
        with BagWriter(folder / f"bag_{number}") as bag:
            writer = EventWriter(bag, robot)
            for place, (num_rows, outcome, *tasks) in enumerate(episodes):
                start_ns = START_NS + (10 * number + place) * 10_000_000_000
                writer.begin()
                for event in episode(start_ns, num_rows, outcome, *tasks):
                    writer.write(event)
    return folder


def test_episodes_are_those_that_were_marked_with_how_they_ended(marked: Path, tmp_path: Path) -> None:
    assert convert(marked, tmp_path / "set", "--to", "lerobot", "--robot", THREE_JOINTS, "--codec", "h264") == 0
    made = LeRobotSet(tmp_path / "set")
    assert made.info.fps == 20
    assert [(each.length, each.outcome) for each in made.episodes] == [(8, "success"), (7, "failure"), (9, "success")]
    assert rows_of(tmp_path / "set").tasks == ("reach",) * 4 + ("go home",) * 4
    assert convert(tmp_path / "set", tmp_path / "bags", "--to", "mcap", "--robot", THREE_JOINTS) == 0
    assert convert(tmp_path / "bags", tmp_path / "again", "--to", "lerobot", "--robot", THREE_JOINTS) == 0
    again = LeRobotSet(tmp_path / "again")
    assert [each.outcome for each in again.episodes] == ["success", "failure", "success"]
    for number in range(3):
        first, second = rows_of(tmp_path / "set", number), rows_of(tmp_path / "again", number)
        assert first.tasks == second.tasks
        np.testing.assert_array_equal(first.others["stamp_ns"], second.others["stamp_ns"])
        np.testing.assert_array_equal(first.states, second.states)


def test_a_conversion_that_was_stopped_goes_on_to_the_same_set(
    marked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ("--to", "lerobot", "--robot", THREE_JOINTS, "--codec", "h264")
    assert convert(marked, tmp_path / "whole", *line) == 0
    from vla_ros.recordings.lerobot import write

    add, num_left = write.EpisodeWriter.add, iter(range(12))  # in the second episode

    def add_until_killed(self: write.EpisodeWriter, images: object) -> None:
        if next(num_left, None) is None:
            raise KeyboardInterrupt
        add(self, images)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(write.EpisodeWriter, "add", add_until_killed)
        assert convert(marked, tmp_path / "set", *line) == 130
    assert len(LeRobotSet(tmp_path / "set").episodes) == 1
    assert convert(marked, tmp_path / "set", *line, "--space", "so101_degrees") == 2
    assert convert(marked, tmp_path / "set", *line, "--fps", 10) == 2
    assert "was begun with another fps; give what it was begun with, or another folder" in capsys.readouterr().err
    assert convert(marked, tmp_path / "set", *line) == 0
    for name in ("meta/info.json", "meta/stats.json", "meta/tasks.parquet", "data/chunk-000/file-001.parquet"):
        assert (tmp_path / "set" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert len(LeRobotSet(tmp_path / "set").episodes) == 3 and not (tmp_path / "set/.partial").exists()
    assert convert(marked, tmp_path / "set", *line) == 0
    assert len(LeRobotSet(tmp_path / "set").episodes) == 3, "nothing is there twice"
    (tmp_path / "bags/episode_000001").mkdir(parents=True)
    assert convert(tmp_path / "set", tmp_path / "bags", "--to", "mcap", "--robot", THREE_JOINTS) == 0
    assert "3 bags, 2 of them new" in capsys.readouterr().out


def test_statistics_of_a_set_are_those_of_all_its_rows(marked: Path, tmp_path: Path) -> None:
    assert convert(marked, tmp_path / "set", "--to", "lerobot", "--robot", THREE_JOINTS, "--codec", "h264") == 0
    stats = json.loads((tmp_path / "set/meta/stats.json").read_text())
    states = np.concatenate([rows_of(tmp_path / "set", number).states for number in range(3)])
    np.testing.assert_allclose(stats["observation.state"]["q01"], np.quantile(states, 0.01, axis=0), atol=1e-6)
    np.testing.assert_allclose(stats["observation.state"]["std"], states.std(0), atol=1e-6)
    levels = np.concatenate([10 * np.arange(length) / 255 for length in (8, 7, 9)])
    front = stats["observation.images.front"]
    np.testing.assert_allclose(np.reshape(front["mean"], 3), levels.mean(), atol=1e-6)
    np.testing.assert_allclose(np.reshape(front["std"], 3), levels.std(), atol=1e-6)
    assert front["count"] == [24] and np.reshape(front["max"], 3)[0] == pytest.approx(80 / 255)


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ((GOLDEN, "OUT", "--to", "zarr", "--robot", "tabletop"), "--to is 'zarr'; expected one of lerobot, mcap"),
        ((GOLDEN, "OUT", "--to", "lerobot", "--robot", "tabletop", "--codec", "vp9"), "--codec is 'vp9'"),
        ((SET, "OUT", "--to", "lerobot", "--robot", "so101"), "no rosbag2 bag in it"),
        ((GOLDEN, "FULL", "--to", "lerobot", "--robot", "tabletop"), "is not empty; give a folder that doesn't exist"),
        ((GOLDEN, "OUT", "--to", "lerobot", "--robot", "tabletop", "--episodes", "marker"), "no episode in 1 bags"),
        (
            (GOLDEN, "OUT", "--to", "lerobot", "--robot", "tabletop", "--space", "droid"),
            "joint is 'fer_joint1'; expected one of base_yaw",
        ),
        ((SET, SET, "OUT", "--to", "mcap", "--robot", "so101"), "2 sources with --to mcap; expected one set"),
        ((SET, "OUT", "--to", "mcap", "--robot", "tabletop"), "joint is 'shoulder_pan'; expected one of base_yaw"),
    ],
)
def test_what_can_not_be_converted_is_refused(
    args: tuple[object, ...], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "FULL").mkdir()
    (tmp_path / "FULL/notes.txt").touch()
    assert convert(*(tmp_path / arg if arg in ("OUT", "FULL") else arg for arg in args)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert named in error
