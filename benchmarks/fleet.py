"""Copies of the golden bag replayed by one process and by two, killed on the way, and on Ray with a node that is lost:

    python benchmarks/fleet.py [--bags 200] [--row ROW ...] [--json FILE]

Reports are compared byte for byte with that of one plain replay. Rows: `jobs` (two processes against one, both from
their start to the last result), `killed` (by SIGKILL when a quarter of the results is there, then started again), `ray`
(a local cluster of two nodes with a CPU each, one of which is killed then; needs the extra `ray`), `memory` (of merging
all results against a tenth of them). Exits 1 where a report differs, below 1.7 times with two processes, and where
merging ten times the bags takes more than 1.1 times the memory. Times mean something on a quiet machine with two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).resolve().parents[1] / "test" / "data" / "tabletop_touch"
REPORTS = ("report.html", "report.json")
MIN_SPEEDUP, MAX_MEMORY = 1.7, 1.1
TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class Ran:
    """A command that has ended well: how long it took, and its peak memory."""

    seconds: float
    peak_mb: float


class Fleet:
    """``num`` copies of the golden bag in ``folder``, and the report of one plain replay of them."""

    def __init__(self, folder: Path, num: int) -> None:
        self.folder, self.num = folder, num
        self.bags = [folder / "bags" / f"bag{i:04}" for i in range(num)]
        for bag in self.bags:
            shutil.copytree(GOLDEN, bag)
        self.one = run(*self.bags, "--out", folder / "one")

    def results(self, name: str) -> Path:
        return self.folder / name

    def options(self, name: str, *others: object) -> tuple[object, ...]:
        """Of a replay that is not judged."""
        return (*self.bags, "--results", self.results(name), "--shard", "1/1", *others)

    def is_equal(self, name: str) -> bool:
        """Whether the report of merged results is that of the plain replay."""
        out = self.folder / f"{name}-report"
        run("--merge", self.results(name), "--out", out)
        return all((out / file).read_bytes() == (self.folder / "one" / file).read_bytes() for file in REPORTS)

    def wait_for_results(self, name: str, num: int, is_running: Callable[[], bool]) -> None:
        started = time.monotonic()
        while len(list(self.results(name).glob("*.safetensors"))) < num:
            assert is_running() and time.monotonic() < started + TIMEOUT_S, "it ended, or hangs, before it was killed"
            time.sleep(0.1)


def command(*options: object) -> list[str]:
    return [sys.executable, "-m", "vla_ros.cli", "replay", *map(str, options)]


def run(*options: object) -> Ran:
    started = time.perf_counter()
    process = subprocess.Popen(command(*options), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{' '.join(process.args[:6])} ... ended with {process.returncode}"
    return Ran(time.perf_counter() - started, usage.ru_maxrss / 1024)


def jobs(fleet: Fleet) -> dict[str, Any]:
    one, two = (run(*fleet.options(f"jobs-{num}", "--jobs", num)) for num in (1, 2))
    return {
        "plain_s": fleet.one.seconds,
        "one_s": one.seconds,
        "two_s": two.seconds,
        "times_as_fast": one.seconds / two.seconds,
        "at_least": MIN_SPEEDUP,
        "is_equal": fleet.is_equal("jobs-1") and fleet.is_equal("jobs-2"),
        "is_good": one.seconds / two.seconds >= MIN_SPEEDUP,
    }


def killed(fleet: Fleet) -> dict[str, Any]:
    process = subprocess.Popen(command(*fleet.options("killed", "--jobs", 2)), stdout=subprocess.DEVNULL)
    fleet.wait_for_results("killed", fleet.num // 4, lambda: process.poll() is None)
    process.send_signal(signal.SIGKILL)
    process.wait()
    num_before = len(list(fleet.results("killed").glob("*.safetensors")))
    run(*fleet.options("killed", "--jobs", 2))
    return {"results_when_killed": num_before, "is_equal": fleet.is_equal("killed")}


def ray(fleet: Fleet) -> dict[str, Any]:
    with cluster() as (address, kill_node):
        process = subprocess.Popen(command(*fleet.options("ray", "--ray", address)), stdout=subprocess.DEVNULL)
        fleet.wait_for_results("ray", fleet.num // 4, lambda: process.poll() is None)
        kill_node()
        code = process.wait(TIMEOUT_S)
    num_results = len(list(fleet.results("ray").glob("*.safetensors")))
    is_whole = code == 0 and num_results == fleet.num
    return {"results": num_results, "of": fleet.num, "is_equal": is_whole and fleet.is_equal("ray")}


@contextmanager
def cluster() -> Iterator[tuple[str, Callable[[], None]]]:
    """A Ray cluster of a head that computes nothing and two nodes; gives its address, and what kills one of these."""
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [found.add_node(num_cpus=1) for _ in range(2)]
        found.wait_for_nodes()
        yield found.address, lambda: found.remove_node(nodes[0], allow_graceful=False)
    finally:
        found.shutdown()


def memory(fleet: Fleet) -> dict[str, Any]:
    """Results of a tenth of the bags, and of all, merged and reported in a process each."""
    few, all_bags = fleet.bags[: max(1, fleet.num // 10)], fleet.bags
    peaks = []
    for name, bags in (("few", few), ("all", all_bags)):
        results = fleet.results(f"memory-{name}")
        run(*bags, "--results", results, "--shard", "1/1", "--jobs", 2)
        peaks.append(run("--merge", results, "--out", fleet.folder / f"memory-{name}-report").peak_mb)
    ratio = peaks[1] / peaks[0]
    return {"bags": [len(few), len(all_bags)], "peak_mb": peaks, "ratio": ratio, "is_good": ratio <= MAX_MEMORY}


ROWS: dict[str, Callable[[Fleet], dict[str, Any]]] = {"jobs": jobs, "killed": killed, "ray": ray, "memory": memory}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bags", type=int, default=200, metavar="N", help="copies of the golden bag (default 200)")
    parser.add_argument("--row", action="append", choices=ROWS, help="measure this one (default: all)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where the copies lie for a while, 1 MB each")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    args = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        fleet = Fleet(Path(folder), args.bags)
        for name in args.row or ROWS:
            figures[name] = ROWS[name](fleet)
            print(f"{name}: {json.dumps(figures[name])}", flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if all(row.get("is_equal", True) and row.get("is_good", True) for row in figures.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
