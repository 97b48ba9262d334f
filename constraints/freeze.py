"""Print the constraints file of the environment that runs this: ``python constraints/freeze.py kilted``."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import distributions, version

NOT_PINNED = ("pip", "vla-ros", "wheel")


def pin(name: str, release: str) -> tuple[str, str]:
    """A normalised name and a version without its local tag (``+cpu``), which only some indexes have."""
    return re.sub(r"[-_.]+", "-", name).lower(), release.split("+")[0]


def installed() -> dict[str, str]:
    """What pip installed; the ROS wheels carry further metadata of packages that no index has."""
    by_pip = (d for d in distributions() if (d.read_text("INSTALLER") or "").strip() == "pip")
    pins = dict(pin(d.metadata["Name"], d.version) for d in by_pip)
    return {name: release for name, release in pins.items() if name not in NOT_PINNED}


def resolved_by_pypi(requirement: str) -> dict[str, str]:
    """What PyPI's own build of a package would install, whatever local builds pip is pointed at here."""
    command = [sys.executable, "-m", "pip", "--isolated", "install", "--quiet", "--dry-run", "--ignore-installed"]
    report = subprocess.run([*command, "--report", "-", requirement], check=True, stdout=subprocess.PIPE).stdout
    return dict(pin(item["metadata"]["name"], item["metadata"]["version"]) for item in json.loads(report)["install"])


def main(ros: str) -> None:
    pins = installed()
    extra = resolved_by_pypi("ray")
    cuda = resolved_by_pypi(f"torch=={pin('torch', version('torch'))[1]}")
    print(f"# Every package of an environment with ROS 2 {ros.capitalize()}, direct and transitive.")
    print(f"# Renewed by `make constraints ROS={ros}`.")
    for name, release in sorted(pins.items()):
        print(f"{name}=={release}")
    print("\n# Only with the extra ray.")
    for name, release in sorted(extra.items()):
        if name not in pins:
            print(f"{name}=={release}")
    print("\n# Only where pip takes PyPI's own build of torch, the one for CUDA.")
    for name, release in sorted(cuda.items()):
        if name not in pins:
            print(f"{name}=={release}")


if __name__ == "__main__":
    main(sys.argv[1])
