"""Success of the demo against the model's delay: the same scenes for every strategy and delay, and the paired
difference from no delay with its 95 % interval (bootstrap over scenes). Exits 1 where ``--strategies``' first falls too
far below.

    python benchmarks/delays.py [--episodes 100] [--seed 0] [--strategies rtc latest ensemble]
                                [--delays-ms 0 100 200 300]

Time is simulated, and an answer takes ``--latency-ms`` and the delay; with ``--live`` each combination is one run of
``vla_ros demo`` on the live nodes. Strategy ``rtc-guided`` is rtc by gradients even where the policy was trained with
frozen actions. ``--against`` compares two policies. What is in ``--out`` already is not run again, so that a
measurement can be continued.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rollouts import Rollout, run_rollouts

MAX_POINTS_BELOW = 5.0
NUM_RESAMPLES = 10_000
GUIDED = "rtc-guided"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=100, metavar="N", help="scenes of each run (default 100)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the first scene (default 0)")
    parser.add_argument("--policy", default="tiny_touch", metavar="DIR", help="policy directory (default tiny_touch)")
    parser.add_argument("--against", metavar="DIR", help="another policy in the same scenes, without a delay")
    parser.add_argument("--strategies", nargs="+", default=["rtc", GUIDED, "latest", "ensemble"], metavar="NAME")
    parser.add_argument("--delays-ms", nargs="+", type=float, default=[0.0, 100.0, 200.0, 300.0], metavar="MS")
    parser.add_argument("--latency-ms", type=float, default=60.0, metavar="MS", help="without a delay (default 60)")
    parser.add_argument("--live", action="store_true", help="on the live nodes instead, in real time")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="scenes at once (default 2)")
    parser.add_argument("--out", default="outputs/delays", metavar="DIR", help="for the runs (outputs/delays)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    args = parser.parse_args()
    if args.episodes < 1 or args.delays_ms[0] != 0.0:
        parser.error("expected at least one episode, and 0 as the first delay, which the others are compared with")
    if args.live and GUIDED in args.strategies:
        parser.error(f"the live nodes know no {GUIDED}; name the strategies")
    rows, against = [], []
    for strategy in args.strategies:
        outcomes = {delay_ms: successes(args, strategy, delay_ms) for delay_ms in args.delays_ms}
        if args.against:
            other = successes(argparse.Namespace(**{**vars(args), "policy": args.against}), strategy, 0.0)
            against.append({"strategy": strategy, **compare(outcomes[0.0], other)})
        for delay_ms, succeeded in outcomes.items():
            rows.append({"strategy": strategy, "delay_ms": delay_ms, **compare(succeeded, outcomes[0.0])})
    print_table(rows, args.episodes)
    for row in against:
        print(f"  {row['strategy']:<11} without delay, from {args.against}: {interval_of(row)} points")
    if args.json:
        figures = {"episodes": args.episodes, "seed": args.seed, "live": args.live, "rows": rows, "against": against}
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n")
    worst = min(row["difference"] for row in rows if row["strategy"] == args.strategies[0])
    return 0 if worst >= -MAX_POINTS_BELOW else 1


def successes(args: argparse.Namespace, strategy: str, delay_ms: float) -> np.ndarray:
    """Which scenes succeeded, [episodes]."""
    kind = "live" if args.live else f"simulated{args.latency_ms:g}"
    name = f"{Path(args.policy).name}_{strategy}_{delay_ms:g}ms_{args.seed}_{args.episodes}_{kind}"
    result = Path(args.out) / name / "demo.json"
    if not result.is_file():
        print(f"{strategy}, {delay_ms:g} ms ...", flush=True)
        result.parent.mkdir(parents=True, exist_ok=True)
        (run_demo if args.live else simulate)(args, strategy, delay_ms, result)
    return np.array([episode["success"] for episode in json.loads(result.read_text())["episodes"]], dtype=float)


def simulate(args: argparse.Namespace, strategy: str, delay_ms: float, result: Path) -> None:
    latency_ms, is_guided = args.latency_ms + delay_ms, strategy == GUIDED
    rollouts = [
        Rollout(args.policy, "rtc" if is_guided else strategy, latency_ms, seed, is_guided)
        for seed in range(args.seed, args.seed + args.episodes)
    ]
    episodes = [
        {**asdict(outcome), "seed": outcome.rollout.seed, "success": outcome.status == "success"}
        for outcome in run_rollouts(rollouts, args.workers)
    ]
    result.write_text(json.dumps({"episodes": episodes}, indent=1) + "\n")


def run_demo(args: argparse.Namespace, strategy: str, delay_ms: float, result: Path) -> None:
    command = ["--episodes", args.episodes, "--seed", args.seed, "--policy", args.policy, "--strategy", strategy]
    command += ["--inference-delay-ms", delay_ms, "--min-success", 0, "--out", result.parent, "--json", result]
    with (result.parent / "demo.log").open("wb") as log:
        subprocess.run([sys.executable, "-m", "vla_ros.cli", "demo", *map(str, command)], stdout=log, check=True)


def compare(successes: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """Success in %, and the difference from others in the same scenes in points with its interval."""
    differences = 100 * (successes - others)
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
    print(f"\n{num_episodes} scenes each\n  strategy      delay    success   from no delay, points (95 %)")
    for row in rows:
        print(f"  {row['strategy']:<11}{row['delay_ms']:>5g} ms   {row['success']:5.1f} %   {interval_of(row)}")


def interval_of(row: dict[str, float]) -> str:
    """The difference and its interval."""
    return f"{row['difference']:+6.1f}  ({row['low']:+.1f} to {row['high']:+.1f})"


if __name__ == "__main__":
    sys.exit(main())
