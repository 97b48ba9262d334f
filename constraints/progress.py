"""What pip prints, short enough for a terminal and for a log: ``pip install ... | python constraints/progress.py``.

A line with the time for each large file, every 20 packages, and for what is built and unpacked.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Iterator

LARGE_MB = 20.0
EVERY = 20


def shortened(lines: Iterable[str]) -> Iterator[str]:
    """Of pip's lines those that somebody who waits wants to see."""
    num_found = 0
    for line in lines:
        if line.startswith("Collecting "):
            num_found += 1
            if num_found % EVERY == 0:
                yield f"  {num_found} packages found"
        elif found := re.match(r"\s*(?:Downloading|Using cached) (\S+) \(([\d.]+) MB\)", line):
            if float(found[2]) >= LARGE_MB:
                yield f"  {found[1].rpartition('/')[2]}: {found[2]} MB"
        elif line.startswith("Installing collected packages: "):
            yield f"  unpacking {line.count(',') + 1} packages"
        elif re.match(r"\s*Building wheel", line):
            yield "  " + line.strip()


if __name__ == "__main__":
    for shown in shortened(sys.stdin):
        print(time.strftime("%H:%M:%S"), shown, flush=True)
