"""Pictures of samples are decoded one by one, or once into a cache that all processes share."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections import namedtuple
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bag_samples import MCAP, SQLITE, at, image, joint_state, jpeg, storage_file, string, trajectory, write_bag
from rosbags.rosbag2 import CompressionMode, Writer

from vla_ros.policies.config import DataConfig
from vla_ros.recordings import pictures
from vla_ros.robot import RobotConfig
from vla_ros.robot.parts import CameraConfig, JointConfig, OutputConfig
from vla_ros.training.cache import ABOUT, DATA, PARTIAL, CachedPictures, PictureCache, description
from vla_ros.training.dataset import Frames, load_bags
from vla_ros.training.episodes import FrameRule
from vla_ros.training.fetch import NUM_AHEAD, Fetcher
from vla_ros.training.pictures import DecodedPictures, Pictures
from vla_ros.training.samples import SampleMaker, split_by_episode
from vla_ros.transforms.normalize import compute_stats

JOINTS = ("yaw", "lift")
ROBOT = RobotConfig(
    name="small",
    control_rate_hz=10.0,
    joints=tuple(JointConfig(name, -9.0, 9.0, 9.0, 9.0) for name in JOINTS),
    cameras=(CameraConfig("front", "front/image", 8, 6, 0.3), CameraConfig("wrist", "wrist/image", 8, 6, 0.3, True)),
    outputs=(OutputConfig("arm", JOINTS),),
)
NUM_FRAMES = 24


def crop(size: int, image: np.ndarray) -> np.ndarray:
    return image[:size, :size]


RULE = FrameRule(horizon=3, chunk_dt_s=0.1, offset=1.0, resize=partial(crop, 4))


def messages(num: int = NUM_FRAMES) -> list[tuple]:
    """Pictures whose brightness is their number, ten a second."""
    told = [("/vla_policy/task", string("lift it"), at(0.0))]
    for step in range(num):
        now_ns, pixels = at(0.1 * step), np.full((6, 8, 3), 10 * step, np.uint8)
        told.append(("/joint_states", joint_state(now_ns, JOINTS, (0.01 * step, 0.0)), now_ns))
        told.append(("/front/image", image(now_ns, pixels), now_ns + 1))
        told.append(("/wrist/image", jpeg(now_ns, pixels), now_ns + 2))
        command = trajectory(0, JOINTS, [(0.01 * step, 0.0)])
        told.append((f"/{ROBOT.outputs[0].command_topic}", command, now_ns))
    return told


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    return write_bag(tmp_path / "bag", messages())


def levels(images: np.ndarray) -> np.ndarray:
    """The number of each picture, by its brightness."""
    return np.round(images.mean((-1, -2, -3)) / 10).astype(int)


def load(*paths: Path, cache: Path | None = None, lines: list[str] | None = None, rule: FrameRule = RULE) -> Frames:
    kept = {} if cache is None else {"cache": PictureCache(cache, (lines if lines is not None else []).append).pictures}
    # Several are read by several processes, which take seconds to start.
    return load_bags(paths, ROBOT, rule, 2 if len(paths) == 1 else 1, **kept).frames


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
@pytest.mark.parametrize("compression", [None, CompressionMode.MESSAGE, CompressionMode.FILE])
def test_pictures_of_a_bag_are_read_in_any_order_however_it_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: object, compression: object
) -> None:
    if compression is not None:
        compress = Writer.set_compression
        monkeypatch.setattr(Writer, "set_compression", lambda bag, _, kind: compress(bag, compression, kind))
    images = load(write_bag(tmp_path / "bag", messages(), storage, compression)).images
    assert images.shape == (NUM_FRAMES, 2, 4, 4, 3)
    rows = np.random.default_rng(0).permutation(NUM_FRAMES)
    assert np.array_equal(levels(images[rows]), rows[:, None].repeat(2, 1))
    assert levels(images[5]).tolist() == [5, 5] and levels(images[3:5]).tolist() == [[3, 3], [4, 4]]


def test_the_cache_has_what_decoding_gives_and_is_made_once(
    bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, lines, decoded = write_bag(tmp_path / "other", messages(12)), [], []
    expected = load(bag, other).images[:]
    read = DecodedPictures.read
    monkeypatch.setattr(DecodedPictures, "read", lambda self, rows: decoded.extend(rows) or read(self, rows))
    first = load(bag, other, cache=tmp_path / "cache", lines=lines).images
    assert isinstance(first, CachedPictures) and np.array_equal(first[:], expected)
    assert sorted(decoded) == list(range(len(expected))) and len(lines) == 1 and "decoding 2 recordings" in lines[0]
    # Another horizon, another order and fewer bags find the same.
    again = load(other, bag, cache=tmp_path / "cache", lines=lines, rule=FrameRule(5, 0.1, 1.0, RULE.resize)).images
    rows = np.array([len(expected) - 1, 0, 11])
    assert np.array_equal(again[rows], np.concatenate((expected[24:], expected[:24]))[rows])
    assert len(decoded) == len(expected) and len(lines) == 1
    smaller = load(bag, cache=tmp_path / "cache", rule=FrameRule(3, 0.1, 1.0, partial(crop, 2))).images
    assert smaller.shape[2:] == (2, 2, 3) and len(decoded) == len(expected) + 24, "another size is another entry"
    os.utime(storage_file(bag), ns=(1, 1))
    load(bag, cache=tmp_path / "cache")
    assert len(decoded) == len(expected) + 48, "a file that was changed is read again"


def spoil_data(entry: Path) -> None:
    content = bytearray((entry / DATA).read_bytes())
    content[-40:] = bytes(40)
    (entry / DATA).write_bytes(content)


def spoil_key(entry: Path) -> None:
    about = json.loads((entry / ABOUT).read_text())
    about["key"]["shape"][0] += 1
    (entry / ABOUT).write_text(json.dumps(about))


DAMAGE = {
    "cut": lambda entry: os.truncate(entry / DATA, 100),
    "other pixels": spoil_data,
    "no description": lambda entry: (entry / ABOUT).unlink(),
    "no JSON": lambda entry: (entry / ABOUT).write_text('{"key": '),
    "a list": lambda entry: (entry / ABOUT).write_text("[]"),
    "of something else": spoil_key,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_foreign_entry_is_named_and_made_anew(bag: Path, tmp_path: Path, damage: str) -> None:
    cache, lines = tmp_path / "cache", []
    expected = load(bag, cache=cache).images[:]
    (entry,) = (path for path in cache.iterdir() if path.is_dir())
    DAMAGE[damage](entry)
    shutil.copytree(entry, entry.with_name(f"{entry.name}{PARTIAL}"))  # as a killed process leaves it
    assert np.array_equal(load(bag, cache=cache, lines=lines).images[:], expected)
    assert str(entry) in lines[0] and "damaged, or another's (" in lines[0] and "\n" not in lines[0]
    assert load(bag, cache=cache, lines=lines) is not None and len(lines) == 2
    assert [path for path in cache.iterdir() if path.is_dir()] == [entry]


def test_one_process_decodes_and_the_others_wait_for_it(
    bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, decoded, begun, may_go_on = [], [], threading.Event(), threading.Event()
    read = DecodedPictures.read

    def slow(self: DecodedPictures, rows: np.ndarray) -> np.ndarray:
        decoded.extend(rows)
        begun.set()
        assert may_go_on.wait(60)
        return read(self, rows)

    monkeypatch.setattr(DecodedPictures, "read", slow)
    found: dict[int, Pictures] = {}
    # A lock belongs to an open file: it keeps threads apart as it does processes.
    both = [
        threading.Thread(target=lambda i=i: found.update({i: load(bag, cache=tmp_path / "cache", lines=lines).images}))
        for i in range(2)
    ]
    both[0].start()
    assert begun.wait(60)
    both[1].start()
    while not any("waiting for process" in line for line in lines):
        assert both[1].is_alive()
    may_go_on.set()
    for thread in both:
        thread.join(60)
    assert len(decoded) == NUM_FRAMES and np.array_equal(found[0][:], found[1][:])


def test_a_disk_that_is_too_small_is_known_before_anything_is_decoded(
    bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("vla_ros.training.cache.shutil.disk_usage", lambda _: usage(2, 1, 1000))
    monkeypatch.setattr(DecodedPictures, "read", lambda *_: pytest.fail("nothing is to be decoded"))
    with pytest.raises(ValueError, match=r"pictures of 1 recordings take .* GB, and 0.00 are free; .*cache=off") as no:
        load(bag, cache=tmp_path / "cache")
    assert "\n" not in str(no.value)


def test_a_cache_that_cannot_be_written_is_refused(bag: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cache .*file.*; give another folder with cache=DIR, or .* with cache=off"):
        load(bag, cache=tmp_path / "file")


@pytest.fixture
def _one_is_spoiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The JPEG of step 7 turns out to be none when it is decoded."""
    decode = pictures.decode_frame

    def decode_others(msg: Any, width: int, height: int) -> np.ndarray:
        image = decode(msg, width, height)
        if hasattr(msg, "format") and round(image.mean() / 10) == 7:
            raise ValueError("image of 100 bytes is no picture")
        return image

    monkeypatch.setattr(pictures, "decode_frame", decode_others)


