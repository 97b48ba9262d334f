"""LeRobot data sets on disk: what they say of a robot, and what is refused by name."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("av")
from lerobot_set_helpers import (  # noqa: E402
    FRONT,
    NUM_ROWS,
    SET,
    add_column,
    copy_of,
    cut,
    drop_rows,
    edit_info,
    lose_index,
    name_joints,
    set_value,
    shorten_video,
)

from vla_ros.recordings.events import BagEvent, Command, Marker, Task  # noqa: E402
from vla_ros.recordings.lerobot.dataset import LeRobotSet  # noqa: E402
from vla_ros.recordings.lerobot.feed import SetFeed  # noqa: E402
from vla_ros.recordings.lerobot.mapping import check_limits  # noqa: E402
from vla_ros.recordings.lerobot.video import VideoWriter, decode_frames  # noqa: E402
from vla_ros.robot import RobotConfig, load_robot  # noqa: E402
from vla_ros.share import robot_file  # noqa: E402
from vla_ros.training.config import SetConfig  # noqa: E402
from vla_ros.training.sets import map_config, open_set  # noqa: E402
from vla_ros.types import Frame, JointSample, Mode  # noqa: E402

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")


@pytest.fixture(scope="module")
def robot() -> RobotConfig:
    return load_robot(robot_file("so101"))


def opened(folder: Path, robot: RobotConfig, space: str = "", **more: object) -> SetFeed:
    return open_set(SetConfig(str(folder), space, **more), robot)  # type: ignore[arg-type]


def alone(folder: Path) -> Path:
    """The same of another writer, who doesn't say what the numbers mean."""
    (folder / "meta/vla_ros.json").unlink()
    return folder


def said(events: list[BagEvent], kind: type) -> list:
    return [event.said for event in events if isinstance(event.said, kind)]


@pytest.fixture(scope="module")
def episodes(robot: RobotConfig) -> list[list[BagEvent]]:
    return [list(events) for events in opened(SET, robot).episodes()]


def test_the_kept_set_is_small() -> None:
    assert sum(path.stat().st_size for path in SET.rglob("*") if path.is_file()) < 200_000


@pytest.mark.skipif(find_spec("lerobot") is None or find_spec("datasets") is None, reason="needs lerobot[dataset]")
def test_lerobots_own_reader_takes_the_kept_set(monkeypatch: pytest.MonkeyPatch) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    kept = LeRobotDataset("local/kept", root=SET, video_backend="pyav", delta_timestamps={"action": [0.0, 0.1]})
    assert (kept.num_episodes, len(kept), kept.fps) == (3, 3 * NUM_ROWS, 10)
    row, ours = kept[NUM_ROWS + 5], LeRobotSet(SET)
    mine = ours.rows(ours.episodes[1])
    assert row["task"] == mine.tasks[5] and row["driver"] == "TELEOP" and not row["intervention"]
    np.testing.assert_array_equal(row["observation.state"].numpy(), mine.states[5].astype(np.float32))
    np.testing.assert_array_equal(row["action"].numpy(), mine.actions[5:7].astype(np.float32))
    picture = list(ours.pictures(ours.info.features[FRONT], ours.episodes[1], mine))[5]
    np.testing.assert_allclose(row[FRONT].numpy().transpose(1, 2, 0) * 255, picture, atol=2)
    assert {"q01", "q99", "mean"} <= set(kept.meta.stats["action"])


def test_a_row_is_what_the_sensors_gave_and_the_command_due_at_its_time(
    episodes: list[list[BagEvent]], robot: RobotConfig
) -> None:
    events = episodes[1]
    kinds = Counter(type(event.said) for event in events)
    assert kinds[Frame] == 2 * NUM_ROWS and kinds[JointSample] == kinds[Command] == NUM_ROWS
    samples, commands = said(events, JointSample), said(events, Command)
    frames = [frame for frame in said(events, Frame) if frame.camera == "wrist"]
    assert [one.stamp_ns for one in samples] == [one.due_ns for one in commands] == [one.stamp_ns for one in frames]
    assert np.diff([one.stamp_ns for one in samples]).tolist() == [100_000_000] * (NUM_ROWS - 1)
    degrees = np.rad2deg(commands[3].trajectory.positions[0][:5])
    lower, upper = np.array([robot.joint_limits[name] for name in JOINTS[:5]]).T
    expected = np.array([20, 15, 25, 10, 30]) * np.sin(0.3 + np.arange(5) + 1) + np.rad2deg(lower + upper) / 2
    np.testing.assert_allclose(degrees, expected, atol=1e-4)
    # The block is where it was drawn, to the pixel's half.
    image = frames[7].image
    assert image.shape == (480, 640, 3) and image[240, 40 + 140 + 40, 0] > 180 > image[240, 100, 0]


