"""Compare a released checkpoint with what its reference computed.

The largest absolute difference of every recorded output is printed; one above the tolerance is exit code 1.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from vla_ros.cli.output import Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``vla_ros parity CASE_DIR``."""
    parser.add_argument(
        "case_dir",
        metavar="CASE_DIR",
        help="folder with run/ (the checkpoint), vlm/config.json and case.safetensors; or with checkpoint/ (LeRobot's "
        "or openpi's), tokenizer/ and case*.safetensors",
    )


def run(args: argparse.Namespace) -> Outcome:
    """Import, run and compare."""
    from vla_ros.policies.importing.parity import compare_case_dir, is_case_dir
    from vla_ros.policies.pi.released.case import compare_run

    folder = Path(args.case_dir)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give one with a checkpoint and case.safetensors")
    differences = compare_case_dir(folder) if is_case_dir(folder) else compare_run(folder)
    width = max(map(len, differences))
    for name, each in differences.items():
        verdict = f"  above the tolerance, {each.allowed:.0e}" if each.is_beyond else ""
        print(f"{name:{width}}  {each.largest:.2e}{verdict}")
    worst = max(differences, key=lambda name: _share(differences[name].largest, differences[name].allowed))
    beyond = any(each.is_beyond for each in differences.values())
    largest, allowed = differences[worst].largest, differences[worst].allowed
    print(f"{'NO parity' if beyond else 'parity'}: largest {largest:.2e} ({worst}), allowed {allowed:.0e}")
    found = {name: each.largest for name, each in differences.items()}
    finite = {name: value if math.isfinite(value) else None for name, value in found.items()}  # JSON knows no inf
    tolerance = {name: each.allowed for name, each in differences.items()}
    return Outcome({"passed": not beyond, "tolerance": tolerance, "largest_difference": finite}, not beyond)


def _share(largest: float, allowed: float) -> float:
    """Of what is allowed; what must be exact and isn't comes first."""
    return largest / allowed if allowed else math.inf * largest if largest else 0.0
