"""Success of the demo against the model's delay: the same scenes for every strategy and delay, and the paired difference
from no delay with its 95 % interval (bootstrap over scenes). Exits 1 where ``--strategy``'s first falls too far below.

    python bench/delays.py [--episodes 100] [--seed 0] [--strategies rtc latest ensemble] [--delays-ms 0 100 200 300]

Each combination is one run of ``vla_ros demo``; those already in ``--out`` are not run again, so that it can be continued.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

MAX_POINTS_BELOW = 5.0
NUM_RESAMPLES = 10_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=100, metavar="N", help="scenes of each run (default 100)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the first scene (default 0)")
    parser.add_argument("--policy", default="tiny_touch", metavar="DIR", help="policy directory (default tiny_touch)")
    parser.add_argument("--strategies", nargs="+", default=["rtc", "latest", "ensemble"], metavar="NAME")
    parser.add_argument("--delays-ms", nargs="+", type=float, default=[0.0, 100.0, 200.0, 300.0], metavar="MS")
    parser.add_argument("--out", default="outputs/delays", metavar="DIR", help="for the runs (outputs/delays)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    args = parser.parse_args()
    if args.episodes < 1 or args.delays_ms[0] != 0.0:
        parser.error("expected at least one episode, and 0 as the first delay, which the others are compared with")
    rows = []
    for strategy in args.strategies:
        outcomes = {delay_ms: run_demo(args, strategy, delay_ms) for delay_ms in args.delays_ms}
        for delay_ms, successes in outcomes.items():
            rows.append({"strategy": strategy, "delay_ms": delay_ms, **compare(successes, outcomes[0.0])})
    print_table(rows, args.episodes)
    if args.json:
        Path(args.json).write_text(json.dumps({"episodes": args.episodes, "seed": args.seed, "rows": rows}, indent=1) + "\n")
    worst = min(row["difference"] for row in rows if row["strategy"] == args.strategies[0])
    return 0 if worst >= -MAX_POINTS_BELOW else 1


def run_demo(args: argparse.Namespace, strategy: str, delay_ms: float) -> np.ndarray:
    """Which scenes succeeded, [episodes]."""
    folder = Path(args.out) / f"{Path(args.policy).name}_{strategy}_{delay_ms:g}ms_{args.seed}_{args.episodes}"
    result = folder / "demo.json"
    if not result.is_file():
        print(f"{strategy}, {delay_ms:g} ms ...", flush=True)
        command = ["--episodes", args.episodes, "--seed", args.seed, "--policy", args.policy, "--strategy", strategy]
        command += ["--inference-delay-ms", delay_ms, "--min-success", 0, "--out", folder, "--json", result]
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "demo.log").open("wb") as log:
            subprocess.run([sys.executable, "-m", "vla_ros.cli", "demo", *map(str, command)], stdout=log, check=True)
    return np.array([episode["success"] for episode in json.loads(result.read_text())["episodes"]], dtype=float)


def compare(successes: np.ndarray, without_delay: np.ndarray) -> dict[str, float]:
    """Success in %, and the difference from no delay in points with its interval."""
    differences = 100 * (successes - without_delay)
    rng = np.random.default_rng(0)
    resampled = differences[rng.integers(len(differences), size=(NUM_RESAMPLES, len(differences)))].mean(1)
    low, high = np.percentile(resampled, (2.5, 97.5))
    return {
        "success": float(100 * successes.mean()),
        "difference": float(differences.mean()),
        "low": float(low),
        "high": float(high),
    }


def print_table(rows: list[dict], num_episodes: int) -> None:
    print(f"\n{num_episodes} scenes each\n  strategy    delay    success   from no delay, points (95 %)")
    for row in rows:
        interval = f"{row['difference']:+6.1f}  ({row['low']:+.1f} to {row['high']:+.1f})"
        print(f"  {row['strategy']:<9}{row['delay_ms']:>5g} ms   {row['success']:5.1f} %   {interval}")


if __name__ == "__main__":
    sys.exit(main())
