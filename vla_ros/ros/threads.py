"""Threads that have to end: waited for with a limit, because one that never does must not take the node with it."""

from __future__ import annotations

import threading

from rclpy.logging import get_logger

LIMIT_S = 5.0


def ended(thread: threading.Thread) -> bool:
    """Wait for a thread, which may never have been started; False, and a line in the log, where it takes too long."""
    if thread is threading.current_thread() or not thread.is_alive():
        return True
    thread.join(LIMIT_S)
    if thread.is_alive():
        get_logger("threads").error(f"thread '{thread.name}' has not ended in {LIMIT_S:g} s; it is left behind")
    return not thread.is_alive()
