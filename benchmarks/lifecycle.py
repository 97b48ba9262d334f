"""Takes a policy node through its life again and again, in one process: does a transition ever hang, does memory grow?

A cycle is configure, activate, deactivate, cleanup. The leak is the slope of a line through the resident memory of the
cycles after the first fifth, in which caches fill. Exits 1 above ``--max-kb``, or where a cycle takes longer than
``--patience-s``, after the stacks of all threads.

    python benchmarks/lifecycle.py [--cycles 10000] [--json FILE]
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import time
from pathlib import Path

import numpy as np
from reaction import use_own_domain
from resident import resident_bytes

WARM_UP_SHARE = 0.2
REPORT_PERIOD_S = 30.0
TRANSITIONS = ("configure", "activate", "deactivate", "cleanup")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cycles", type=int, default=10_000, metavar="N", help="how many (default 10000)")
    parser.add_argument("--seconds", type=float, default=float("inf"), metavar="S", help="stop after so long")
    parser.add_argument("--max-kb", type=float, default=10.0, metavar="KB", help="exit 1 above it (default 10 a cycle)")
    parser.add_argument("--patience-s", type=float, default=20.0, metavar="S", help="a longer cycle is a hang")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    args = parser.parse_args()
    use_own_domain()
    figures = live(args.cycles, args.seconds, args.patience_s)
    print(json.dumps(figures, indent=1))
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if figures["leak_kb"] <= args.max_kb else 1


def live(num_cycles: int, limit_s: float, patience_s: float) -> dict[str, float]:
    """The figures of so many cycles, or of as many as ``limit_s`` allows."""
    from vla_ros.nodes.policy_node import PolicyNode
    from vla_ros.ros.signals import ros_running

    with ros_running(["--ros-args", "--log-level", "warn"]):
        node = PolicyNode()
        resident, started_s = [resident_bytes(os.getpid())], time.monotonic()
        told_s, longest_s = started_s, 0.0
        while len(resident) <= num_cycles and time.monotonic() - started_s < limit_s:
            begun_s = time.monotonic()
            faulthandler.dump_traceback_later(patience_s, exit=True)
            for transition in TRANSITIONS:
                outcome = getattr(node, f"trigger_{transition}")()
                assert outcome.name == "SUCCESS", f"{transition} of cycle {len(resident)}: {outcome} {node.failure}"
            faulthandler.cancel_dump_traceback_later()
            now_s = time.monotonic()
            longest_s = max(longest_s, now_s - begun_s)
            resident.append(resident_bytes(os.getpid()))
            if now_s - told_s > REPORT_PERIOD_S:
                told_s = now_s
                print(f"{len(resident) - 1} cycles, {resident[-1] / 1e6:.1f} MB", flush=True)
        node.close()
        node.destroy_node()
    return {
        "cycles": len(resident) - 1,
        "seconds": round(now_s - started_s, 1),
        "longest_cycle_s": round(longest_s, 3),
        "first_mb": round(resident[1] / 1e6, 1),
        "last_mb": round(resident[-1] / 1e6, 1),
        "leak_kb": round(leak_kb(resident), 2),
    }


def leak_kb(resident_bytes_by_cycle: list[int]) -> float:
    """Growth of a cycle, 1000 bytes, by least squares over those after the warm-up."""
    kept = np.array(resident_bytes_by_cycle[round(WARM_UP_SHARE * len(resident_bytes_by_cycle)) :], np.float64)
    return float(np.polyfit(np.arange(len(kept)), kept, 1)[0] / 1e3)


if __name__ == "__main__":
    raise SystemExit(main())
