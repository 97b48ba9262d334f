"""How fast a bag becomes observations, on one core, and how much memory that and a replay take.

Bags of three 640x480 cameras at 30 Hz, 200 joint states a second and a task, page-cached: raw images as MCAP and as
sqlite3, JPEGs as MCAP and as sqlite3. Every set of frames becomes one observation with its pixels, by the code of a
replay and of training. One further MCAP bag of 20 GB, sparse on the disk, is read for its memory alone; another of
4 GB is replayed with a policy that costs nothing. Exits 1 below ``--min-raw`` or ``--min-jpeg`` times real time, above
``--max-rss-mb``, and where a replay's second half takes ``MAX_GROWTH_MB`` more memory than its first.

    python benchmarks/reading.py [--seconds 10] [--big-gb 20] [--replay-gb 4] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from reading_bags import (
    CAMERA_RATE_HZ,
    HEIGHT,
    NS_PER_S,
    NUM_CAMERAS,
    NUM_JOINTS,
    WIDTH,
    make_robot,
    write_bag,
    write_sparse_bag,
)
from rosbags.rosbag2 import StoragePlugin

from vla_ros.bags.read import BagReader
from vla_ros.observing.observe import Observer
from vla_ros.policies.modules.vlm_bridge.inputs import PolicyInput
from vla_ros.policies.pi.request import PiRequest
from vla_ros.recordings.feed import Feed, observe_event
from vla_ros.robot import RobotConfig
from vla_ros.types import ActionChunk, ChunkShape, Continuation, Observation

MAX_GROWTH_MB = 100.0
REPLAY_LATENCY_MS = 100.0


@dataclass(frozen=True)
class Reading:
    """One bag read once: how long it lasts, how long reading took by the clock and of the processor, the observations
    in it, and the peak of memory."""

    recorded_s: float
    read_s: float
    cpu_s: float
    num_observations: int
    peak_rss_mb: float

    @property
    def times_real_time(self) -> float:
        return self.recorded_s / self.read_s


@dataclass(frozen=True)
class Replaying(Reading):
    """One bag replayed; observations are those that were answered, and growth is from the first half of the bag to the
    second, of the most memory held in either."""

    growth_mb: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="of each bag (default 10)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="best of how many (default 3)")
    parser.add_argument("--big-gb", type=float, default=20.0, metavar="GB", help="size of the big bag (default 20)")
    parser.add_argument("--replay-gb", type=float, default=4.0, metavar="GB", help="of the replayed bag (default 4)")
    parser.add_argument("--min-raw", type=float, default=10.0, metavar="X", help="raw: exit 1 below it (default 10)")
    parser.add_argument("--min-jpeg", type=float, default=5.0, metavar="X", help="JPEG: exit 1 below it (default 5)")
    parser.add_argument("--max-rss-mb", type=float, default=1000.0, metavar="MB", help="exit 1 above it (default 1000)")
    parser.add_argument("--folder", metavar="DIR", help="where the bags are made for a while (default: TMPDIR)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    args = parser.parse_args()
    figures: dict[str, dict[str, float]] = {}
    is_good = True
    for storage in (StoragePlugin.MCAP, StoragePlugin.SQLITE3):
        for is_jpeg in (False, True):
            name = f"{storage.name.lower()} {'JPEG' if is_jpeg else 'raw'}"
            least = args.min_jpeg if is_jpeg else args.min_raw
            with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                bag = Path(folder) / "bag"
                write_bag(bag, storage, is_jpeg, args.seconds)
                read = min((read_apart(bag, is_jpeg) for _ in range(args.repeats)), key=lambda reading: reading.read_s)
            is_good &= read.times_real_time >= least and read.peak_rss_mb <= args.max_rss_mb
            figures[name] = {**asdict(read), "times_real_time": read.times_real_time, "at_least": least}
            print(f"{name:<13} {read.times_real_time:6.1f} x real time (at least {least:g}), {_rest(read)}", flush=True)
    if args.big_gb:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            path = write_sparse_bag(Path(folder) / "big.mcap", round(args.big_gb * 1e9))
            size_gb, read = path.stat().st_size / 1e9, read_apart(path, is_jpeg=False)
        is_good &= read.peak_rss_mb <= args.max_rss_mb
        figures["big"] = {**asdict(read), "size_gb": size_gb, "at_most_mb": args.max_rss_mb}
        print(f"{size_gb:.1f} GB of MCAP read in {read.read_s:.1f} s, {_rest(read)} (at most {args.max_rss_mb:g})")
    if args.replay_gb:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            path = write_sparse_bag(Path(folder) / "long.mcap", round(args.replay_gb * 1e9))
            size_gb, found = path.stat().st_size / 1e9, apart(replay_whole, path)
        is_good &= found.peak_rss_mb <= args.max_rss_mb and found.growth_mb <= MAX_GROWTH_MB
        limits = {"at_most_mb": args.max_rss_mb, "growth_at_most_mb": MAX_GROWTH_MB}
        figures["replay"] = {**asdict(found), "size_gb": size_gb, **limits}
        print(
            f"{size_gb:.1f} GB of MCAP replayed in {found.read_s:.1f} s, {_rest(found)} (at most {args.max_rss_mb:g}), "
            f"{found.growth_mb:+.0f} MB in its second half (at most {MAX_GROWTH_MB:g})"
        )
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if is_good else 1


def _rest(read: Reading) -> str:
    by_cpu = read.recorded_s / read.cpu_s
    return f"{by_cpu:.1f} x by processor time, {read.num_observations} observations, peak RSS {read.peak_rss_mb:.0f} MB"


def read_apart(bag: Path, is_jpeg: bool) -> Reading:
    return apart(read_bag, bag, is_jpeg)


def apart(work: Callable, *arguments: object) -> Reading:
    """In a fresh process: the peak of memory is a process's, for all its life."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def read_bag(bag: Path, is_jpeg: bool) -> Reading:
    """Every observation of a bag, as a replay and training make them."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    robot = make_robot(is_jpeg)
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    feed = Feed(BagReader(bag), robot)
    stamps_ns, num_pixels = [], 0
    for observation in observations(feed, robot):
        num_pixels += sum(image.size for image in observation.images.values())
        stamps_ns.append(observation.stamp_ns)
    read_s, cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
    problems = [line for line in feed.problems if "is not in the bag" not in line and "no index" not in line]
    assert not problems, problems
    assert num_pixels == len(stamps_ns) * NUM_CAMERAS * HEIGHT * WIDTH * 3
    recorded_s = (stamps_ns[-1] - stamps_ns[0]) / NS_PER_S + 1 / CAMERA_RATE_HZ
    return Reading(recorded_s, read_s, cpu_s, len(stamps_ns), peak_rss_mb())


def observations(feed: Feed, robot: RobotConfig) -> Iterator[Observation]:
    observer = Observer(robot)
    for event in feed:
        found = observe_event(observer, event)
        if found is not None:
            yield found.observation()


def replay_whole(bag: Path) -> Replaying:
    """A bag through the whole node, a policy that costs nothing driving all along."""
    from vla_ros.replay.offline import ReplayPolicy
    from vla_ros.replay.run import replay_bag
    from vla_ros.replay.settings import ReplaySettings

    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    held: list[tuple[float, float]] = []

    def note(passed_s: float, length_s: float | None) -> None:
        if not held or passed_s - held[-1][0] >= 0.25:
            held.append((passed_s, rss_mb()))

    policy = ReplayPolicy("still", StillProcessor(), lambda request: np.zeros((StillProcessor.chunk_shape.horizon, 6)))
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    found = replay_bag(bag, make_robot(False), policy, ReplaySettings(latency_ms=REPLAY_LATENCY_MS), progress=note)
    seconds, cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
    recorded_s = (found.end_ns - found.start_ns) / NS_PER_S
    assert len(found.chunks) > recorded_s, found.events[:3]
    sizes_mb = [size_mb for _, size_mb in held]
    half = len(sizes_mb) // 2
    growth_mb = max(sizes_mb[half:]) - max(sizes_mb[:half])
    return Replaying(recorded_s, seconds, cpu_s, len(found.chunks), peak_rss_mb(), growth_mb)


class StillProcessor:
    """Of a policy that looks at a few pixels and wants the joints where they are."""

    chunk_shape = ChunkShape(10, 0.1, 1.0)
    joint_names, camera_names = make_robot(False).joint_names, make_robot(False).camera_names
    action_dim, digest = NUM_JOINTS, "none"

    def bind(self, limits: object) -> None:
        """Nothing depends on them."""

    def process(self, observation: Observation, continuation: Continuation | None = None) -> PiRequest:
        pixels = np.concatenate([image[:: HEIGHT // 8, :: WIDTH // 8] for image in observation.images.values()])
        tokens, mask = np.ones(4, np.int64), np.ones((4, 4), bool)
        grid = ((1, 8, 8),) * NUM_CAMERAS
        given = PolicyInput(pixels.reshape(-1, 3), tokens, tokens > 0, mask, tokens[None], None, grid)
        state = observation.joint_positions.astype(np.float32)[None]
        return PiRequest(observation.stamp_ns, given, state, np.zeros((self.chunk_shape.horizon, 6), np.float32))

    def decode(self, actions: np.ndarray, observation: Observation) -> ActionChunk:
        return ActionChunk(observation.stamp_ns, self.chunk_shape.dt_s, self.chunk_shape.offset, actions)


def peak_rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def rss_mb() -> float:
    num_pages = int(Path("/proc/self/statm").read_text().split()[1])
    return num_pages * resource.getpagesize() / 1e6


if __name__ == "__main__":
    sys.exit(main())