@pytest.mark.usefixtures("_one_is_spoiled")
def test_a_picture_that_cannot_be_decoded_is_left_out_counted_and_named(bag: Path, tmp_path: Path) -> None:
    for _ in range(2):  # decoded, and found in the cache
        loaded = load_bags([bag], ROBOT, RULE, 1, PictureCache(tmp_path / "cache", lambda line: None).pictures)
        frames = loaded.frames
        assert len(frames) == NUM_FRAMES - 1 == len(frames.images) == len(frames.texts)
        assert loaded.num_left_out["with a picture that can't be decoded"] == 1
        assert loaded.problems == (f"bag {bag}: image of 100 bytes is no picture; its sample is left out",)
        assert levels(frames.images[:])[:, 0].tolist() == [i for i in range(NUM_FRAMES) if i != 7]
        assert np.allclose(frames.joint_positions[7], (0.08, 0.0))


class Kept:
    """A processor that keeps what a batch is made of."""

    def __init__(self) -> None:
        self.data = DataConfig(JOINTS, ("front", "wrist"), 3, 0.1).bind(ROBOT)
        self.stats = {"state": compute_stats(np.eye(2)[:, None]), "action": compute_stats(np.eye(2)[:, None] + [[0]])}

    def make_batch(self, images: np.ndarray, tasks: list[str], states: np.ndarray, targets: list) -> np.ndarray:
        return images


