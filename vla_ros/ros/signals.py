"""Signals that end a node's process at a moment of its own choosing."""

from __future__ import annotations

import signal
import threading

ENDING = (signal.SIGINT, signal.SIGTERM)


def stop_on_signals(*others: signal.Signals) -> threading.Event:
    """Set by SIGINT, SIGTERM and ``others``; call it first of all, so that none ends a node in the middle of its start.

    A second signal, which a terminal under launch sends, too, does no harm.
    """
    stopping = threading.Event()
    for number in (*ENDING, *others):
        signal.signal(number, lambda *_: stopping.set())
    return stopping
