"""One run in a folder at a time."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vla_ros.strict import explained, quoted

LOCK = "lock"  # in a run's folder
_MAX_BYTES = 200


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Inside its ``with``, no other process trains in ``run_dir``, which is made where it is missing.

    The lock is the system's and belongs to this process: a killed one leaves none, whatever the file says.

    Raises ValueError, naming the process that has it.
    """
    with explained(f"run_dir {run_dir}: {LOCK} can't be locked: ", OSError, after="; give another run_dir"):
        run_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(run_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    try:
        _take(descriptor, run_dir)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, run_dir: Path) -> None:
    with explained(f"run_dir {run_dir}: {LOCK} can't be locked: ", OSError, after="; give another run_dir"):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            who = quoted(os.pread(descriptor, _MAX_BYTES, 0).decode(errors="replace").strip()) or "another process"
            fix = "wait until it ends, end it, or give another run_dir"
            raise ValueError(f"run_dir {run_dir}: {who} trains in it; expected one run in a folder: {fix}") from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