@pytest.mark.usefixtures("_one_is_spoiled")
def test_without_a_cache_such_a_sample_teaches_nothing_when_it_is_drawn(bag: Path) -> None:
    frames = load(bag)
    samples = SampleMaker(frames, Kept())  # type: ignore[arg-type]
    assert samples.num_lost == 0 and not samples.problems
    batch = samples.batch(np.array([6, 7, NUM_FRAMES - 1]), [np.random.default_rng(0)] * 3)
    assert batch.num_known is not None and batch.num_known.tolist() == [3, 0, 1]
    assert batch.policy_input[1].max() == 0 and batch.policy_input[0].max() > 0
    assert samples.num_lost == 1 and "its sample is left out" in samples.problems[0]


def test_an_episode_without_samples_counts_for_neither_side(tmp_path: Path) -> None:
    frames = load(write_bag(tmp_path / "one", messages(8)), write_bag(tmp_path / "two", messages(8)))
    split = split_by_episode(frames.take(np.arange(16)), 0.5)
    assert len(split.train) == len(split.validation) == 8
    with pytest.raises(ValueError, match="1 episode.* leave none to train on"):
        split_by_episode(frames.take(np.arange(8)), 0.5)


def test_statistics_are_of_what_lies_within_episodes() -> None:
    values, known = np.random.default_rng(0).normal(size=(50, 4, 2)), np.arange(50) % 3 + 1
    values[:, 3] = np.nan  # where nobody reaches
    stats = compute_stats(values, known)
    for step in range(3):
        own = values[known > step, step]
        np.testing.assert_allclose(stats.mean[step], own.mean(0), rtol=1e-5)
        np.testing.assert_allclose(stats.std[step], own.std(0), rtol=1e-5)
        np.testing.assert_allclose(stats.q99[step], np.quantile(own, 0.99, axis=0), rtol=1e-5)
    assert np.array_equal(stats.mean[3], stats.mean[2]) and np.array_equal(stats.q01[3], stats.q01[2])


def test_what_steps_need_is_made_ahead_in_one_thread_and_no_further_than_the_last() -> None:
    made: list[tuple[int, str]] = []

    def make(step: int) -> int:
        made.append((step, threading.current_thread().name))
        if step == 3:
            raise ValueError("step 3 is bad")
        return 10 * step

    fetcher = Fetcher(make, end=5)
    assert [fetcher.take(step) for step in (0, 1)] == [0, 10]
    assert fetcher.call(lambda: threading.current_thread().name) == made[0][1] != threading.current_thread().name
    assert [step for step, _ in made] == list(range(2 + NUM_AHEAD))
    assert fetcher.take(2) == 20
    with pytest.raises(ValueError, match="step 3 is bad"):
        fetcher.take(3)
    assert fetcher.take(4) == 40 and fetcher.take(1) == 10, "another step than the next is made, too"
    fetcher.close()
    assert max(step for step, _ in made) == 4


def test_how_pictures_are_resized_is_told_by_its_name_and_what_it_is_given() -> None:
    told = [description(each) for each in (partial(crop, 4), partial(crop, 5), np.asarray)]
    assert len(set(told)) == 3 and description(partial(crop, 4)) == told[0]