def test_an_episode_says_its_task_its_outcome_and_who_drove(episodes: list[list[BagEvent]]) -> None:
    marked = [[marker.text for marker in said(events, Marker)] for events in episodes]
    assert marked == [["start", "success"], ["start", "success"], ["start", "failure"]]
    assert [said(events, Task)[0].text for events in episodes][1:] == [
        "put the block into the box",
        "give me the block",
    ]
    assert said(episodes[0], Mode) == [Mode.TELEOP]
    assert said(episodes[2], Mode)[-3:] == [Mode.POLICY, Mode.TELEOP, Mode.POLICY]


def test_a_set_of_another_writer_has_its_own_time_and_a_human_where_it_says_intervention(
    tmp_path: Path, robot: RobotConfig
) -> None:
    folder = alone(copy_of(tmp_path))
    edit_info(lambda info: [info["features"].pop(key) for key in ("stamp_ns", "driver")])(folder)
    for episode, value in enumerate((True, False, False)):
        add_column(folder, "next.success", "bool", [value and row == 23 for row in range(NUM_ROWS)], episode)
    set_value("meta/episodes", "outcome", 0, lambda _: "")(folder)
    first, second, third = (list(events) for events in opened(folder, robot, "so101_degrees").episodes())
    stamps_ns = np.array([one.stamp_ns for one in said(first, JointSample)])
    np.testing.assert_allclose(np.diff(stamps_ns), 100_000_000, atol=1000)
    assert said(second, JointSample)[0].stamp_ns > stamps_ns[-1]
    assert [said(events, Marker)[-1].text for events in (first, second)] == ["success", "success"]
    assert said(first, Mode) == [Mode.POLICY] and said(third, Mode)[-2:] == [Mode.TELEOP, Mode.POLICY]


