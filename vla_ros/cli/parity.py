"""Compare a released checkpoint with what its reference computed.

The largest absolute difference of every recorded output is printed; one above the tolerance is exit code 1.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from vla_ros.cli.output import write_json

EXTRAS = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``vla_ros parity CASE_DIR``."""
    parser.add_argument(
        "case_dir", metavar="CASE_DIR", help="folder with run/ (the checkpoint), vlm/config.json and case.safetensors"
    )


def run(args: argparse.Namespace) -> int:
    """Import, run and compare."""
    from vla_ros.policies.pi.released.case import TOLERANCE, compare, read_case
    from vla_ros.policies.pi.released.weights import load_released

    folder = Path(args.case_dir)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give one with run/, vlm/config.json and case.safetensors")
    case = read_case(folder / "case.safetensors")
    released = load_released(folder / "run", folder / "vlm" / "config.json")
    differences = compare(released.policy, case)
    width = max(map(len, differences))
    for name, difference in differences.items():
        verdict = "" if difference <= TOLERANCE else "  above the tolerance"
        print(f"{name:{width}}  {difference:.2e}{verdict}")
    worst = max(differences, key=differences.__getitem__)
    passed = differences[worst] <= TOLERANCE
    print(f"{'parity' if passed else 'NO parity'}: largest {differences[worst]:.2e} ({worst}), allowed {TOLERANCE:.0e}")
    finite = {name: value if math.isfinite(value) else None for name, value in differences.items()}  # JSON knows no inf
    write_json(args.json, {"passed": passed, "tolerance": TOLERANCE, "largest_difference": finite})
    return 0 if passed else 1
