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
    from vla_ros.policies.pi.released.case import TOLERANCE, TOLERANCES, beyond_tolerance, compare, read_case
    from vla_ros.policies.pi.released.weights import load_released

    folder = Path(args.case_dir)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give one with run/, vlm/config.json and case.safetensors")
    case = read_case(folder / "case.safetensors")
    released = load_released(folder / "run", folder / "vlm" / "config.json")
    differences = compare(released.policy, case)
    width = max(map(len, differences))
    allowed = {name: TOLERANCES.get(name, TOLERANCE) for name in differences}
    beyond = beyond_tolerance(differences)
    for name, difference in differences.items():
        verdict = f"  above the tolerance, {allowed[name]:.0e}" if name in beyond else ""
        print(f"{name:{width}}  {difference:.2e}{verdict}")
    worst = max(differences, key=lambda name: differences[name] / allowed[name])
    verdict = "NO parity" if beyond else "parity"
    print(f"{verdict}: largest {differences[worst]:.2e} ({worst}), allowed {allowed[worst]:.0e}")
    finite = {name: value if math.isfinite(value) else None for name, value in differences.items()}  # JSON knows no inf
    write_json(args.json, {"passed": not beyond, "tolerance": allowed, "largest_difference": finite})
    return 1 if beyond else 0
