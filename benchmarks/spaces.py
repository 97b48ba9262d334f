"""Spaces on one core: round trips of every component, the time of a chunk of poses, and paths that are hard for an arm.
Exits 1 where one is worse than wanted.

    python benchmarks/spaces.py [--cases 10000] [--paths 1000] [--chunks 200] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
from space_cases import PATHS, chunk_times_ms, hard_paths, round_trip

from vla_ros.spaces.space import COMPONENTS

MAX_P50_MS = 10.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000, metavar="N", help="round trips of each (default 10000)")
    parser.add_argument("--paths", type=int, default=1000, metavar="N", help="hard paths (default 1000)")
    parser.add_argument("--chunks", type=int, default=200, metavar="N", help="chunks that are timed (default 200)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    args = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    trips = {kind: round_trip(kind, args.cases) for kind in COMPONENTS}
    for kind, trip in trips.items():
        pose = f", pose {trip.metres:.1e} m and {trip.radians:.1e} rad" if kind == "pose" else ""
        print(f"{kind}: {args.cases} round trips, joints within {trip.joints:.1e}{pose}")
    times_ms = chunk_times_ms(args.chunks)
    p50_ms, p99_ms = np.quantile(times_ms, (0.5, 0.99))
    print(f"50 pose deltas to 7 joints on one core: p50 {p50_ms:.2f} ms, p99 {p99_ms:.2f} ms")
    paths = list(hard_paths(args.paths))
    bad = Counter(path.kind for path in paths if not path.is_good)
    for kind in PATHS:
        of_kind = [path for path in paths if path.kind == kind]
        num_missed, num_told = (
            sum(values) for values in zip(*((p.is_missed, p.is_reported) for p in of_kind), strict=True)
        )
        worst = max((path.beyond_limits for path in of_kind), default=0.0), max(path.beyond_speed for path in of_kind)
        print(
            f"{kind}: {len(of_kind)} paths, {num_missed} beyond reach, {num_told} told; beyond limits and speeds by "
            f"{max(worst[0], 0.0):.1e} and {max(worst[1], 0.0):.1e} rad; {bad[kind]} bad"
        )
    if args.json:
        figures = {"round_trips": {kind: asdict(trip) for kind, trip in trips.items()}, "p50_ms": p50_ms}
        Path(args.json).write_text(json.dumps(figures | {"p99_ms": p99_ms, "bad_paths": bad}, indent=1) + "\n")
    return 0 if all(trip.is_good for trip in trips.values()) and p50_ms <= MAX_P50_MS and not bad else 1


if __name__ == "__main__":
    sys.exit(main())