@pytest.mark.skipif(find_spec("lerobot") is None or find_spec("datasets") is None, reason="needs lerobot[dataset]")
def test_a_set_that_lerobot_writes_is_read(tmp_path: Path, robot: RobotConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    vector = {"dtype": "float32", "shape": (6,), "names": [f"{name}.pos" for name in JOINTS]}
    pictures = {"shape": (480, 640, 3), "names": ["height", "width", "channels"]}
    features = {"observation.state": vector, "action": vector, FRONT: {"dtype": "video", **pictures}}
    features["observation.images.wrist"] = {"dtype": "image", **pictures}
    theirs = LeRobotDataset.create("local/theirs", 20, features, root=tmp_path / "set", robot_type="so101")
    for episode in range(2):
        for row in range(5 + episode):
            numbers, image = np.full(6, row, np.float32), np.full((480, 640, 3), 40 * row + 20 * episode, np.uint8)
            seen = {"observation.state": numbers, FRONT: image, "observation.images.wrist": 255 - image}
            theirs.add_frame({**seen, "action": numbers + 1, "task": f"task {episode}"})
        theirs.save_episode()
    theirs.finalize()
    for episode, events in enumerate(opened(tmp_path / "set", robot, "so101_degrees").episodes()):
        kept = list(events)
        assert [task.text for task in said(kept, Task)] == [f"task {episode}"]
        levels = 40 * np.arange(5 + episode) + 20 * episode
        frames = {name: [f.image.mean() for f in said(kept, Frame) if f.camera == name] for name in ("front", "wrist")}
        np.testing.assert_allclose(frames["front"], levels, atol=2)
        np.testing.assert_allclose(frames["wrist"], 255 - levels, atol=1e-9)
        commanded = np.array([one.trajectory.positions[0, :2] for one in said(kept, Command)])
        np.testing.assert_allclose(np.rad2deg(np.diff(commanded, axis=0)), 1, atol=1e-6)


def test_joints_in_rad_are_found_by_name_in_any_order(tmp_path: Path, robot: RobotConfig) -> None:
    folder = alone(copy_of(tmp_path))
    for key in ("observation.state", "action"):
        name_joints(key, *(f"{name}.pos" for name in reversed(JOINTS)))(folder)
        for row in range(NUM_ROWS):
            set_value("data", key, row, lambda numbers: [number / 100 for number in numbers])(folder)
    source = LeRobotSet(folder)
    source.episodes = source.episodes[:1]
    mapping = map_config(source, SetConfig(str(folder)), robot)
    check_limits(source, mapping, robot)
    rows = source.rows(source.episodes[0])
    np.testing.assert_array_equal(mapping.targets(rows.actions, mapping.positions(rows.states)), rows.actions[:, ::-1])


def test_frames_are_found_by_the_nearest_time_within_half_a_frame(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "some.mp4", 10, 64, 48, "av1") as video:
        for level in range(0, 200, 20):
            video.add(np.full((48, 64, 3), level, np.uint8))
    found = decode_frames(tmp_path / "some.mp4", np.array([0.04, 0.26, 0.34, 0.9]), 0.05)
    assert [round(float(image.mean()) / 20) for image in found] == [0, 3, 3, 9]
    with pytest.raises(ValueError, match=r"no frame at 0\.960 s, for row 0 of 1; the nearest at 0\.900 s"):
        list(decode_frames(tmp_path / "some.mp4", np.array([0.96]), 0.05))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no set": (lambda folder: (folder / "meta/info.json").unlink(), "has no meta/info.json; expected the folder of a"),
    "v2.1": (
        edit_info(lambda info: info.update(codebase_version="v2.1")),
        r"'v2.1'; expected v3.0: convert it with python -m lerobot.*convert_dataset_v21_to_v30 --repo-id=set --root=",
    ),
    "no fps": (edit_info(lambda info: info.pop("fps")), "info.json: has no fps; expected how many rows a second has"),
    "fps 0": (edit_info(lambda info: info.update(fps=0)), "fps is 0; expected"),
    "no action": (edit_info(lambda info: info["features"].pop("action")), "expected a vector 'action' among them"),
    "path outside": (
        edit_info(lambda info: info.update(data_path="../../{chunk_index}/{file_index}")),
        "data_path is '../../",
    ),
    "no index": (lose_index, "tasks.parquet has columns task_index; expected task_index, and the instructions as its"),
    "tasks cut": (cut("meta/tasks.parquet"), "tasks.parquet: damaged"),
    "rows cut": (cut("data/chunk-000/file-001.parquet"), "file-001.parquet: damaged"),
    "rows missing": (drop_rows, f"episode 0 has {NUM_ROWS - 4} rows; expected {NUM_ROWS}"),
    "no rows file": (
        lambda folder: (folder / "data/chunk-000/file-002.parquet").unlink(),
        "file-002.parquet is missing",
    ),
    "NaN": (
        set_value("data", "action", 7, lambda row: [*row[:2], math.nan, *row[3:]]),
        r"action is nan for elbow_flex.pos in frame 7; expected finite numbers",
    ),
    "infinite": (
        set_value("data", "action", 0, lambda row: [math.inf, *row[1:]]),
        "action is inf for shoulder_pan.pos",
    ),
    "empty episode": (
        set_value("meta/episodes", "length", 0, lambda _: 0),
        "episode 0 has 0 frames; expected at least",
    ),
    "task unknown": (set_value("data", "task_index", 3, lambda _: 9), "has task_index 9; meta/tasks.parquet has 0, 1"),
    "time back": (set_value("data", "timestamp", 5, lambda _: 0.0), "timestamps don't increase"),
    "joints elsewhere": (
        name_joints("action", "shoulder_lift.pos", "shoulder_pan.pos", *(f"{name}.pos" for name in JOINTS[2:])),
        "action has joint 'shoulder_lift' as number 0, where the space has 'shoulder_pan'",
    ),
    "video cut": (
        cut(f"videos/{FRONT}/chunk-000/file-000.mp4"),
        "file-000.mp4: damaged or cut off",
    ),
    "video short": (
        shorten_video,
        r"file-001.mp4 has 21 frames; expected 24, one for each row: it is cut off, or not of this set",
    ),
    "no video": (
        lambda folder: (folder / f"videos/{FRONT}/chunk-000/file-001.mp4").unlink(),
        "file-001.mp4 is missing",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_wrong_with_a_set_is_refused_in_one_line(damage: str, tmp_path: Path, robot: RobotConfig) -> None:
    folder = copy_of(tmp_path)
    breaks, named = DAMAGE[damage]
    breaks(folder)
    with pytest.raises(ValueError, match=named) as refusal:
        for events in opened(folder, robot).episodes():
            for _ in events:
                pass
    assert "\n" not in str(refusal.value) and str(folder) in str(refusal.value)


@pytest.mark.parametrize(
    ("names", "space", "named"),
    [
        (None, "", r"joint 'shoulder_pan' from -1.* within its limits.*are these degrees or another range\?"),
        (
            ("a", "b", "c", "d", "e", "f"),
            "",
            "lacks shoulder_pan, .*gripper and has a, b, c, d, e, f; expected joints shoulder_pan, shoulder_lift",
        ),
        ((*JOINTS[:5], JOINTS[0]), "", "names joint 'shoulder_pan' twice; expected each once"),
        ((), "", "has numbers without names; say what its numbers mean with --space"),
        (None, "droid", "expected one of shoulder_pan, shoulder_lift"),
        (
            None,
            "pi0_relative",
            "action follows observation.state, and space pi0_relative takes it for relative to that; expected absolute",
        ),
        (None, "{numbers: 5}", r"observation.state has 6 numbers .*; the space has 5"),
        (None, "{numbers: 5, size: 1}", "doesn't say where joint 'gripper' is; expected shoulder_pan"),
    ],
)
def test_numbers_that_nobody_explains_are_refused(
    names: tuple[str, ...] | None, space: str, named: str, tmp_path: Path, robot: RobotConfig
) -> None:
    folder = alone(copy_of(tmp_path))
    for key in ("observation.state", "action"):
        if names is not None:
            name_joints(key, *names)(folder)
    if space.startswith("{"):
        arm = "{type: joints, unit: deg, joints: [shoulder_pan, shoulder_lift, elbow_flex, wrist_flex, wrist_roll]}"
        both = f"[{arm}, {{type: constant, size: 1}}]" if "size" in space else f"[{arm}]"
        (tmp_path / "space.yaml").write_text(f"state: {both}\naction: {both}\n")
        space = str(tmp_path / "space.yaml")
    with pytest.raises(ValueError, match=named):
        opened(folder, robot, space)


@pytest.mark.parametrize(
    ("cameras", "size", "named"),
    [
        (
            {"front": "wrist"},
            480,
            r"none of its cameras \(front, wrist\) is the robot's 'front': say which with --camera",
        ),
        ({"side": "front"}, 480, "it has no camera 'side', which is to be 'front'; it has front, wrist"),
        ({"wrist": "side"}, 480, "camera 'wrist' is to be 'side'; the robot has front, wrist"),
        ({"wrist": "front", FRONT: "front"}, 480, "two cameras are to be 'front'"),
        (
            {},
            240,
            r"observation.images.front has 640x480 pixels; expected 640x240, as camera 'front' of the robot file",
        ),
    ],
)
def test_cameras_that_do_not_fit_are_refused(
    cameras: dict[str, str], size: int, named: str, robot: RobotConfig
) -> None:
    other = replace(robot, cameras=tuple(replace(camera, height=size) for camera in robot.cameras))
    with pytest.raises(ValueError, match=named):
        opened(SET, other, cameras=cameras)


def test_cameras_are_exchanged_by_name_and_one_that_is_not_the_robots_is_named(robot: RobotConfig) -> None:
    feed = opened(SET, robot, cameras={"wrist": "front", "front": "wrist"})
    first = {event.said.camera: event.said.image for event in next(feed.episodes()) if isinstance(event.said, Frame)}
    assert abs(first["front"][10, 10].mean() - 107) < 3, "the wrist's table"
    feed = opened(SET, replace(robot, cameras=robot.cameras[:1]))
    assert feed.problems == (f"{SET}: observation.images.wrist is no camera that is looked at; it is left out",)
