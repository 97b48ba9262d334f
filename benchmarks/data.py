"""What reading training data costs: `python benchmarks/data.py [--row cache decoding waiting memory]`.

All recordings are made up here, in a temporary folder.

cache     samples of two cameras of 640x480 at 224x224, drawn at random: from the cache against decoding AV1 with a key
          frame every 2, times as fast
decoding  the same samples decoded on the fly at their own size, in one thread, against PyAV alone on the same frames,
          AV1 and H.264, times as fast
waiting   share of its steps that a training of tiny_touch waits for data, from the cache; median of its steps
memory    most memory of a training on 10 times as many samples as another, of bags and of LeRobot sets, against that

Exits 1 where a figure misses its limit.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from vla_ros import topics
from vla_ros.bags.definitions import message_type, serialize
from vla_ros.bags.write import BagWriter
from vla_ros.recordings.lerobot.write import EpisodeRows, SetLayout, SetWriter
from vla_ros.robot import RobotConfig, load_robot
from vla_ros.robot.parts import CameraConfig, JointConfig, OutputConfig
from vla_ros.share import robot_file
from vla_ros.training.cache import PictureCache
from vla_ros.training.config import SetConfig
from vla_ros.training.dataset import load_bags
from vla_ros.training.episodes import FrameRule
from vla_ros.training.pictures import DecodedPictures, Pictures
from vla_ros.units import NS_PER_S

AT_LEAST = {"cache": 5.0, "decoding": 0.8}
AT_MOST = {"waiting": 0.05, "memory": 1.1}
JOINTS = ("base", "shoulder", "wrist")
WIDTH, HEIGHT, SIDE, FPS = 640, 480, 224, 30.0
NUM_ROWS, BATCH_SIZE, NUM_BATCHES, NUM_ROUNDS = 150, 16, 4, 3
START_NS = 10**18
MEMORY_EPISODES, MEMORY_ROWS, MORE = 4, 150, 10
NUM_STEPS, NUM_WARM = 30, 5
# A policy that takes little itself: what data takes shows.
SMALL = (
    "start_from=''", "~lesson.demonstrations", "policy.vlm_config.text_config.intermediate_size=64",
    "policy.action_expert_cfg.hidden_size=32", "policy.action_expert_cfg.intermediate_size=32",
    "optimizer.num_steps=8", "optimizer.batch_size=64", "optimizer.warmup_steps=1", "validate_every=100",
    "checkpoint_every=100", "num_workers=1", "num_threads=1", "device=cpu",
)  # fmt: skip
WAITING = (
    "start_from=''", "~lesson.demonstrations", f"optimizer.num_steps={NUM_STEPS}", "optimizer.warmup_steps=5",
    "validate_every=1000", "checkpoint_every=1000", "device=cpu",
)  # fmt: skip


def make_robot() -> RobotConfig:
    return RobotConfig(
        name="made_up",
        control_rate_hz=FPS,
        joints=tuple(JointConfig(name, -3.0, 3.0, 1.0, 5.0) for name in JOINTS),
        cameras=tuple(CameraConfig(name, f"{name}/image", WIDTH, HEIGHT, 0.3) for name in ("front", "top")),
        outputs=(OutputConfig("arm", JOINTS),),
    )


def shrink(image: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA))


def make_picture(number: int, height: int, width: int) -> np.ndarray:
    """A scene that moves, with the noise of a sensor."""
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([x * 0.3 + 20, y * 0.4, (x + y) * 0.2], -1) + 60 * np.sin((x + 3 * number) / 19)[..., None]
    return np.clip(smooth + np.random.default_rng(number).normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def make_targets(num_rows: int, num_joints: int) -> np.ndarray:
    return 0.3 + 0.2 * np.sin(np.arange(num_rows)[:, None] / 20 + np.arange(num_joints))


def make_set(folder: Path, robot: RobotConfig, codec: str, num_episodes: int, num_rows: int) -> SetConfig:
    names = tuple(f"{name}.pos" for name in robot.joint_names)
    sizes = {camera.name: (camera.height, camera.width) for camera in robot.cameras}
    writer = SetWriter(folder, SetLayout(robot.name, FPS, names, names, sizes, codec, {}))
    targets = make_targets(num_rows, len(names))
    # Pictures come again after a while: what there is to decode is the same.
    pictures = {size: [make_picture(i, *size) for i in range(30)] for size in set(sizes.values())}
    for episode in range(num_episodes):
        drawn = writer.begin()
        for row in range(num_rows):
            drawn.add({name: pictures[size][(row + i) % 30] for i, (name, size) in enumerate(sizes.items())})
        begun_ns = START_NS + episode * 1000 * NS_PER_S
        stamps_ns = begun_ns + np.round(np.arange(num_rows) / FPS * NS_PER_S).astype(np.int64)
        stamps_ns = stamps_ns[:, None].repeat(1 + len(sizes), 1)
        nobody, never = [""] * num_rows, [False] * num_rows
        rows = EpisodeRows(targets, targets, ["reach"] * num_rows, nobody, never, stamps_ns)
        writer.add(drawn, rows, "", "made up", episode)
    writer.finish()
    return SetConfig(str(folder))


def make_bags(folder: Path, robot: RobotConfig, num_bags: int, num_rows: int) -> None:
    """Of JPEGs; an episode in each."""
    string, point, duration = (
        message_type(name)
        for name in (topics.STRING, "trajectory_msgs/msg/JointTrajectoryPoint", "builtin_interfaces/msg/Duration")
    )
    stamp, header = message_type("builtin_interfaces/msg/Time"), message_type("std_msgs/msg/Header")
    targets, none, names = make_targets(num_rows, len(robot.joint_names)), np.zeros(0), list(robot.joint_names)
    cameras = {camera.name: topics.compressed(camera.topic) for camera in robot.cameras}
    encoded = [
        cv2.imencode(".jpg", make_picture(i, robot.cameras[0].height, robot.cameras[0].width))[1] for i in range(30)
    ]
    for number in range(num_bags):
        with BagWriter(folder / f"bag_{number:03d}") as bag:
            kinds = {"joint_states": topics.JOINT_STATE, robot.outputs[0].set_point_topic: topics.TRAJECTORY}
            kinds |= {topics.TASK.name: topics.STRING} | dict.fromkeys(cameras.values(), topics.COMPRESSED_IMAGE)
            for topic, kind in kinds.items():
                bag.add_topic(f"/{topic}", kind)
            bag.write(f"/{topics.TASK.name}", serialize(string("reach")), START_NS)
            for row in range(num_rows):
                now_ns = START_NS + round((row + 1) / FPS * NS_PER_S)
                said = header(stamp(*divmod(now_ns, NS_PER_S)), "")
                state = message_type(topics.JOINT_STATE)(said, names, targets[row], none, none)
                bag.write("/joint_states", serialize(state), now_ns)
                points = [point(targets[row], none, none, none, duration(0, 20_000_000))]
                command = message_type(topics.TRAJECTORY)(said, names, points)
                bag.write(f"/{robot.outputs[0].set_point_topic}", serialize(command), now_ns)
                for i, topic in enumerate(cameras.values()):
                    image = message_type(topics.COMPRESSED_IMAGE)(said, "jpeg", encoded[(row + i) % 30])
                    bag.write(f"/{topic}", serialize(image), now_ns)


def decoded_of(folder: Path, codec: str, resize: Callable[[np.ndarray], np.ndarray]) -> DecodedPictures:
    """The pictures of a made-up set, in one thread."""
    robot = make_robot()
    made = SetConfig(str(folder / codec))
    if not Path(made.path).exists():
        made = make_set(folder / codec, robot, codec, num_episodes=2, num_rows=NUM_ROWS)
    images = load_bags([made], robot, FrameRule(10, 1 / FPS, 1.0, resize)).frames.images
    assert isinstance(images, DecodedPictures)
    return images


def draw(num: int, number: int) -> np.ndarray:
    return np.random.default_rng([7, number]).permutation(num)[:BATCH_SIZE]


def seconds(images: Pictures, batches: Sequence[np.ndarray]) -> float:
    started = time.perf_counter()
    for rows in batches:
        images.read(rows)
    return time.perf_counter() - started


def row_cache(folder: Path) -> dict[str, float]:
    decoded = decoded_of(folder, "av1", shrink)
    cached = PictureCache(folder / "cache", print).pictures(decoded)
    everything = np.arange(len(decoded))
    assert np.array_equal(decoded.read(everything[:20]), cached.read(everything[:20]))
    took = {"decoded": 0.0, "cached": 0.0}
    for number in range(NUM_ROUNDS):
        batches = [draw(len(decoded), NUM_BATCHES * number + i) for i in range(NUM_BATCHES)]
        took["decoded"] += seconds(decoded, batches)
        took["cached"] += seconds(cached, batches)
    num = NUM_ROUNDS * NUM_BATCHES * BATCH_SIZE
    print(", ".join(f"{name} {num / value:.0f} samples/s" for name, value in took.items()))
    return {"cache": took["decoded"] / took["cached"]}


def row_decoding(folder: Path) -> dict[str, float]:
    figures = {}
    for codec in ("av1", "h264"):
        images = decoded_of(folder, codec, np.asarray)
        mine = alone = 0.0
        for number in range(NUM_ROUNDS * NUM_BATCHES):
            rows = draw(len(images), number)
            mine += seconds(images, [rows])
            alone += seconds_of_av(folder / codec, images, rows)
        num = 2 * NUM_ROUNDS * NUM_BATCHES * BATCH_SIZE
        print(f"{codec}: {num / mine:.0f} frames/s a core, PyAV alone {num / alone:.0f}")
        figures[f"decoding {codec}"] = alone / mine
    return figures


CONTAINERS: dict[Path, Any] = {}


def seconds_of_av(folder: Path, images: DecodedPictures, rows: np.ndarray) -> float:
    """The same frames in the same order: seek, decode up to the frame, convert; files stay open."""
    started, found = time.perf_counter(), []
    ordered = sorted((camera, *images.places[row, camera].tolist()) for row in rows for camera in (0, 1))
    for camera, episode, _, time_ns in ordered:
        name = f"videos/observation.images.{('front', 'top')[camera]}/chunk-000/file-{episode:03d}.mp4"
        if folder / name not in CONTAINERS:
            CONTAINERS[folder / name] = av.open(str(folder / name))
            CONTAINERS[folder / name].streams.video[0].codec_context.thread_count = 1
        container = CONTAINERS[folder / name]
        stream = container.streams.video[0]
        container.seek(round(time_ns / NS_PER_S / stream.time_base), stream=stream)
        wanted_s = time_ns / NS_PER_S - 0.5 / FPS
        frame = next(frame for frame in container.decode(stream) if frame.pts * stream.time_base > wanted_s)
        found.append(frame.to_ndarray(format="rgb24"))
    took = time.perf_counter() - started
    shown = images.read(rows)
    order = sorted(range(2 * len(rows)), key=lambda i: (i % 2, *images.places[rows[i // 2], i % 2].tolist()))
    assert all(np.array_equal(shown[i // 2, i % 2], image) for i, image in zip(order, found, strict=True))
    return took


def train(folder: Path, *overrides: str) -> tuple[float, list[dict[str, Any]]]:
    """One run: the most memory its process took, bytes, and what its steps came to."""
    places = f"run_dir={folder / 'run'}", f"output_dir={folder / 'policy'}"
    line = [sys.executable, "-m", "vla_ros.cli", "train", "--config", "tiny_touch", *places, *overrides]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(line, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit((folder / "log").read_text())
    steps = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return 1024.0 * usage.ru_maxrss, steps


def row_waiting(folder: Path) -> dict[str, float]:
    make_bags(folder / "few", load_robot(robot_file("tabletop")), 3, MEMORY_ROWS)
    figures = {}
    for cache in ("cache", "off"):
        (folder / f"waiting_{cache}").mkdir()
        where = folder / "cache" if cache == "cache" else cache
        _, steps = train(folder / f"waiting_{cache}", *WAITING, f"bags={folder / 'few'}", f"cache={where}")
        figures[cache] = float(np.median([step["waiting_share"] for step in steps[NUM_WARM:]]))
        rate = np.median([step["samples_per_s"] for step in steps[NUM_WARM:]])
        print(f"cache={cache}: {rate:.0f} samples/s, waiting {figures[cache]:.2%}")
    return {"waiting": figures["cache"]}


def row_memory(folder: Path) -> dict[str, float]:
    robot, figures = load_robot(robot_file("tabletop")), {}
    for kind in ("bags", "sets"):
        peaks = []
        for times in (1, MORE):
            own = folder / f"{kind}_{times}"
            own.mkdir()
            if kind == "bags":
                make_bags(own / "bags", robot, times * MEMORY_EPISODES, MEMORY_ROWS)
                given = [f"bags={own / 'bags'}"]
            else:
                make_set(own / "set", robot, "h264", times * MEMORY_EPISODES, MEMORY_ROWS)
                given = [f"+sets=[{{path: {own / 'set'}}}]", "episodes=marker"]
            peak, _ = train(own, *SMALL, *given)
            peaks.append(peak)
            num_bytes = sum(file.stat().st_size for file in (own / "vla_ros_cache").glob("*/pictures"))
            print(f"{kind}: {num_bytes / 1e6:.0f} MB of pictures, peak {peak / 1e6:.0f} MB")
        figures[f"memory, {kind}"] = peaks[1] / peaks[0]
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rows: dict[str, Callable[[Path], dict[str, float]]] = {
        "cache": row_cache, "decoding": row_decoding, "waiting": row_waiting, "memory": row_memory,
    }  # fmt: skip
    parser.add_argument("--row", nargs="+", choices=rows, default=tuple(rows), help="which to measure (default all)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for row in args.row:
            figures |= rows[row](Path(folder))
    is_good = True
    for name, value in figures.items():
        kind = name.partition(",")[0].partition(" ")[0]
        limit, is_least = (AT_LEAST[kind], True) if kind in AT_LEAST else (AT_MOST[kind], False)
        is_good &= value >= limit if is_least else value <= limit
        print(f"{name}: {value:.3g} ({'at least' if is_least else 'at most'} {limit:g})")
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
